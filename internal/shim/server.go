// Package shim is the supervisor: one process that is the parent of all containers of an engine, holds their standard
// streams, writes their logs and knows their exit codes. It speaks containerd's Task API (shim v2) over ttrpc, and an
// attach protocol; see package client, which is how to reach it.
package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"gantry/internal/idle"
	"gantry/internal/shim/client"
	"gantry/oci"
	"gantry/rawfile"
)

// Config is where a supervisor works.
type Config struct {
	Dir       string        // its sockets and FIFOs
	Namespace string        // containerd namespace of its events
	Runtime   string        // state directory of the oci package
	Events    string        // socket of containerd's events service; "": events go nowhere
	Idle      time.Duration // with neither containers nor connections it ends after this long
	Kept      *os.File      // nil, or a socket by which what was kept of an earlier supervisor comes; Serve closes it
}

// Server is a supervisor.
type Server struct {
	config  Config
	runtime *oci.Runtime
	events  *publisher
	keeping keeping

	placing sync.Mutex // guards placed
	placed  string     // the cgroup that option shim_cgroup has named; "": none has

	mu          sync.Mutex
	containers  map[string]*container // nil: being created
	settled     sync.Cond             // of mu: none of containers that was nil is so any more
	conns       int
	oomWatchers map[*oomWatcher]struct{}
	idle        *time.Timer
	ending      bool
	lock        *os.File // held to the exit of the process
	stopped     chan struct{}
	stop        func()
}

// warn reports what no caller can be told.
func warn(what string, err error) { slog.Error(what, "error", err) }

// Serve runs the supervisor of a directory until it has nothing more to do, or ctx ends. ready is called when its
// sockets answer. Containers that an earlier supervisor left are taken over.
func Serve(ctx context.Context, config Config, ready func() error) (err error) {
	s := &Server{config: config, runtime: &oci.Runtime{Root: config.Runtime}, containers: map[string]*container{}, stopped: make(chan struct{})}
	s.settled.L = &s.mu
	s.stop = sync.OnceFunc(func() { close(s.stopped) })
	if err := os.MkdirAll(filepath.Join(config.Dir, "io"), 0o700); err != nil {
		return fmt.Errorf("make the supervisor's directory: %w", err)
	}
	alive, err := alone(config.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alive.Close()) }()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	tasks, err := listen(filepath.Join(config.Dir, client.TaskSocket))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreClosed(tasks.Close())) }()
	attach, err := listen(filepath.Join(config.Dir, client.AttachSocket))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreClosed(attach.Close())) }()
	pidFile := filepath.Join(config.Dir, client.PidFile)
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeFile(pidFile)) }()
	memory := idle.New(trimAfter)
	rpc, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(func(ctx context.Context, u ttrpc.Unmarshaler, i *ttrpc.UnaryServerInfo, m ttrpc.Method) (any, error) {
		memory.Touch()
		return classify(ctx, u, i, m)
	}))
	if err != nil {
		return fmt.Errorf("make the Task service: %w", err)
	}
	task.RegisterTTRPCTaskService(rpc, service{s})
	registerV2(rpc, service{s})

	background, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	s.events = newPublisher(config)
	work.Go(func() { s.events.run(background) })
	work.Go(func() { s.reapOrphans(background) })
	kept := receiveKept(config.Kept)
	s.adopt(background, kept)
	for _, k := range kept { // of containers that are gone
		_ = k.file.Close()
	}
	s.mu.Lock()
	s.idle = time.AfterFunc(10*time.Second, s.endIdle) // time for the first connection
	s.mu.Unlock()
	go s.serveAttach(attach)
	failed := make(chan error, 1)
	go func() { failed <- rpc.Serve(background, countingListener{tasks, s}) }()
	if err := ready(); err != nil {
		return fmt.Errorf("report readiness: %w", err)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	defer signal.Stop(term)
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-s.stopped:
			running = false
		case <-term: // with containers it stays, as init would
			running = !s.end(s.empty)
		case err := <-failed:
			return fmt.Errorf("serve the Task API: %w", err)
		}
	}
	// Answers under way get time to leave.
	grace, end := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer end()
	if err := rpc.Shutdown(grace); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return ignoreClosed(rpc.Close())
}

