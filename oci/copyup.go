package oci

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// copyUp fills a new tmpfs with what it covers (option tmpcopyup): the process has kept a descriptor of that in slotTree,
// and the runtime copies, with the process waiting.
func (b *builder) copyUp(destination string) {
	var covered int
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "find what is below " + destination, Pass: slotTree, Sync: func(child *spawn.Process) (err error) {
		covered, err = unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		return err
	}})
	b.add("close what is below "+destination, unix.SYS_CLOSE, spawn.Of(slotTree))
	b.resolve("open "+destination, destination, unix.O_PATH|unix.O_DIRECTORY)
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "copy it up into " + destination, Pass: slotScratch, Sync: func(child *spawn.Process) error {
		defer unix.Close(covered)
		fd, err := unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return copyTree(covered, fd)
	}})
	b.release(destination)
}

// copier copies between directories of which no link leads out. What it makes belongs to an owner whom the target's file
// system knows, before it gets its own: that of a user namespace knows only the ids that are mapped there.
type copier struct {
	source, target *os.Root
	uid, gid       int
}

// copyTree copies a directory's content into another, with owners, modes and times. Both are descriptors.
func copyTree(from, to int) error {
	var owner unix.Stat_t
	if err := unix.Fstat(to, &owner); err != nil {
		return err
	}
	source, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", from))
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", to))
	if err != nil {
		return err
	}
	defer target.Close()
	runtime.LockOSThread() // that is whose ids change
	defer runtime.UnlockOSThread()
	return (&copier{source: source, target: target, uid: int(owner.Uid), gid: int(owner.Gid)}).directory(".")
}

// asOwner makes something as the owner; see setfsuid(2).
func (c *copier) asOwner(f func() error) error {
	if c.uid == 0 && c.gid == 0 {
		return f()
	}
	if err := errors.Join(unix.Setfsgid(c.gid), unix.Setfsuid(c.uid)); err != nil {
		return err
	}
	return errors.Join(f(), unix.Setfsuid(0), unix.Setfsgid(0))
}

func (c *copier) directory(dir string) error {
	f, err := c.source.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.entry(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return c.attributes(dir, info)
}

func (c *copier) entry(name string) error {
	info, err := c.source.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	switch kind := info.Mode().Type(); kind {
	case fs.ModeDir:
		if err := c.asOwner(func() error { return c.target.Mkdir(name, 0o700) }); err != nil {
			return err
		}
		return c.directory(name)
	case fs.ModeSymlink:
		var link string
		if link, err = c.source.Readlink(name); err == nil {
			err = c.asOwner(func() error { return c.target.Symlink(link, name) })
		}
	case 0:
		err = c.file(name)
	default:
		err = c.special(name, info)
	}
	if err != nil {
		return err
	}
	return c.attributes(name, info)
}

func (c *copier) file(name string) error {
	in, err := c.source.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // whatever takes the file's place meanwhile
	if err != nil {
		return err
	}
	defer in.Close()
	var out *os.File
	if err := c.asOwner(func() (err error) {
		out, err = c.target.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	}); err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// special makes a device, FIFO or socket.
func (c *copier) special(name string, info fs.FileInfo) error {
	dir, err := c.target.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	st := info.Sys().(*syscall.Stat_t)
	return c.asOwner(func() error {
		if err := unix.Mknodat(int(dir.Fd()), path.Base(name), st.Mode, int(st.Rdev)); err != nil {
			return &os.PathError{Op: "mknod", Path: name, Err: err}
		}
		return nil
	})
}

// attributes gives owner, mode and times; the owner first, since that takes mode bits away.
func (c *copier) attributes(name string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	if err := c.target.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	if err := c.target.Chmod(name, info.Mode()); err != nil {
		return err
	}
	return c.target.Chtimes(name, info.ModTime(), info.ModTime())
}
