// Package inroot opens paths as a process whose root is some directory would: no link leads out of it.
package inroot

import "golang.org/x/sys/unix"

// tries is how often an open is repeated that something renamed or mounted meanwhile has disturbed.
const tries = 1000

// Open opens a path below a directory's descriptor, links resolved as if that were "/" and those of /proc refused
// (RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS). The flags are those of open(2), to which O_CLOEXEC is added; resolve adds
// RESOLVE_… flags. A path with ".." is not opened while anything on the machine is renamed or mounted: the kernel says
// EAGAIN then, and it is tried again. The caller closes the descriptor. See openat2(2).
func Open(root int, path string, flags int, resolve uint64) (fd int, err error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve | unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range tries {
		if fd, err = unix.Openat2(root, "/"+path, how); err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}
