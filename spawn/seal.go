package spawn

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SealSelf makes this program run from a read-only view of its file, by executing itself once more. A child that a
// plan makes is, until its execve, this program: a container may execute /proc/self/exe, or open /proc/PID/exe, and
// must not be able to write to the host's file by that (CVE-2019-5736). Call it first in main. It returns if the view
// is read-only already, or if this process may not mount: then it cannot make containers with the host's root either.
func SealSelf() error {
	sealed, err := Sealed()
	if err != nil {
		return err
	}
	if sealed {
		return setName(filepath.Base(os.Args[0]))
	}
	view, err := viewOfSelf()
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(view)
	return fmt.Errorf("seal this program: execveat: %w", execveat(view, os.Args, os.Environ()))
}

// Sealed reports whether this program's file is seen through a read-only mount.
func Sealed() (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/proc/self/exe", &fs); err != nil {
		return false, fmt.Errorf("seal this program: %w", &os.PathError{Op: "statfs", Path: "/proc/self/exe", Err: err})
	}
	return fs.Flags&unix.ST_RDONLY != 0, nil
}

// viewOfSelf is a descriptor of a detached read-only mount of this program's file.
func viewOfSelf() (int, error) {
	view, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("seal this program: open_tree: %w", err)
	}
	if err := unix.MountSetattr(view, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		_ = unix.Close(view)
		return -1, fmt.Errorf("seal this program: mount_setattr: %w", err)
	}
	return view, nil
}

// setName gives the process back the name that an execution by descriptor takes from it; see PR_SET_NAME(2const).
func setName(name string) error {
	b, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(b)), 0, 0, 0); err != nil {
		return fmt.Errorf("set the process's name: %w", err)
	}
	return nil
}

// execveat executes an open file; see execveat(2). It returns only on an error.
func execveat(fd int, args, env []string) error {
	var c compiler
	defer c.free()
	words := [4]uintptr{uintptr(fd)}
	for i, a := range []Arg{Str(""), Strs(args), Strs(env)} {
		value, err := c.value(a)
		if err != nil {
			return err
		}
		words[i+1] = value
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, words[0], words[1], words[2], words[3], unix.AT_EMPTY_PATH, 0)
	return errno
}
