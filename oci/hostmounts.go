package oci

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// inHostMounts tells a container without a mount namespace: its root, bound to its own place, and what is mounted in there
// are in the caller's mount namespace, and stay there when it has ended. Nothing else of that namespace is changed; the
// process is held in its root by chroot(2) alone.
func (b *builder) inHostMounts() bool {
	_, listed := b.has(specs.MountNamespace)
	return !listed
}

// detachRoot takes back what a failed create of such a container has mounted. Before the root is attached, it fails.
func (b *builder) detachRoot() {
	if b.inHostMounts() && !b.dry {
		_ = unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", b.root.Num), unix.MNT_DETACH)
	}
}

// openFirstRoot opens the root of the container's first process, which setns(2) does not lead to.
func (b *builder) openFirstRoot(first *entrance) {
	b.add("open the container's root", unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str(first.dir+"/root"),
		spawn.Flags(unix.O_PATH|unix.O_CLOEXEC, "O_PATH|O_CLOEXEC")).Result = slotOldRoot
}

// enterFirstRoot goes there, if the process that was asked for it is still the container's.
func (b *builder) enterFirstRoot(first *entrance) {
	b.add("see that the container's first process is there", unix.SYS_PIDFD_SEND_SIGNAL, spawn.Desc(first.process), spawn.Int(0), spawn.Nil(), spawn.Int(0))
	b.add("go to the container's root", unix.SYS_FCHDIR, spawn.Of(slotOldRoot))
	b.add("walk paths from there", unix.SYS_CHROOT, spawn.Str("."))
	b.add("close the container's root", unix.SYS_CLOSE, spawn.Of(slotOldRoot))
}
