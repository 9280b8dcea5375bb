package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
	"gantry/internal/shim/spool"
)

// streams are the three standard streams of one process on our side, and who is attached to them.
//
//	container ──FIFO──► output ─┬─► sink (log, or a containerd FIFO)
//	                            └─► clients
//	clients ──► stdin pipe ──► container
type streams struct {
	terminal bool
	sinks    [logs.Stderr + 1]sink // nil: no log
	opened   []sink                // each once
	keep     keep                  // nil: nothing outlives the supervisor

	mu      sync.Mutex
	stdin   *os.File // write end, or the terminal's master; nil: none, or closed
	console *os.File // the terminal's master
	drop    func()   // called before stdin or console is closed
	clients []*attached
	drained bool // the process has ended: no output waits for a client any more
	ended   bool
	ready   chan struct{} // closed when stdin is there: a terminal has none before it starts
	isReady sync.Once
	once    bool          // stdin ends with the first client
	held    chan struct{} // nil, or closed when the output need not wait any more for a client
	unhold  func()
	outputs []*output
	done    chan struct{} // closed when every output is at its end
}

// sink takes the whole output of a process. A frame is the 8 bytes of its header and the payload.
type sink interface {
	write(s logs.Stream, frame []byte) error
	end() error
}

type logSink struct{ w *logs.Writer }

func (l logSink) write(s logs.Stream, frame []byte) error {
	return l.w.Write(s, frame[headerSize:], time.Now())
}
func (l logSink) end() error { return l.w.Close() }

type fileSink struct{ f *os.File }

func (f fileSink) write(_ logs.Stream, frame []byte) error {
	_, err := f.f.Write(frame[headerSize:])
	return err
}
func (f fileSink) end() error { return f.f.Close() }

const headerSize = 8

// newStreams opens where the output goes. The addresses are those of package client.
func newStreams(terminal bool, stdin, stdout, stderr string) (_ *streams, err error) {
	s := &streams{terminal: terminal, ready: make(chan struct{}), done: make(chan struct{}), once: stdin == "attach:?once", unhold: func() {}, drop: func() {}}
	if stdout == client.AttachWait || stderr == client.AttachWait {
		s.held = make(chan struct{})
		s.unhold = sync.OnceFunc(func() { close(s.held) })
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.endSinks())
		}
	}()
	if s.sinks[logs.Stdout], err = s.openSink(stdout); err != nil {
		return nil, err
	}
	if stderr == stdout || terminal {
		s.sinks[logs.Stderr] = s.sinks[logs.Stdout]
		return s, nil
	}
	s.sinks[logs.Stderr], err = s.openSink(stderr)
	return s, err
}

func (s *streams) openSink(address string) (sink, error) {
	var opened sink
	switch {
	case address == "", strings.HasPrefix(address, "attach:"):
		return nil, nil
	case strings.HasPrefix(address, "json-file:"):
		o, err := logs.ParseURI(address)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		w, err := logs.OpenWriter(o)
		if err != nil {
			return nil, err
		}
		opened = logSink{w}
	case filepath.IsAbs(address):
		// Both ways: the open does not wait for a reader, and a reader that goes does not fail the container's writes.
		f, err := os.OpenFile(address, os.O_RDWR|unix.O_NONBLOCK|unix.O_APPEND, 0)
		if err != nil {
			return nil, fmt.Errorf("open the output: %w", err)
		}
		opened = fileSink{f}
	default:
		return nil, fmt.Errorf("output to %q is not supported: %w", address, errdefs.ErrNotImplemented)
	}
	s.opened = append(s.opened, opened)
	return opened, nil
}

func (s *streams) endSinks() error {
	var errs []error
	for _, k := range s.opened {
		errs = append(errs, k.end())
	}
	s.opened = nil
	return errors.Join(errs...)
}

// setStdin makes f what clients write to; nil: the process has no standard input.
func (s *streams) setStdin(f *os.File) {
	s.mu.Lock()
	s.stdin = f
	if f != nil && s.keep != nil {
		s.drop = s.keep(kindOf(s.terminal), f)
	}
	s.mu.Unlock()
	s.isReady.Do(func() { close(s.ready) })
}

// feed copies a containerd FIFO to the standard input until it is closed.
func (s *streams) feed(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open the input: %w", err)
	}
	// A nonblocking open finds no writer yet perhaps; the writer's end of our own makes reads wait for one.
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open the input: %w", err)
	}
	go func() {
		defer func() { _ = f.Close() }()
		buf := make([]byte, 4<<10)
		n, err := f.Read(buf)
		_ = w.Close() // from here the writer's close is the end
		for ; n > 0; n, err = f.Read(buf) {
			s.write(buf[:n])
		}
		if err == io.EOF {
			s.closeStdin()
		}
	}()
	return nil
}

