package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WatchOOM sends a value each time that the group runs out of memory (v1) or a process of it is killed for that (v2), by
// the kernel's own notification. The channel is closed when the group is gone, when nothing lives in it any more (v2), or
// when ctx ends. See the kernel's admin-guide/cgroup-v1/memory and cgroup-v2, "memory.events".
func (g *Group) WatchOOM(ctx context.Context) (<-chan struct{}, error) {
	dir := g.host.dir("memory", g.path)
	if dir == "" {
		return nil, fmt.Errorf("watch cgroup %s for want of memory: this host does not offer the memory controller", g.path)
	}
	open, look := eventfd, g.stillThere
	if g.host.mode() == V2 {
		open, look = inotify, g.oomKilled()
	}
	events, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("watch cgroup %s for want of memory: %w", g.path, err)
	}
	out := make(chan struct{}, 1)
	ended := context.AfterFunc(ctx, func() { _ = events.Close() }) // wakes the reader
	go func() {
		defer close(out)
		defer func() { ended(); _ = events.Close() }() // nothing was written
		buf := make([]byte, 4096)
		for {
			if _, err := events.Read(buf); err != nil {
				return
			}
			happened, there := look(dir)
			if happened {
				select {
				case out <- struct{}{}:
				case <-ctx.Done():
				}
			}
			if !there {
				return
			}
		}
	}()
	return out, nil
}

// eventfd is notified by a v1 group, of its removal too.
func eventfd(dir string) (_ *os.File, err error) {
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
	return events, nil
}

func (g *Group) stillThere(dir string) (happened, there bool) {
	_, err := os.Stat(dir)
	return err == nil, err == nil
}

// inotify is notified of what changes in a v2 group's events.
func inotify(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	events := os.NewFile(uintptr(fd), "oom events")
	for _, file := range []string{"memory.events", "cgroup.events"} {
		name := filepath.Join(dir, file)
		if _, err := unix.InotifyAddWatch(fd, name, unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
			return nil, errors.Join(&os.PathError{Op: "inotify_add_watch", Path: name, Err: err}, events.Close())
		}
	}
	return events, nil
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
