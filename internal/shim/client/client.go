// Package client starts and talks to a supervisor: any containerd shim v2 through the Task API, and ours also through
// its attach socket. The engine imports this package and nothing else of the shim.
//
// # Files
//
// In the supervisor's directory: task.sock (ttrpc: containerd.task.v3.Task), attach.sock (below), shim.pid; all 0600.
//
// # Standard streams
//
// A Create or Exec request carries in stdout and stderr either paths of FIFOs (as containerd does), or, for our own
// supervisor, URIs: json-file:///path?… (package logs: the supervisor writes the log), attach: (no log, live only), or
// AttachWait (the same, but the output waits for the first client, so that it may come after the start).
// stdin is "" (none), a FIFO, attach: (stays open when a client goes), or attach:?once (closed when the first client closes it).
//
// # Attach protocol
//
// The client sends one line of JSON (AttachRequest); the supervisor answers one line (AttachReply: {} or an error). From
// there the client's bytes are stdin (half-close ends them), and the supervisor's bytes are the output from now on: raw
// for a terminal, else frames of Docker's multiplexed stream. When the process has ended and its output is drained the
// supervisor closes. A client that reads slowly slows the container down as a slow terminal would; one that does not
// read is cut off, with a message as its last output (docs/decisions/016-clients-that-do-not-read.md). With "query":"exit"
// the answer is all, and says how the process ended; with "query":"list" it has the ids of all containers. With "query":"oom"
// see WatchOOM, with "query":"keep" see Keeper.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
)

// Names of the files in the supervisor's directory.
const (
	TaskSocket   = "task.sock"
	AttachSocket = "attach.sock"
	PidFile      = "shim.pid"
	AliveFile    = "shim.alive" // locked by the supervisor as long as it lives
	LockFile     = "shim.lock"  // held by who starts a supervisor, and by a supervisor that ends
	LogFile      = "shim.log"   // its standard error
)

// AttachWait is the address of an output that waits for its first client.
const AttachWait = "attach:?wait"

// QueryExit is the query for a process's Exit, QueryList the one for the ids of all containers.
const (
	QueryExit = "exit"
	QueryList = "list"
)

// AttachRequest is the first line of an attach connection.
type AttachRequest struct {
	ID     string `json:"id"`
	ExecID string `json:"exec,omitempty"`
	Stdin  bool   `json:"stdin,omitempty"`
	Stdout bool   `json:"stdout,omitempty"`
	Stderr bool   `json:"stderr,omitempty"`
	Query  string `json:"query,omitempty"` // "", QueryExit, QueryList, QueryOOM or QueryKeep
}

// AttachReply is the answer's line.
type AttachReply struct {
	Error    string   `json:"error,omitempty"`
	NotFound bool     `json:"notFound,omitempty"` // the error is that there is no such process
	Exit     *Exit    `json:"exit,omitempty"`
	IDs      []string `json:"ids,omitempty"` // of QueryList
}

// UnknownStatus is the status of a process whose end nobody saw, as containerd has it.
const UnknownStatus = 255

// Options are how to start a supervisor.
type Options struct {
	Binary    string // path of containerd-shim-…-v1
	Namespace string // containerd namespace; "gantry"
	Dir       string // the supervisor's directory (task.sock, attach.sock)
	Runtime   string // state directory of the oci package
	// Events, if set, is a ttrpc address (path of a socket) of containerd.services.events.ttrpc.v1.Events, which the
	// supervisor forwards its task events to (TaskExit, TaskOOM, …) and retries while nobody listens.
	Events string
	Keeper *Keeper // nil, or what an earlier supervisor left, for one that has to be started
}

// Shim is a connection to a running supervisor. It is safe for concurrent use.
type Shim struct {
	Task task.TTRPCTaskService
	Pid  int

	dir    string
	conn   *ttrpc.Client
	closed chan struct{}
}

