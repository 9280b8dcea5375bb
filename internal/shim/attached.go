package shim

import (
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/logs"
)

// A client that does not take its output as fast as it comes is behind by at most maxBehind bytes; then the container waits
// for it, as for a slow terminal. If it has taken nothing for patience by then, it is cut off: it is suspended, or its network
// is gone. The only reader of an output that no log keeps is waited for without an end, as a pipe is.
const (
	maxBehind = 1 << 20
	patience  = 10 * time.Second
)

// drainRoom is what may wait for a client beyond maxBehind once its process has ended: all that the pipes of its outputs
// can hold, so that no exit waits for a client.
const drainRoom = 4 << 20

// attached is a client of the attach socket. What it has not taken yet is queued; a goroutine writes the queue, as long as
// there is one.
type attached struct {
	conn     *net.UnixConn
	raw      syscall.RawConn
	wants    [logs.Stderr + 1]bool
	terminal bool // it gets raw bytes, no frames

	mu       sync.Mutex // guards what follows
	room     sync.Cond  // of mu: the queue is shorter, or the client gone
	queue    [][]byte   // each holds whole frames, but the first may have been written in part
	behind   int        // bytes in the queue
	progress time.Time  // when the client last took something, or the queue began
	writing  bool       // the queue has its goroutine
	draining bool       // the process has ended
	closing  bool       // nothing more is queued; the connection is closed after the queue
	gone     bool       // the connection is closed
}

func newAttached(conn *net.UnixConn, terminal bool) (*attached, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	c := &attached{conn: conn, raw: raw, terminal: terminal}
	c.room.L = &c.mu
	return c, nil
}

// send gives the client a frame, which it keeps no hold of. only tells that nobody else reads the output and no log keeps
// it. The result is false if the client is to be forgotten.
func (c *attached) send(frame []byte, only bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.full() && !c.gone && !c.closing {
		if !c.awaitRoom(only) {
			c.cutOff()
			return false
		}
	}
	if c.gone || c.closing {
		return false
	}
	if len(c.queue) == 0 {
		n, err := c.write(frame, false)
		if err != nil && err != unix.EAGAIN {
			c.hangUp()
			return false
		}
		if frame = frame[n:]; len(frame) == 0 {
			return true
		}
	}
	c.enqueue(frame)
	return true
}

// full tells that a frame has to wait. mu is held.
func (c *attached) full() bool {
	limit := maxBehind
	if c.draining {
		limit += drainRoom
	}
	return c.behind >= limit
}

// awaitRoom waits until there may be room, and returns false if the client has not taken anything for too long. mu is held.
func (c *attached) awaitRoom(only bool) bool {
	if only {
		c.room.Wait()
		return true
	}
	left := patience - time.Since(c.progress)
	if left <= 0 {
		return false
	}
	timer := time.AfterFunc(left, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.room.Broadcast()
	})
	defer timer.Stop()
	c.room.Wait()
	return true
}

// chunk is how much of the queue is written at once.
const chunk = 64 << 10

// enqueue appends a copy of a frame, or of the rest of one, to the queue. mu is held.
func (c *attached) enqueue(frame []byte) {
	if len(c.queue) == 0 {
		c.progress = time.Now()
	}
	c.behind += len(frame)
	// The first piece belongs to the goroutine that writes it.
	if last := len(c.queue) - 1; last > 0 && len(c.queue[last])+len(frame) <= chunk {
		c.queue[last] = append(c.queue[last], frame...)
	} else {
		c.queue = append(c.queue, append([]byte(nil), frame...))
	}
	if !c.writing {
		c.writing = true
		go c.writeQueue()
	}
}

// writeQueue writes the queue to its end, at the pace of the client.
func (c *attached) writeQueue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 && !c.gone {
		piece := c.queue[0]
		c.mu.Unlock()
		n, err := c.write(piece, true)
		c.mu.Lock()
		if err != nil {
			c.hangUp()
			break
		}
		c.behind -= n
		if c.queue[0] = piece[n:]; n == len(piece) {
			c.queue = c.queue[1:]
		}
		c.progress = time.Now()
		c.room.Broadcast()
	}
	c.writing = false
	if c.closing {
		c.hangUp()
	}
}

// write writes what the connection takes at once; with wait it waits until that is something.
func (c *attached) write(p []byte, wait bool) (n int, err error) {
	connErr := c.raw.Write(func(fd uintptr) bool {
		for {
			if n, err = unix.Write(int(fd), p); err != unix.EINTR {
				break
			}
		}
		return err != unix.EAGAIN || !wait
	})
	if connErr != nil {
		err = connErr
	}
	return max(n, 0), err
}

// cutOff ends the output for a client that does not take it. It learns that when it goes on: after the piece that is on its
// way. mu is held.
func (c *attached) cutOff() {
	text := fmt.Appendf(nil, "gantry: cut off from the output: nothing was read here for %v while more came; the container goes on\r\n", patience)
	if !c.terminal {
		stream := logs.Stdout
		if c.wants[logs.Stderr] {
			stream = logs.Stderr
		}
		text = logs.AppendFrame(nil, stream, text)
	} else {
		text = append([]byte("\r\n"), text...)
	}
	c.queue = append(c.queue[:1:1], text)
	c.behind = len(c.queue[0]) + len(text)
	c.closing = true
	c.room.Broadcast()
}

// drain lets the rest of the output in, whatever waits for the client already.
func (c *attached) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.room.Broadcast()
}

// finish closes the connection when the client has taken what is queued.
func (c *attached) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if !c.writing {
		c.hangUp()
	}
	c.room.Broadcast()
}

// close closes the connection at once.
func (c *attached) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangUp()
}

// hangUp closes the connection. mu is held.
func (c *attached) hangUp() {
	if c.gone {
		return
	}
	c.gone, c.queue, c.behind = true, nil, 0
	_ = c.conn.Close()
	c.room.Broadcast()
}
