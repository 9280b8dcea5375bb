package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// WatchOOM sends a value each time that the group runs out of memory (v1) or a process of it is killed for that (v2), by
// the kernel's own notification. Several in a row may be one value. The channel is closed when the group is gone, when
// nothing lives in it any more (v2), or when ctx ends. See the kernel's admin-guide/cgroup-v1/memory and cgroup-v2,
// "memory.events".
func (g *Group) WatchOOM(ctx context.Context) (<-chan struct{}, error) {
	dir := g.host.dir("memory", g.path)
	if dir == "" {
		return nil, fmt.Errorf("watch cgroup %s for want of memory: this host does not offer the memory controller", g.path)
	}
	open, look := eventfd, g.stillThere
	if g.host.mode() == V2 {
		open, look = changesOf("memory.events", "cgroup.events"), g.oomKilled()
	}
	ctx, cancel := context.WithCancel(ctx)
	changes, err := open(ctx, dir)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watch cgroup %s for want of memory: %w", g.path, err)
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		defer cancel()
		for range changes {
			happened, there := look(dir)
			if happened {
				select {
				case out <- struct{}{}:
				default: // one waits to be seen
				}
			}
			if !there {
				return
			}
		}
	}()
	return out, nil
}

// notify sends a value on the channel whenever await returns true, until ctx ends or it returns false; then it closes the
// files. The channel is closed after the last value.
func notify(ctx context.Context, files []*os.File, await func(*os.File) bool) <-chan struct{} {
	changes := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { // wakes those who wait
		for _, f := range files {
			_ = f.Close() // nothing was written
		}
	})
	var waiting sync.WaitGroup
	for _, f := range files {
		waiting.Go(func() {
			for await(f) {
				select {
				case changes <- struct{}{}:
				default:
				}
			}
		})
	}
	go func() {
		waiting.Wait()
		if stop() {
			for _, f := range files {
				_ = f.Close()
			}
		}
		close(changes)
	}()
	return changes
}

// eventfd is notified by a v1 group, of its removal too.
func eventfd(ctx context.Context, dir string) (_ <-chan struct{}, err error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	events := os.NewFile(uintptr(fd), "oom events")
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err == nil {
		err = write(filepath.Join(dir, "cgroup.event_control"), fmt.Sprintf("%d %d", fd, control.Fd()))
		err = errors.Join(err, control.Close())
	}
	if err != nil {
		return nil, errors.Join(err, events.Close())
	}
	return notify(ctx, []*os.File{events}, func(f *os.File) bool {
		_, err := f.Read(make([]byte, 8))
		return err == nil
	}), nil
}

func (g *Group) stillThere(dir string) (happened, there bool) {
	_, err := os.Stat(dir)
	return err == nil, err == nil
}

// changesOf is notified of changes of a v2 group's files, by poll(2). Unlike inotify, whose instances are few (128 for a user),
// that works for any number of groups.
func changesOf(names ...string) func(ctx context.Context, dir string) (<-chan struct{}, error) {
	return func(ctx context.Context, dir string) (<-chan struct{}, error) {
		var files []*os.File
		for _, name := range names {
			path := filepath.Join(dir, name)
			fd, err := rawfile.RetryValue(func() (int, error) { // nonblocking: for the runtime's poller
				return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			})
			if err == nil {
				files = append(files, os.NewFile(uintptr(fd), path))
				err = see(files[len(files)-1])
			}
			if err != nil {
				for _, f := range files {
					_ = f.Close()
				}
				return nil, &os.PathError{Op: "watch", Path: path, Err: err}
			}
		}
		return notify(ctx, files, awaitChange), nil
	}
}

// see reads a file of a group: changes from then on are new.
func see(f *os.File) error {
	_, err := f.ReadAt(make([]byte, 512), 0)
	if err == io.EOF {
		err = nil
	}
	return err
}

// awaitChange returns when the kernel has told of a change (POLLPRI), and false if the file is closed or its group gone.
func awaitChange(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	err = conn.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		for {
			n, err := unix.Poll(p, 0)
			if err != unix.EINTR {
				return err != nil || n > 0
			}
		}
	})
	return err == nil && see(f) == nil
}

// oomKilled compares with what was counted before.
func (g *Group) oomKilled() func(dir string) (happened, there bool) {
	before, _ := g.OOMKills() // zero if it is gone already
	return func(dir string) (happened, there bool) {
		now, err := g.OOMKills()
		if err != nil {
			return false, false
		}
		happened, before = now > before, now
		state, err := readPairs(filepath.Join(dir, "cgroup.events"))
		return happened, err == nil && state["populated"] == 1
	}
}
