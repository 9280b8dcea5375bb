package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// A container's lock file lets one process at a time change it. Its modification time is the moment in which the
// container was made, which tells it from others of the same id, before and after it: a handle is of one of them.

func (c *Container) lockFile() string { return filepath.Join(c.dir(), "lock") }

// begin makes a new container's directory and takes its lock.
func (r *Runtime) begin(id string) (c *Container, unlock func(), err error) {
	if err := os.MkdirAll(r.Root, 0o711); err != nil {
		return nil, nil, fmt.Errorf("create container %s: make the state directory: %w", id, err)
	}
	c = &Container{ID: id, runtime: r}
	unlock, err = c.begin()
	if errors.Is(err, os.ErrExist) {
		return nil, nil, fmt.Errorf("container with given ID already exists: %s: %w", id, os.ErrExist)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("create container %s: %w", id, err)
	}
	return c, unlock, nil
}

// begin makes the directory of a new container and takes its lock. One that is deleted in between is made again.
func (c *Container) begin() (unlock func(), err error) {
	for {
		if err := os.Mkdir(c.dir(), 0o711); err != nil {
			return nil, fmt.Errorf("make the state directory: %w", err)
		}
		f, err := rawfile.Open(c.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		links, err := flock(f)
		if err == nil && links > 0 {
			c.born = time.Now().UnixNano()
			at := []unix.Timespec{unix.NsecToTimespec(c.born), unix.NsecToTimespec(c.born)}
			if err = unix.UtimesNanoAt(unix.AT_FDCWD, c.lockFile(), at, 0); err == nil {
				return func() { _ = f.Close() }, nil
			}
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

// flock waits for the lock of an open file and returns how many names the file has by then: none if it was deleted.
func flock(f *os.File) (links uint64, err error) {
	if err := rawfile.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) }); err != nil {
		return 0, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	var is unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &is); err != nil {
		return 0, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return uint64(is.Nlink), nil //nolint:unconvert // 32 bits on arm64
}

// errGone is the error of a handle whose container has been deleted, whoever has its id now.
func (c *Container) errGone() error {
	return fmt.Errorf("container %s does not exist: %w", c.ID, os.ErrNotExist)
}

// lock lets only one process at a time change a container; the lock ends with the returned function.
func (c *Container) lock() (unlock func(), err error) {
	flags := os.O_RDWR
	if c.born == 0 {
		flags |= os.O_CREATE
	}
	for {
		f, err := rawfile.Open(c.lockFile(), flags, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			return nil, c.errGone()
		}
		if err != nil {
			return nil, fmt.Errorf("lock container %s: %w", c.ID, err)
		}
		if c.unfinished() == specs.StateCreating {
			if rec, err := c.load(); err == nil && rec.Pid == 0 { // a hook of its may want this
				return nil, errors.Join(fmt.Errorf("container %s is being created", c.ID), f.Close())
			}
		}
		links, err := flock(f)
		if err == nil && links > 0 {
			if born, err := c.bornAt(); c.born != 0 && (err != nil || born != c.born) {
				return nil, errors.Join(c.errGone(), f.Close())
			}
			return func() { _ = f.Close() }, nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

// remove removes the container's directory, whose lock the caller has. Its id is free at once.
func (c *Container) remove() error {
	aside := c.runtime.dir("~" + c.ID) // which is no id
	err := os.Rename(c.dir(), aside)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) { // one who did this was killed
		if err := os.RemoveAll(aside); err != nil {
			return err
		}
		err = os.Rename(c.dir(), aside)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := removeState(aside); err != nil && !errors.Is(err, unix.ENOTEMPTY) { // else the next one of the id is there, to be removed
		return err
	}
	return nil
}

// RemoveLeftovers removes what is left of containers whose deletion was killed at its very end. Nobody else may be
// deleting containers meanwhile.
func (r *Runtime) RemoveLeftovers() error {
	entries, err := os.ReadDir(r.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "~") {
			errs = append(errs, os.RemoveAll(filepath.Join(r.Root, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeState removes a container's directory. What is in it is known, but for what a killed create or start has left.
func removeState(dir string) error {
	for _, name := range []string{"state.json", "lock"} {
		_ = unix.Unlink(filepath.Join(dir, name)) // else the directory stays
	}
	if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
		return nil
	}
	return os.RemoveAll(dir)
}

// bornAt is when the container that now has the id was made; 0 if nobody knows.
func (c *Container) bornAt() (int64, error) {
	var is unix.Stat_t
	if err := unix.Stat(c.lockFile(), &is); err != nil {
		return 0, err
	}
	return is.Mtim.Nano(), nil
}

// unfinished is the status of a container whose process is not known yet: it is being created, or its creator was killed.
func (c *Container) unfinished() specs.ContainerState {
	f, err := rawfile.Open(c.lockFile(), os.O_RDONLY, 0)
	if err != nil {
		return specs.StateStopped
	}
	defer f.Close()
	if rawfile.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) }) == unix.EWOULDBLOCK {
		return specs.StateCreating
	}
	return specs.StateStopped
}
