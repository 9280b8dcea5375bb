package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
)

// attachment is a stream to a container that may not have started yet: reads and writes wait for the start. If the supervisor
// is killed, the stream goes on with the next one.
type attachment struct {
	engine  *Engine
	request client.AttachRequest
	tty     bool          // the stream has no frames
	ready   chan struct{} // closed when conn or err is set
	once    sync.Once
	err     error  // io.EOF: nothing will come
	forget  func() // nil, or takes it from the list of those who wait for a start

	// Only Read uses these two.
	frames  frameReader
	message []byte // about a supervisor that was killed; not yet read

	mu         sync.Mutex // guards what follows
	conn       *net.UnixConn
	old        *net.UnixConn // leads to a supervisor that was killed; Read has not seen its end
	shim       *client.Shim  // where conn leads
	inputEnded bool
	closed     bool
}

func (e *Engine) newAttachment(r client.AttachRequest, tty bool) *attachment {
	return &attachment{engine: e, request: r, tty: tty, ready: make(chan struct{})}
}

// open connects the stream. A stream that its user has closed in the meantime stays closed.
func (a *attachment) open(ctx context.Context) error {
	conn, shim, err := a.engine.attachTo(ctx, a.request)
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", a.request.ID, err)
	}
	taken := false
	a.once.Do(func() {
		a.mu.Lock()
		a.conn, a.shim, taken = conn, shim, true
		a.mu.Unlock()
		close(a.ready)
	})
	if !taken {
		return conn.Close()
	}
	return nil
}

// fail ends the stream; nil is an end without anything read.
func (a *attachment) fail(err error) {
	if err == nil {
		err = io.EOF
	}
	a.once.Do(func() {
		a.err = err
		close(a.ready)
	})
}

// current is the connection, once there is one.
func (a *attachment) current() (*net.UnixConn, error) {
	<-a.ready
	if a.err != nil {
		return nil, a.err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conn, nil
}

// reading is the connection to read from: first what a killed supervisor has sent.
func (a *attachment) reading() (*net.UnixConn, error) {
	conn, err := a.current()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.old != nil {
		conn = a.old
	}
	return conn, err
}

func (a *attachment) Read(p []byte) (int, error) {
	for {
		if len(a.message) > 0 {
			n := copy(p, a.message)
			a.message = a.message[n:]
			return n, nil
		}
		conn, err := a.reading()
		if err != nil {
			return 0, err
		}
		n, err := conn.Read(p)
		if n > 0 || err == nil {
			if !a.tty {
				a.frames.pass(p[:n])
			}
			return n, nil
		}
		if !a.frames.isBetween() || !a.reattach(conn) {
			return 0, err
		}
		a.mu.Lock()
		a.old = nil
		a.mu.Unlock()
		_ = conn.Close()
		a.message = lossMessage("the supervisor was killed and another one has taken over: input and output of this moment may be missing here", a.tty, a.request)
	}
}

// reattach connects to the next supervisor if the one that conn led to was killed. The result is false if it was not, or
// if there is nothing to connect to any more.
func (a *attachment) reattach(conn *net.UnixConn) bool {
	ctx := a.engine.ctx
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return false
	case a.conn != conn: // the other direction was faster
		return true
	case !isGone(ctx, a.shim):
		return false
	}
	next, shim, err := a.engine.attachTo(ctx, a.request)
	if err == nil && a.inputEnded {
		err = next.CloseWrite()
	}
	if err != nil {
		a.engine.log.Debug("attach to the next supervisor", "container", a.request.ID, "error", err)
		return false
	}
	a.old, a.conn, a.shim = conn, next, shim
	return true
}

func (a *attachment) Write(p []byte) (written int, err error) {
	for {
		conn, err := a.current()
		if err != nil {
			return written, io.ErrClosedPipe
		}
		n, err := conn.Write(p[written:])
		written += n
		if err == nil || !a.reattach(conn) {
			return written, err
		}
	}
}

// CloseWrite ends the process's standard input.
func (a *attachment) CloseWrite() error {
	<-a.ready
	if a.err != nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inputEnded = true
	return a.conn.CloseWrite()
}

