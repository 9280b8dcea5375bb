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
// supervisor, URIs: json-file:///path?… (package logs: the supervisor writes the log) or attach: (no log, live only).
// stdin is "" (none), a FIFO, attach: (stays open when a client goes), or attach:?once (closed when the first client closes it).
//
// # Attach protocol
//
// The client sends one line of JSON (AttachRequest); the supervisor answers one line ({} or {"error":"…"}). From there
// the client's bytes are stdin (half-close ends them), and the supervisor's bytes are the output from now on: raw for
// a terminal, else frames of Docker's multiplexed stream. When the process has ended and its output is drained the
// supervisor closes. A client that reads slowly slows the container down as a slow terminal would.
package client

import (
	"context"
	"net"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
)

// AttachRequest is the first line of an attach connection.
type AttachRequest struct {
	ID     string `json:"id"`
	ExecID string `json:"exec,omitempty"`
	Stdin  bool   `json:"stdin,omitempty"`
	Stdout bool   `json:"stdout,omitempty"`
	Stderr bool   `json:"stderr,omitempty"`
}

// Options are how to start a supervisor.
type Options struct {
	Binary    string // path of containerd-shim-…-v1
	Namespace string // containerd namespace; "gantry"
	Dir       string // the supervisor's directory (task.sock, attach.sock)
	Runtime   string // state directory of the oci package
	// Events, if set, is a ttrpc address (path of a socket) of containerd.services.events.ttrpc.v1.Events, which the
	// supervisor forwards its task events to (TaskExit, TaskOOM, …) and retries while nobody listens.
	Events string
}

// Shim is a connection to a running supervisor. It is safe for concurrent use.
type Shim struct {
	Task task.TTRPCTaskService
	Pid  int
}

// Connect returns the supervisor of the directory, starting it (as a daemon of its own session, outside the engine's
// cgroup and process group, so that it outlives the engine) if none answers. started says which.
func Connect(ctx context.Context, o Options) (shim *Shim, started bool, err error) { panic("contract") }

// Attach opens a stream to a process.
func (s *Shim) Attach(ctx context.Context, r AttachRequest) (*net.UnixConn, error) { panic("contract") }

// Closed is closed when the supervisor is gone.
func (s *Shim) Closed() <-chan struct{} { panic("contract") }

// Close closes the connection; the supervisor goes on.
func (s *Shim) Close() error { panic("contract") }

// Exit is what is known of a process that has ended.
type Exit struct {
	Status    int // 0 to 255; 128+n for signal n
	At        time.Time
	OOMKilled bool
}
