package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// whiteout hides what lower layers have, in overlay's own form: a device 0:0 in place of the name, or for all of a
// directory an attribute; see the kernel's filesystems/overlayfs, "whiteouts and opaque directories". What the same
// layer has under that name stays, before or after it in the stream (layer.md, "whiteouts").
func (u *unpacker) whiteout(parent int, base string) error {
	switch {
	case base == whiteoutOpaque:
		return u.makeOpaque(parent)
	case strings.HasPrefix(base, whiteoutMeta):
		return nil // bookkeeping of another storage driver
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errEscape
	}
	u.whiteouts = true
	err := unix.Mknodat(parent, hidden, unix.S_IFCHR, 0)
	if err != unix.EEXIST {
		return err
	}
	fd, err := rawfile.RetryValue(func() (int, error) {
		return unix.Openat(parent, hidden, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return nil // anything but a directory hides by being there
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: hidden, Err: err}
	}
	defer unix.Close(fd)
	return u.makeOpaque(fd)
}

// makeOpaque hides what lower layers have in a directory.
func (u *unpacker) makeOpaque(dir int) error {
	if err := unix.Fsetxattr(dir, opaqueAttribute, []byte("y"), 0); err != nil {
		return fmt.Errorf("make the directory opaque: %w", err)
	}
	u.opaques = true
	return nil
}

const opaqueAttribute = "trusted.overlay.opaque"

func isOpaque(dir string) bool {
	value := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, opaqueAttribute, value)
	return err == nil && n == 1 && value[0] == 'y'
}

// dropNeedless removes the whiteouts in and below opaque directories. They hide nothing, since no lower layer shows
// there; but a directory that overlay does not merge is listed as it is, and they would be seen in it.
func (u *unpacker) dropNeedless(root string) error {
	if !u.opaques || !u.whiteouts {
		return nil
	}
	within := "" // the opaque directory that the walk is in
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if within != "" && !strings.HasPrefix(path, within) {
			within = ""
		}
		if d.IsDir() {
			if within == "" && isOpaque(path) {
				within = path + "/"
			}
			return nil
		}
		if within == "" || d.Type()&fs.ModeCharDevice == 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Rdev == 0 {
			return os.Remove(path)
		}
		return nil
	})
}

// replaceByDir makes a directory in place of a whiteout or a file. Either hid what lower layers have there, and so
// does the directory.
func (u *unpacker) replaceByDir(parent int, base string, mode uint32) error {
	if err := u.remove(parent, base); err != nil {
		return err
	}
	if err := unix.Mkdirat(parent, base, mode); err != nil {
		return err
	}
	fd, err := rawfile.RetryValue(func() (int, error) {
		return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return u.makeOpaque(fd)
}

// remove makes way for an entry: a later one of a name replaces the earlier.
func (u *unpacker) remove(parent int, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	if err == unix.ENOENT {
		return nil
	}
	u.parentDir = "" // its name may have led through what is gone
	if err == nil {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return &os.PathError{Op: "remove", Path: base, Err: err}
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", parent))
	if err != nil {
		return err
	}
	return errors.Join(root.RemoveAll(base), root.Close())
}