// Exit is what is known of a process that has ended.
type Exit struct {
	Status    int // 0 to 255; 128+n for signal n
	At        time.Time
	OOMKilled bool
	Unknown   bool // nobody saw the end, and the kernel does not tell: Status is UnknownStatus
}

// dial connects to a running supervisor, and has it answer once.
func dial(ctx context.Context, dir string) (*Shim, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, TaskSocket))
	if err != nil {
		return nil, fmt.Errorf("connect to the supervisor: %w", err)
	}
	s := &Shim{dir: dir, closed: make(chan struct{})}
	s.conn = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() { close(s.closed) }))
	s.Task = task.NewTTRPCTaskClient(s.conn)
	reply, err := s.Task.Connect(ctx, &task.ConnectRequest{})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("greet the supervisor: %w", err), s.conn.Close())
	}
	s.Pid = int(reply.ShimPid)
	return s, nil
}

// Attach opens a stream to a process, which need not have started yet.
func (s *Shim) Attach(ctx context.Context, r AttachRequest) (*net.UnixConn, error) {
	conn, _, err := s.ask(ctx, r)
	return conn, err
}

// Exit says how a process (of exec, or the container's first) ended; NotFound if there is none, FailedPrecondition if it runs.
// It is known until the task is deleted.
func (s *Shim) Exit(ctx context.Context, id, execID string) (*Exit, error) {
	conn, reply, err := s.ask(ctx, AttachRequest{ID: id, ExecID: execID, Query: QueryExit})
	if err != nil {
		return nil, err
	}
	if err := conn.Close(); err != nil {
		return nil, fmt.Errorf("close the attach connection: %w", err)
	}
	if reply.Exit == nil {
		return nil, fmt.Errorf("process %s %s has not ended: %w", id, execID, errdefs.ErrFailedPrecondition)
	}
	return reply.Exit, nil
}

// List returns the ids of all containers that the supervisor has.
func (s *Shim) List(ctx context.Context) ([]string, error) {
	conn, reply, err := s.ask(ctx, AttachRequest{Query: QueryList})
	if err != nil {
		return nil, err
	}
	if err := conn.Close(); err != nil {
		return nil, fmt.Errorf("close the attach connection: %w", err)
	}
	return reply.IDs, nil
}

func (s *Shim) ask(ctx context.Context, r AttachRequest) (_ *net.UnixConn, reply AttachReply, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", filepath.Join(s.dir, AttachSocket))
	if err != nil {
		return nil, reply, fmt.Errorf("attach: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = fmt.Errorf("attach: %w", ctx.Err())
		}
		if err != nil {
			_ = c.Close()
		}
	}()
	line, err := json.Marshal(r)
	if err != nil {
		return nil, reply, fmt.Errorf("attach: %w", err)
	}
	if _, err := c.Write(append(line, '\n')); err != nil {
		return nil, reply, fmt.Errorf("attach: %w", err)
	}
	line, err = readLine(c)
	if err == nil {
		err = json.Unmarshal(line, &reply)
	}
	switch {
	case err != nil:
		return nil, reply, fmt.Errorf("attach: read the supervisor's answer: %w", err)
	case reply.NotFound:
		return nil, reply, fmt.Errorf("attach: %s: %w", reply.Error, errdefs.ErrNotFound)
	case reply.Error != "":
		return nil, reply, fmt.Errorf("attach: %s", reply.Error)
	}
	return c.(*net.UnixConn), reply, nil
}

// readLine reads the answer byte by byte: what follows it belongs to the stream.
func readLine(c net.Conn) ([]byte, error) {
	const longest = 4 << 20
	var line []byte
	var b [1]byte
	for len(line) < longest {
		if _, err := c.Read(b[:]); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return line, nil
		}
		line = append(line, b[0])
	}
	return nil, errors.New("the line is too long")
}

// Closed is closed when the supervisor is gone, or the connection was closed.
func (s *Shim) Closed() <-chan struct{} { return s.closed }

// Close closes the connection; the supervisor goes on.
func (s *Shim) Close() error { return s.conn.Close() }
