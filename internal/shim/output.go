package shim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/internal/shim/spool"
	"gantry/rawfile"
)

// output is one output of a process on its way. It has a goroutine, and a buffer only while there is something to copy.
type output struct {
	streams *streams
	stream  logs.Stream
	file    *os.File
	conn    interface {
		Read(func(uintptr) bool) error
	}
	spool  *spool.Spool // nil: the output is not kept
	done   chan struct{}
	mu     sync.Mutex // held while a buffer is under way
	failed bool       // the sink failed and said so
}

var buffers = sync.Pool{New: func() any {
	b := make([]byte, headerSize+32<<10)
	return &b
}}

func (o *output) run() {
	defer close(o.done)
	defer o.spool.Idle()
	if !o.streams.terminal { // the close of a terminal is SIGHUP, even to a process that has only closed its side of it
		defer func() { _ = o.file.Close() }()
	}
	if held := o.streams.held; held != nil {
		<-held
	}
	for {
		buf, n, err := o.read()
		if n > 0 {
			o.deliver((*buf)[:headerSize+n])
		}
		if buf != nil {
			o.mu.Unlock()
			buffers.Put(buf)
		}
		if n <= 0 || err != nil { // EIO is the end of a terminal
			if err := o.streams.flush(o.stream); err != nil {
				warn("write the end of an output", err)
			}
			return
		}
	}
}

// read waits for output without holding a buffer. With a buffer returned, mu is held.
func (o *output) read() (buf *[]byte, n int, err error) {
	connErr := o.conn.Read(func(fd uintptr) bool {
		o.mu.Lock()
		b := buffers.Get().(*[]byte)
		if n, err = o.spool.Fill(int(fd), (*b)[headerSize:]); err == unix.EAGAIN {
			o.spool.Idle()
			buffers.Put(b)
			o.mu.Unlock()
			return false
		}
		buf = b
		return true
	})
	if connErr != nil {
		return buf, 0, connErr
	}
	return buf, n, err
}

// empty tells that nothing is left to copy at the moment.
func (o *output) empty() bool {
	if !o.mu.TryLock() {
		return false
	}
	defer o.mu.Unlock()
	none := false
	err := o.conn.(interface{ Control(func(uintptr)) error }).Control(func(fd uintptr) {
		n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		none = err != nil || n == 0
	})
	return none || err != nil
}

// deliver gives a frame to the sink first, then to the clients. A client that is gone, or too far behind, is forgotten.
func (o *output) deliver(frame []byte) {
	s := o.streams
	if k := s.sinks[o.stream]; k != nil {
		if err := k.write(o.stream, frame); err != nil && !o.failed {
			o.failed = true // once: a full disk must not fill another
			warn("output is lost", err)
		} else if err == nil {
			o.failed = false
		}
	}
	frame[0], frame[1], frame[2], frame[3] = byte(o.stream), 0, 0, 0
	binary.BigEndian.PutUint32(frame[4:], uint32(len(frame)-headerSize))
	if s.terminal {
		frame = frame[headerSize:]
	}
	s.mu.Lock()
	clients := s.clients
	s.mu.Unlock()
	only := s.sinks[o.stream] == nil && len(clients) == 1
	for _, c := range clients {
		if c.wants[o.stream] && !c.send(frame, only) {
			s.forget(c)
		}
	}
}

// newPipe makes a standard input: the process's end blocks, ours is waited for by the runtime's poller.
func newPipe() (theirs, ours *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[1], true); err != nil {
		_, _ = unix.Close(fds[0]), unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "stdin"), os.NewFile(uintptr(fds[1]), "stdin"), nil
}

// newFIFO makes what a process writes to and we read. The process's end is open both ways: it is a reader itself, so
// that no write fails with SIGPIPE if we die, and the next supervisor finds the FIFO by its path.
func newFIFO(path string) (ours, theirs *os.File, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	if ours, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, nil, errors.Join(err, os.Remove(path))
	}
	fd, err := rawfile.RetryValue(func() (int, error) { return unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0) }) // blocking, for the container
	if err != nil {
		return nil, nil, errors.Join(&os.PathError{Op: "open", Path: path, Err: err}, ours.Close(), os.Remove(path))
	}
	return ours, os.NewFile(uintptr(fd), path), nil
}

// newOutputPipe is newFIFO without a name, for a process that no other supervisor looks for.
func newOutputPipe() (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	defer func() { _ = unix.Close(fds[1]) }()
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fds[0]))
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fds[1])
	both, err := rawfile.RetryValue(func() (int, error) { return unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, nil, errors.Join(&os.PathError{Op: "open", Path: path, Err: err}, unix.Close(fds[0]))
	}
	return os.NewFile(uintptr(fds[0]), "output"), os.NewFile(uintptr(both), "output"), nil
}
