package shim

import (
	"context"
	"encoding/json"
	"net"

	"github.com/containerd/containerd/api/events"

	"gantry/internal/shim/client"
)

// oomWatcher is a connection that is told of containers that run out of memory. It holds which are to be told, not how
// often they ran out, so that it has a bound whatever its client reads.
type oomWatcher struct {
	dirty map[*container]struct{} // guarded by the server's mu
	wake  chan struct{}           // has room for one value
}

// watchOOM notes when the container runs out of memory, until its first process has ended; then it closes c.watched.
func (c *container) watchOOM() {
	defer close(c.watched)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	group, err := c.cgroup()
	if err != nil {
		return // what happened is looked up at the end
	}
	ooms, err := group.WatchOOM(ctx)
	if err != nil {
		return // no memory controller: likewise
	}
	if n, err := group.OOMKills(); err == nil && n > 0 { // before the watch began
		c.noteOOM()
	}
	for {
		select {
		case <-c.unwatch:
			return
		case _, there := <-ooms:
			if !there {
				return
			}
			c.noteOOM()
		}
	}
}

// noteOOM counts one more and tells everybody who wants to know.
func (c *container) noteOOM() {
	c.mu.Lock()
	c.ooms++
	c.mu.Unlock()
	s := c.server
	s.events.publish(&events.TaskOOM{ContainerID: c.id})
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.oomWatchers {
		w.note(c)
	}
}

// note has the watcher told of a container. The server's mu is held.
func (w *oomWatcher) note(c *container) {
	w.dirty[c] = struct{}{}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// tellOOM answers the query for containers that run out of memory, until the client goes.
func (s *Server) tellOOM(conn *net.UnixConn) error {
	defer func() { _ = conn.Close() }()
	if err := sendReply(conn, client.AttachReply{}); err != nil {
		return err
	}
	w := &oomWatcher{dirty: map[*container]struct{}{}, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	if s.oomWatchers == nil {
		s.oomWatchers = map[*oomWatcher]struct{}{}
	}
	s.oomWatchers[w] = struct{}{}
	for _, c := range s.containers {
		if c != nil {
			w.note(c)
		}
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.oomWatchers, w)
	}()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		awaitHangup(conn)
	}()
	for {
		select {
		case <-gone:
			return nil
		case <-w.wake:
		}
		s.mu.Lock()
		dirty := w.dirty
		w.dirty = map[*container]struct{}{}
		s.mu.Unlock()
		for c := range dirty {
			c.mu.Lock()
			o := client.OOM{ID: c.id, Pid: int(c.init.number()), Count: c.ooms}
			c.mu.Unlock()
			if o.Count == 0 {
				continue
			}
			line, err := json.Marshal(o)
			if err == nil {
				_, err = conn.Write(append(line, '\n'))
			}
			if err != nil {
				return nil // it has gone
			}
		}
	}
}