func (a *attachment) Close() error {
	a.fail(net.ErrClosed)
	if a.forget != nil {
		a.forget()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.old != nil {
		_ = a.old.Close()
	}
	if a.conn != nil {
		return a.conn.Close()
	}
	return nil
}

// AttachContainer connects to a container's streams, running or about to be started. tty: the stream has no frames.
func (e *Engine) AttachContainer(ctx context.Context, id string, o AttachOptions) (Stream, bool, error) {
	c, err := e.lookup(id)
	if err != nil {
		return nil, false, err
	}
	c.op.Lock() // a start under way is either seen or not begun
	defer c.op.Unlock()
	v := c.view()
	switch {
	case v.phase == phasePaused:
		return nil, false, fmt.Errorf("container %s is paused, unpause the container before attach%w", c.ID, noText{errdefs.ErrConflict})
	case v.phase == phaseRemoving:
		return nil, false, fmt.Errorf("container %s is being removed%w", c.ID, noText{errdefs.ErrConflict})
	}
	past, err := e.pastOutput(ctx, c, v, o)
	if err != nil {
		return nil, false, err
	}
	e.containerEvent(c, events.ActionAttach)
	tty := v.record.Config.Tty
	if !o.Stream {
		return &replay{Reader: past}, tty, nil
	}
	a := e.newAttachment(client.AttachRequest{ID: c.ID, Stdin: o.Stdin && v.record.Config.OpenStdin, Stdout: o.Stdout, Stderr: o.Stderr}, tty)
	if v.phase.alive() {
		if err := a.open(ctx); err != nil {
			return nil, false, err
		}
	} else {
		c.mu.Lock()
		c.pending = append(c.pending, a)
		c.mu.Unlock()
		a.forget = func() { // a client that leaves before the start
			c.mu.Lock()
			defer c.mu.Unlock()
			c.pending = slices.DeleteFunc(c.pending, func(other *attachment) bool { return other == a })
		}
	}
	return &replay{Reader: io.MultiReader(past, a), live: a}, tty, nil
}

// attachPending connects those who attached before the start, so that they miss nothing.
func (c *Container) attachPending(ctx context.Context) error {
	c.mu.Lock()
	pending := c.pending
	c.pending = nil
	c.mu.Unlock()
	var errs []error
	for _, a := range pending {
		if err := a.open(ctx); err != nil {
			a.fail(err)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// pastOutput is what has been logged, in the form of the live stream.
func (e *Engine) pastOutput(ctx context.Context, c *Container, v view, o AttachOptions) (io.Reader, error) {
	var past bytes.Buffer
	if !o.Logs {
		return &past, nil
	}
	err := logs.Read(ctx, c.logPath(), logs.Query{Tail: -1}, func(entry logs.Entry) error {
		switch {
		case entry.Stream == logs.Stdout && !o.Stdout, entry.Stream == logs.Stderr && !o.Stderr:
			return nil
		case v.record.Config.Tty:
			_, err := past.Write(entry.Line)
			return err
		}
		return logs.Frame(&past, entry.Stream, entry.Line)
	})
	return &past, err
}

// replay is what has been logged, followed by the live stream, if any.
type replay struct {
	io.Reader
	live *attachment
}

func (r *replay) Write(p []byte) (int, error) {
	if r.live == nil {
		return 0, io.ErrClosedPipe
	}
	return r.live.Write(p)
}

func (r *replay) CloseWrite() error {
	if r.live == nil {
		return nil
	}
	return r.live.CloseWrite()
}

func (r *replay) Close() error {
	if r.live == nil {
		return nil
	}
	return r.live.Close()
}

// ResizeContainer sets the size of a container's terminal, in cells.
func (e *Engine) ResizeContainer(ctx context.Context, id string, height, width uint) error {
	c, _, err := e.alive(id)
	if err != nil {
		return err
	}
	if err := e.resize(ctx, c.ID, "", height, width); err != nil {
		return err
	}
	e.containerEvent(c, events.ActionResize, "height", fmt.Sprint(height), "width", fmt.Sprint(width))
	return nil
}

func (e *Engine) resize(ctx context.Context, id, exec string, height, width uint) error {
	err := e.call(ctx, func(shim *client.Shim) error {
		_, err := shim.Task.ResizePty(ctx, &task.ResizePtyRequest{ID: id, ExecID: exec, Height: uint32(height), Width: uint32(width)})
		return err
	})
	if err != nil {
		return fmt.Errorf("resize the terminal of container %s: %w", id, err)
	}
	return nil
}

// LogsContainer calls each for the selected lines in order, and with Follow for those to come until the container ends.
func (e *Engine) LogsContainer(ctx context.Context, id string, q LogQuery, each func(logs.Entry) error) error {
	c, err := e.lookup(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	driver := c.record.Config.HostConfig.LogConfig.Type
	var done <-chan struct{}
	if c.run != nil {
		done = c.run.ended
	}
	c.mu.Unlock()
	if driver == "none" {
		return fmt.Errorf("configured logging driver does not support reading%w", noText{errdefs.ErrNotImplemented})
	}
	if done == nil {
		over := make(chan struct{})
		close(over)
		done = over
	}
	q.Done = done
	return logs.Read(ctx, c.logPath(), q.Query, func(entry logs.Entry) error {
		if (entry.Stream == logs.Stdout && !q.Stdout) || (entry.Stream == logs.Stderr && !q.Stderr) {
			return nil
		}
		return each(entry)
	})
}