// ErrTaken is the error of Serve if another supervisor has the directory.
var ErrTaken = errors.New("another supervisor has the directory")

// alone makes this the only supervisor of the directory until the file is closed: two would read the same outputs. Of two that
// were started at once, since the starter of the first one was killed, the second one gives up.
func alone(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, client.AliveFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = rawfile.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		err = ErrTaken
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// listen makes a socket that only its owner can use, in the place of a dead supervisor's.
func listen(path string) (net.Listener, error) {
	if err := removeFile(path); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// trimAfter is how long after the last call memory is given back.
const trimAfter = time.Second

// classify gives errors the status codes by which package errdefs knows them on the other side, and keeps their text.
func classify(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	response, err := method(ctx, unmarshal)
	switch {
	case err == nil:
		return response, nil
	case (errors.Is(err, oci.ErrNotRunning) || errors.Is(err, oci.ErrPaused)) && !errdefs.IsFailedPrecondition(err):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil, errgrpc.ToGRPC(err)
}

// IgnoreSignals keeps the supervisor alive when its engine's terminal or group ends. Handlers, unlike an ignored
// signal, are not inherited by containers.
func IgnoreSignals() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGPIPE, unix.SIGINT)
}

// reserve takes an id for a container that is to be made.
func (s *Server) reserve(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return fmt.Errorf("create container %s: the supervisor is ending: %w", id, errdefs.ErrUnavailable)
	}
	if _, taken := s.containers[id]; taken {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.containers[id] = nil
	return nil
}

// settle fills the reserved place, or gives it up.
func (s *Server) settle(id string, c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.settled.Broadcast()
	if c == nil {
		delete(s.containers, id)
		s.armIdle()
		return
	}
	s.containers[id] = c
}

func (s *Server) forget(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
	s.armIdle()
}

// empty tells that there are no containers. mu is held.
func (s *Server) empty() bool { return len(s.containers) == 0 }

func (s *Server) find(id, execID string) (*container, *process, error) {
	s.mu.Lock()
	c := s.containers[id]
	s.mu.Unlock()
	if c == nil {
		return nil, nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	p, err := c.process(execID)
	return c, p, err
}

// ids are those of all containers, also of those that are being created: await their end before anything else.
func (s *Server) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.containers))
}

// await returns when no container of the id is being created. An engine that was killed may have asked for one.
func (s *Server) await(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, made := s.containers[id]; made && c == nil; c, made = s.containers[id] {
		s.settled.Wait()
	}
}

// armIdle starts the countdown to the end if there is nothing to do. mu is held.
func (s *Server) armIdle() {
	if s.idle != nil && s.conns == 0 && len(s.containers) == 0 {
		s.idle.Reset(s.config.Idle)
	}
}

// endIdle ends a supervisor that nobody needs.
func (s *Server) endIdle() {
	if !s.end(func() bool { return s.conns == 0 && len(s.containers) == 0 }) {
		s.mu.Lock()
		s.armIdle()
		s.mu.Unlock()
	}
}

// end ends the supervisor if unused says so under mu. From then to its exit it holds the lock under which its successor
// is started, so that it removes nothing of the successor's; and who connects holds the lock until it is counted.
func (s *Server) end(unused func() bool) bool {
	at, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	lock, err := client.Lock(at, s.config.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a directory that was removed is one that nobody can connect by
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !unused() {
		if lock != nil {
			_ = lock.Close()
		}
		return false
	}
	s.lock, s.ending = lock, true
	s.stop()
	return true
}

// countingListener counts the connections of the Task API.
type countingListener struct {
	net.Listener
	server *Server
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.server.mu.Lock()
	l.server.conns++
	l.server.mu.Unlock()
	return &countedConn{Conn: c, server: l.server}, nil
}

type countedConn struct {
	net.Conn
	server *Server
	once   sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.server.mu.Lock()
		c.server.conns--
		c.server.armIdle()
		c.server.mu.Unlock()
	})
	return c.Conn.Close()
}
