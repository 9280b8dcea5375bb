package engine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/tarfs"
	"gantry/rawfile"
)

// archiver writes trees of files to a tar archive. The files may change meanwhile, by whoever runs in the container:
// each is opened once, as itself (O_PATH|O_NOFOLLOW), and everything is asked of that descriptor.
type archiver struct {
	ctx   context.Context
	tar   *tar.Writer
	links map[inode]string // the first name of files that have several
	mount uint64           // if not 0: what is mounted elsewhere is left out
	depth int
}

type inode struct{ device, number uint64 }

// maxDepth bounds the descriptors that a deep tree takes.
const maxDepth = 1000

// tree writes the file that a descriptor stands for, and everything below it, under a name.
func (a *archiver) tree(fd int, name string) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	elsewhere, err := a.elsewhere(fd)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	h, err := a.header(fd, name, &st)
	if h == nil || err != nil {
		return err
	}
	if elsewhere && h.Typeflag == tar.TypeReg {
		h.Size = 0
	}
	if h.Typeflag == tar.TypeReg && !elsewhere {
		return a.content(fd, h)
	}
	if err := a.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Typeflag != tar.TypeDir || elsewhere {
		return nil
	}
	return a.children(fd, name)
}

// children writes what is in a directory; "" is the top of the archive.
func (a *archiver) children(fd int, name string) error {
	if a.depth++; a.depth > maxDepth {
		return fmt.Errorf("%s: directories are more than %d deep", name, maxDepth)
	}
	defer func() { a.depth-- }()
	// Copying a file system of the kernel's own makes no sense, and may not end.
	if special, err := tarfs.MadeByKernel(fd); err != nil || special && a.depth > 1 {
		return err
	}
	names, err := list(fd)
	if err != nil {
		return fmt.Errorf("list %s: %w", name, err)
	}
	for _, base := range names {
		child, err := rawfile.RetryValue(func() (int, error) { return unix.Openat(fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
		if err == unix.ENOENT { // removed meanwhile
			continue
		}
		full := base
		if name != "" {
			full = strings.TrimSuffix(name, "/") + "/" + base
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", full, err)
		}
		err = a.tree(child, full)
		_ = unix.Close(child)
		if err != nil {
			return err
		}
	}
	return nil
}

// elsewhere tells that a file is on another mount, where only one is wanted.
func (a *archiver) elsewhere(fd int) (bool, error) {
	if a.mount == 0 {
		return false, nil
	}
	id, err := mountID(fd)
	return id != a.mount, err
}

func mountID(fd int) (uint64, error) {
	var stx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stx); err != nil {
		return 0, fmt.Errorf("ask for the mount of a file: %w", err)
	}
	return stx.Mnt_id, nil
}

// list returns the sorted names in the directory that a descriptor (O_PATH) stands for.
func list(fd int) ([]string, error) {
	dir, err := os.OpenFile(self(fd), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errno(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, errno(err)
}

// self is the name by which this process opens again what a descriptor stands for.
func self(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// errno drops a path of /proc/self/fd from an error: it says nothing to the reader.
func errno(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// header describes a file; nil for a socket, which no archive can hold.
func (a *archiver) header(fd int, name string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), Format: tar.FormatPAX,
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(name, "/")+"/"
	case unix.S_IFLNK:
		target, err := readLink(fd)
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", name, err)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, nil
	}
	if st.Nlink > 1 && h.Typeflag != tar.TypeDir {
		key := inode{st.Dev, st.Ino}
		if first, known := a.links[key]; known {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return h, nil
		}
		a.links[key] = name
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir {
		var value [256]byte
		if n, err := unix.Getxattr(self(fd), "security.capability", value[:]); err == nil { // most file systems and files have none
			h.PAXRecords = map[string]string{xattrRecord + "security.capability": string(value[:n])}
		}
	}
	return h, nil
}

// xattrRecord is how tar archives name extended attributes.
const xattrRecord = "SCHILY.xattr."

// content writes a regular file: as many bytes as it had when it was opened, whatever becomes of it.
func (a *archiver) content(fd int, h *tar.Header) error {
	f, err := os.OpenFile(self(fd), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", h.Name, errno(err))
	}
	defer f.Close()
	r, size, err := tarfs.Content(f, h.Size)
	if err != nil {
		return fmt.Errorf("read %s: %w", h.Name, errno(err))
	}
	h.Size = size
	if err := a.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	n, err := io.Copy(a.tar, r)
	if err == nil && n < size { // it was truncated: zeros, as tar(1) does
		_, err = io.CopyN(a.tar, zeros{}, size-n)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", h.Name, errno(err))
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
