package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
	"gantry/internal/shim/spool"
	"gantry/oci"
	"gantry/rawfile"
)

// unknownStatus stands for the status of a process whose end nobody saw. No process ends with it.
const unknownStatus = -1

// process is the first process of a container, or one of exec.
type process struct {
	execID                string // "" for the first one
	terminal              bool
	stdin, stdout, stderr string // addresses
	streams               *streams
	fifos                 []string // paths to remove at the end
	spools                []*spool.Spool

	mu      sync.Mutex
	spec    *specs.Process // of an exec that has not started
	pid     int
	pidfd   *os.File
	started bool
	exit    client.Exit
	exited  chan struct{} // closed when exit is set and the output is where it belongs
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// number is the process's id; 0 before it has one.
func (p *process) number() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return uint32(p.pid)
}

// stdio makes the process's ends of its streams; they are closed when the process has them. path is where its FIFOs
// stand: PATH.stdout and PATH.stderr. With an empty path they have no names: nobody adopts the process.
func (p *process) stdio(path string) (o oci.Stdio, err error) {
	s := p.streams
	if filepath.IsAbs(p.stdin) {
		if err := s.feed(p.stdin); err != nil {
			return o, err
		}
	}
	if p.terminal {
		o.Console = s.setConsole
		return o, nil
	}
	var made []*os.File
	defer func() {
		if err != nil {
			closeAll(append(made, o.Stdin, o.Stdout, o.Stderr))
		}
	}()
	if p.stdin == "" {
		s.setStdin(nil)
	} else {
		var w *os.File
		if o.Stdin, w, err = newPipe(); err != nil {
			return o, err
		}
		s.setStdin(w)
	}
	for _, out := range []struct {
		stream  logs.Stream
		address string
		file    **os.File
	}{{logs.Stdout, p.stdout, &o.Stdout}, {logs.Stderr, p.stderr, &o.Stderr}} {
		if out.address == "" {
			continue
		}
		ours, theirs, err := p.newOutput(path, out.stream)
		if err != nil {
			return o, err
		}
		*out.file = theirs
		var kept *spool.Spool
		if w := s.log(out.stream); w != nil && path != "" {
			kept = spool.New(spoolPath(path, out.stream), warn)
			p.keep(out.stream, w, kept)
		}
		if err := s.copy(out.stream, ours, kept); err != nil {
			return o, errors.Join(err, ours.Close())
		}
	}
	return o, nil
}

func (p *process) newOutput(path string, stream logs.Stream) (ours, theirs *os.File, err error) {
	if path == "" {
		return newOutputPipe()
	}
	name := path + "." + stream.String()
	if ours, theirs, err = newFIFO(name); err == nil {
		p.fifos = append(p.fifos, name)
	}
	return ours, theirs, err
}

// spoolPath is where the spool of an output stands, beside its FIFO.
func spoolPath(path string, stream logs.Stream) string {
	return path + "." + stream.String() + ".spool"
}

// keep makes a spool follow the log of an output.
func (p *process) keep(stream logs.Stream, w *logs.Writer, kept *spool.Spool) {
	p.spools = append(p.spools, kept)
	w.SetJournal(stream, kept)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// watch waits for the process's end, and sets exit by after, in a goroutine that sleeps in the runtime's poller.
func (p *process) watch(pid int, pidfd *os.File, after func(status int)) error {
	fd, err := unix.FcntlInt(pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = pidfd.Close()
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	conn, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, errors.Join(err, file.Close()))
	}
	p.mu.Lock()
	p.pid, p.pidfd = pid, file
	p.mu.Unlock()
	go func() {
		status := unknownStatus
		if err := conn.Read(func(fd uintptr) bool { return ended(pid, int(fd), &status) }); err != nil {
			warn(fmt.Sprintf("watch process %d", pid), err)
		}
		after(status)
	}()
	return nil
}

// ended reaps a child that has ended; for another's child it asks the kernel for the status, which 6.15 and later tell.
func ended(pid, pidfd int, status *int) bool {
	var ws unix.WaitStatus
	n := 0
	err := rawfile.Retry(func() (err error) {
		n, err = unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		return err
	})
	switch {
	case err == unix.ECHILD:
		return foreignEnded(pid, pidfd, status)
	case err != nil:
		return true
	case n == 0:
		return false
	}
	*status = client.StatusOf(ws)
	return true
}

// foreignEnded learns the status of another's child: of a zombie from its stat, of one that its parent has reaped from
// the pidfd, if the kernel keeps it (PIDFD_INFO_EXIT, Linux 6.15).
func foreignEnded(pid, pidfd int, status *int) bool {
	if over, err := rawfile.HasEnded(pidfd); err == nil && !over {
		return false
	}
	if code, known := client.ExitStatus(pid, pidfd); known {
		*status = code
	}
	return true
}

// settle records the end: after it Wait returns.
func (p *process) settle(status int, oom bool) {
	p.streams.drain()
	p.mu.Lock()
	p.exit = client.Exit{Status: status, At: time.Now().UTC(), OOMKilled: oom}
	if status == unknownStatus {
		p.exit.Status, p.exit.Unknown = client.UnknownStatus, true
	}
	p.mu.Unlock()
	for _, s := range []logs.Stream{logs.Stdout, logs.Stderr} {
		if err := p.streams.flush(s); err != nil {
			warn("write the end of an output", err)
		}
	}
	p.release() // before the end is known: a container of the same name may come then
	close(p.exited)
	if p.pidfd != nil { // nil: it had ended before it could be watched
		_ = p.pidfd.Close()
	}
}

// release closes what a process that has ended, or never started, holds.
func (p *process) release() {
	p.streams.finish(func(err error) { warn("close an output", err) })
	for _, path := range p.fifos {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			warn("remove a FIFO", err)
		}
	}
	for _, kept := range p.spools {
		if err := kept.Remove(); err != nil {
			warn("remove a spool", err)
		}
	}
}

// signal sends a signal to the process alone.
func (p *process) signal(sig unix.Signal) error {
	p.mu.Lock()
	file := p.pidfd
	p.mu.Unlock()
	gone := fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	if p.hasExited() {
		return gone
	}
	if file == nil {
		return fmt.Errorf("the process has not started: %w", errdefs.ErrFailedPrecondition)
	}
	conn, err := file.SyscallConn()
	if err == nil {
		var sendErr error
		if err = conn.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err == nil {
			err = sendErr
		}
	}
	if err == unix.ESRCH || err != nil && p.hasExited() { // its pidfd is closed after its end
		return gone
	}
	if err != nil {
		return fmt.Errorf("send signal %d: %w", sig, err)
	}
	return nil
}

func (p *process) status(paused bool) tasktypes.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.hasExited():
		return tasktypes.Status_STOPPED
	case paused:
		return tasktypes.Status_PAUSED
	case p.started:
		return tasktypes.Status_RUNNING
	}
	return tasktypes.Status_CREATED
}