// write writes to the standard input; bytes for a process that has none are dropped.
func (s *streams) write(p []byte) {
	<-s.ready
	s.mu.Lock()
	f := s.stdin
	s.mu.Unlock()
	if f != nil {
		_, _ = f.Write(p)
	}
}

// closeStdin ends the standard input. A terminal has no end but its own.
func (s *streams) closeStdin() {
	<-s.ready
	s.mu.Lock()
	f := s.stdin
	if s.terminal {
		f = nil
	} else {
		s.stdin = nil
	}
	s.mu.Unlock()
	if f != nil {
		s.drop()
		_ = f.Close()
	}
}

// resize sets the size of the terminal; see TIOCSWINSZ in ioctl_tty(2).
func (s *streams) resize(width, height uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.console == nil {
		return fmt.Errorf("resize: the process has no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	conn, err := s.console.SyscallConn()
	if err == nil {
		var ioctlErr error
		err = conn.Control(func(fd uintptr) {
			ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
		})
		err = errors.Join(err, ioctlErr)
	}
	if err != nil {
		return fmt.Errorf("resize to %d x %d: %w", width, height, err)
	}
	return nil
}

// setConsole takes the terminal's master: input and output.
func (s *streams) setConsole(master *os.File) error {
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = master.Close()
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that the runtime's poller waits for it, and no thread
	}
	if err != nil {
		return fmt.Errorf("take the terminal: %w", err)
	}
	f := os.NewFile(uintptr(fd), "terminal")
	s.mu.Lock()
	s.console = f
	s.mu.Unlock()
	s.setStdin(f)
	return s.copy(logs.Stdout, f, nil)
}

// copy begins to copy an output of the process. It goes through kept, unless that is nil.
func (s *streams) copy(stream logs.Stream, from *os.File, kept *spool.Spool) error {
	conn, err := from.SyscallConn()
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	o := &output{streams: s, stream: stream, file: from, conn: conn, spool: kept, done: make(chan struct{})}
	s.mu.Lock()
	s.outputs = append(s.outputs, o)
	s.mu.Unlock()
	go o.run()
	return nil
}

// drain returns when what the process wrote has gone where it belongs. A descendant that still holds an output open
// is not waited for, but what it writes later is still copied.
func (s *streams) drain() {
	s.mu.Lock()
	outputs, clients := s.outputs, s.clients
	s.drained = true
	s.mu.Unlock()
	for _, c := range clients {
		c.drain()
	}
	deadline := time.After(3 * time.Second) // for a FIFO of containerd's that nobody reads
	for _, o := range outputs {
		for waiting := true; waiting; {
			select {
			case <-o.done:
				waiting = false
			case <-deadline:
				return
			case <-time.After(5 * time.Millisecond):
				waiting = !o.empty()
			}
		}
	}
}

// finish closes the input and, once they have taken what is left, the clients, and when the last output has ended, the sinks.
func (s *streams) finish(report func(error)) {
	s.mu.Lock()
	s.ended = true
	clients, stdin, outputs := s.clients, s.stdin, s.outputs
	s.clients = nil
	if !s.terminal {
		s.stdin = nil
	}
	s.mu.Unlock()
	s.isReady.Do(func() { close(s.ready) })
	s.unhold()
	for _, c := range clients {
		c.finish()
	}
	if stdin != nil && !s.terminal {
		s.drop()
		_ = stdin.Close()
	}
	end := func() {
		s.mu.Lock()
		console := s.console
		s.stdin, s.console = nil, nil
		s.mu.Unlock()
		if console != nil {
			s.drop()
			_ = console.Close()
		}
		if err := s.endSinks(); err != nil {
			report(err)
		}
		close(s.done)
	}
	for i, o := range outputs {
		select {
		case <-o.done:
			continue
		default:
		}
		go func() {
			for _, o := range outputs[i:] {
				<-o.done
			}
			end()
		}()
		return
	}
	end()
}

// log is the log of a stream, or nil if nothing logs it.
func (s *streams) log(stream logs.Stream) *logs.Writer {
	if l, ok := s.sinks[stream].(logSink); ok {
		return l.w
	}
	return nil
}

// flush writes held-back last lines to the logs.
func (s *streams) flush(stream logs.Stream) error {
	if w := s.log(stream); w != nil {
		return w.Flush(stream)
	}
	return nil
}

// attach adds a client; false if the process has ended.
func (s *streams) attach(c *attached) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	c.draining = s.drained                                           // nobody else knows it yet
	s.clients = append(s.clients[:len(s.clients):len(s.clients)], c) // a copy: deliver reads the old one
	s.unhold()
	return true
}

// forget takes a client from those that get output.
func (s *streams) forget(c *attached) {
	s.mu.Lock()
	var rest []*attached
	for _, other := range s.clients {
		if other != c {
			rest = append(rest, other)
		}
	}
	s.clients = rest
	s.mu.Unlock()
}

// input copies a client's bytes to the standard input until the client ends them.
func (s *streams) input(from io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			s.write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	if s.once {
		s.closeStdin()
	}
}
