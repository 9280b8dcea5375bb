package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
)

// execution is one docker exec. It is not stored: it ends with its container, or is forgotten with the engine.
type execution struct {
	ID        string
	container *Container
	request   container.ExecCreateRequest
	prepared  chan preparation // has what came of prepare; nil: it is done at the start

	mu      sync.Mutex // guards what follows
	started bool
	running bool
	code    *int
	pid     int
	ended   time.Time
	lost    bool          // the supervisor was killed: code is unknownStatus
	done    chan struct{} // closed when it has ended
}

// specAny is the type that shims know a runtime specification's process by.
const specAny = "types.containerd.io/opencontainers/runtime-spec/1/Process"

// CreateExec prepares another process for a running container.
func (e *Engine) CreateExec(_ context.Context, id string, r container.ExecCreateRequest) (string, error) {
	c, err := e.canExec(id)
	if err != nil {
		return "", err
	}
	if len(r.Cmd) == 0 || r.Cmd[0] == "" {
		return "", refuse("no exec command specified")
	}
	x := &execution{ID: randomID(), container: c, request: r, done: make(chan struct{})}
	e.mu.Lock()
	e.dropOldExecs()
	e.execs[x.ID] = x
	e.mu.Unlock()
	c.mu.Lock()
	c.execs = append(c.execs, x.ID)
	c.mu.Unlock()
	if !r.Tty { // while the client says start; the size of a terminal comes with that
		x.prepared = make(chan preparation, 1)
		e.background(func(ctx context.Context) {
			shim, err := x.prepare(ctx, ExecStart{})
			x.prepared <- preparation{shim, err}
		})
	}
	e.containerEvent(c, events.Action(fmt.Sprintf("%s: %s", events.ActionExecCreate, execLine(r.Cmd))), "execID", x.ID)
	return x.ID, nil
}

// execLine is a command as docker's events give it: the program, a space, and the arguments without any quotes.
func execLine(words []string) string { return words[0] + " " + strings.Join(words[1:], " ") }

// canExec finds a container that another process can be put into.
func (e *Engine) canExec(id string) (*Container, error) {
	c, err := e.lookup(id)
	if err != nil {
		return nil, err
	}
	switch c.view().phase {
	case phaseRunning:
		return c, nil
	case phasePaused:
		return nil, fmt.Errorf("Container %s is paused, unpause the container before exec%w", id, noText{errdefs.ErrConflict})
	}
	return nil, fmt.Errorf("container %s is not running%w", c.ID, noText{errdefs.ErrConflict})
}

func (e *Engine) execution(id string) (*execution, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.execs[id]
	if x == nil {
		return nil, fmt.Errorf("No such exec instance: %s%w", id, noText{errdefs.ErrNotFound})
	}
	return x, nil
}

// StartExec runs a prepared process. The stream is nil if detached; tty tells that it has no frames, which depends on
// what the start asks for, not on whether the process has a terminal. A program that cannot be executed is told on the
// stream and by exit code 126 or 127, as docker does; detached it is an error.
func (e *Engine) StartExec(ctx context.Context, id string, o ExecStart) (s Stream, tty bool, err error) {
	x, err := e.execution(id)
	if err != nil {
		return nil, false, err
	}
	x.mu.Lock()
	again := x.started
	x.started = true
	x.mu.Unlock()
	if again {
		return nil, false, fmt.Errorf("exec %s has already run%w", id, noText{errdefs.ErrConflict})
	}
	if _, err := e.canExec(x.container.ID); err != nil {
		return nil, false, err
	}
	e.containerEvent(x.container, events.Action(fmt.Sprintf("%s: %s", events.ActionExecStart, execLine(x.request.Cmd))), "execID", x.ID)
	conn, shim, err := x.run(ctx, o)
	if errdefs.IsFailedPrecondition(err) && x.container.view().phase.alive() { // it is being paused, or about to end
		x.finish(126)
		return nil, false, fmt.Errorf("%s%w", err.Error(), noText{errdefs.ErrConflict})
	}
	if isNotRunning(err) || err != nil && !x.container.view().phase.alive() { // it has ended since
		x.finish(126)
		return nil, false, fmt.Errorf("container %s is not running%w", x.container.ID, noText{errdefs.ErrConflict})
	}
	if lost(ctx, err) {
		x.finish(unknownStatus)
		return nil, false, fmt.Errorf("exec in container %s: the supervisor was killed while the command was started: whether it runs, and its exit status, are unknown%w", x.container.view().record.Name, noText{errdefs.ErrUnavailable})
	}
	if err != nil {
		code := startExitCode(err)
		told := code != 128
		if !told {
			code = 126 // as docker has it for whatever else went wrong
		}
		x.finish(code)
		if o.Detach || !told {
			return nil, false, refuse("%w", err)
		}
		return message(err, o.TTY), o.TTY, nil
	}
	e.background(func(ctx context.Context) { x.watch(ctx, shim) })
	if conn == nil {
		return nil, o.TTY, nil
	}
	return reframe(&execStream{UnixConn: conn, execution: x}, x.request.Tty, o.TTY), o.TTY, nil
}

// run makes the process and, unless detached, a stream to it that misses nothing; both are at the supervisor that it returns.
func (x *execution) run(ctx context.Context, o ExecStart) (*net.UnixConn, *client.Shim, error) {
	c := x.container
	shim, err := x.awaitPrepared(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	attached := x.attach(ctx, shim, o)
	response, err := shim.Task.Start(ctx, &task.StartRequest{ID: c.ID, ExecID: x.ID})
	conn := <-attached
	if err != nil {
		err = x.failure(err)
	}
	if err = errors.Join(err, conn.err); err != nil {
		if conn.stream != nil {
			_ = conn.stream.Close()
		}
		x.abandon(ctx, shim)
		return nil, nil, err
	}
	x.mu.Lock()
	x.running, x.pid = true, int(response.Pid)
	x.mu.Unlock()
	return conn.stream, shim, nil
}

// preparation is what came of prepare.
type preparation struct {
	shim *client.Shim
	err  error
}

// awaitPrepared returns the supervisor that knows what the process will be. It prepares again what was lost with a supervisor.
func (x *execution) awaitPrepared(ctx context.Context, o ExecStart) (*client.Shim, error) {
	if x.prepared == nil {
		return x.prepare(ctx, o)
	}
	p := <-x.prepared
	if p.err == nil {
		select {
		case <-p.shim.Closed():
			return x.prepare(ctx, o)
		default:
		}
	}
	return p.shim, p.err
}

// prepare tells the supervisor, which it returns, what the process will be.
func (x *execution) prepare(ctx context.Context, o ExecStart) (shim *client.Shim, err error) {
	process, err := x.process(ctx, o)
	if err != nil {
		return nil, err
	}
	value, err := json.Marshal(process)
	if err != nil {
		return nil, err
	}
	request := &task.ExecProcessRequest{
		ID: x.container.ID, ExecID: x.ID, Terminal: x.request.Tty, Stdout: "attach:", Stderr: "attach:",
		Spec: &anypb.Any{TypeUrl: specAny, Value: value},
	}
	if x.waits() {
		request.Stdout, request.Stderr = client.AttachWait, client.AttachWait
	}
	if x.request.AttachStdin {
		request.Stdin = "attach:?once"
	}
	if x.request.Tty {
		request.Stderr = ""
	}
	err = x.container.engine.call(ctx, func(s *client.Shim) error {
		shim = s
		_, err := s.Task.Exec(ctx, request)
		return err
	})
	if err != nil {
		return nil, x.failure(err)
	}
	return shim, nil
}

// failure says what the supervisor tells of the process in the user's terms, and keeps its class.
func (x *execution) failure(err error) error {
	c := x.container
	err = native(err)
	return fmt.Errorf("OCI runtime exec failed: %s%w", userTerms(err.Error(), c.ID, c.view().record.Name, nil), noText{err})
}

// waits tells that the output waits for a client.
func (x *execution) waits() bool { return x.request.AttachStdout || x.request.AttachStderr }

// execConn is a connection to the streams of a process; nil if it is detached.
type execConn struct {
	stream *net.UnixConn
	err    error
}

// attach connects while the process starts: its output waits. Of a detached one that was to wait it is let go.
func (x *execution) attach(ctx context.Context, shim *client.Shim, o ExecStart) <-chan execConn {
	attached := make(chan execConn, 1)
	if o.Detach && !x.waits() {
		attached <- execConn{}
		return attached
	}
	r := client.AttachRequest{
		ID: x.container.ID, ExecID: x.ID, Stdin: x.request.AttachStdin, Stdout: x.request.AttachStdout, Stderr: x.request.AttachStderr,
	}
	go func() {
		var a execConn
		a.stream, a.err = shim.Attach(ctx, r)
		if o.Detach && a.err == nil {
			a.err = a.stream.Close()
			a.stream = nil
		}
		attached <- a
	}()
	return attached
}

// abandon ends a process that nobody will watch, if it was made.
func (x *execution) abandon(ctx context.Context, shim *client.Shim) {
	ctx = context.WithoutCancel(ctx)
	id := x.container.ID
	if _, err := shim.Task.Kill(ctx, &task.KillRequest{ID: id, ExecID: x.ID, Signal: uint32(unix.SIGKILL), All: true}); err == nil {
		_, _ = shim.Task.Wait(ctx, &task.WaitRequest{ID: id, ExecID: x.ID}) // drop tells what went wrong
	}
	x.drop(ctx, shim)
}

func (x *execution) drop(ctx context.Context, shim *client.Shim) {
	_, err := shim.Task.Delete(context.WithoutCancel(ctx), &task.DeleteRequest{ID: x.container.ID, ExecID: x.ID})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) && !lost(ctx, err) {
		x.container.engine.log.Warn("forget an exec", "exec", x.ID, "error", err)
	}
}

// process is the container's process with what the request changes.
func (x *execution) process(ctx context.Context, o ExecStart) (*specs.Process, error) {
	c, r := x.container, x.request
	p, err := c.firstProcess()
	if err != nil {
		return nil, err
	}
	p.Args, p.Terminal, p.ConsoleSize = r.Cmd, r.Tty, nil
	if r.WorkingDir != "" {
		p.Cwd = filepath.Join("/", r.WorkingDir)
	}
	if size := o.Size; size != nil && r.Tty {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	} else if size := r.ConsoleSize; size != nil && r.Tty {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	host := c.view().record.Config.HostConfig
	caps, err := capabilities(host.CapAdd, host.CapDrop, host.Privileged || r.Privileged)
	if err != nil {
		return nil, err
	}
	if r.User != "" {
		id, err := c.identity(r.User, host.GroupAdd)
		if err != nil {
			return nil, err
		}
		p.User = id.spec()
		p.Env = mergeEnv(p.Env, []string{"HOME=" + id.Home}, false)
	}
	p.Env = mergeEnv(p.Env, r.Env, r.Tty)
	p.Capabilities = processCapabilities(caps, p.User.UID)
	return p, nil
}

// firstProcess is a copy of how the container's first process was made. The bundle is read once a run.
func (c *Container) firstProcess() (*specs.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == nil {
		return nil, fmt.Errorf("container %s is not running%w", c.ID, noText{errdefs.ErrConflict})
	}
	if c.run.process == nil {
		text, err := os.ReadFile(filepath.Join(c.runDir(), "config.json"))
		if err != nil {
			return nil, err
		}
		var spec specs.Spec
		if err := json.Unmarshal(text, &spec); err != nil {
			return nil, fmt.Errorf("read the bundle of container %s: %w", c.ID, err)
		}
		c.run.process = spec.Process
	}
	p := *c.run.process
	return &p, nil
}

// identity resolves a user with the files that the running container has.
func (c *Container) identity(user string, groups []string) (identity, error) {
	v := c.view()
	if !v.phase.alive() {
		return identity{}, fmt.Errorf("container %s is not running%w", v.record.Name, noText{errdefs.ErrConflict})
	}
	fd, err := liveRoot(v.run.Pid, c.ID)
	if err != nil {
		return identity{}, fmt.Errorf("look up user %s in container %s: %w", user, v.record.Name, err)
	}
	root := rootView{fd: fd}
	defer unix.Close(fd)
	return root.userOf(user, groups)
}

// mergeEnv puts more variables over env.
func mergeEnv(env, more []string, tty bool) []string {
	c := &container.Config{Env: append(append([]string{}, env...), more...), Tty: tty}
	return environment(c, start{})
}

// watch waits for the end of the process and forgets it in the supervisor. If the supervisor is killed, nobody learns the end.
func (x *execution) watch(ctx context.Context, shim *client.Shim) {
	c := x.container
	code := unknownStatus
	response, err := shim.Task.Wait(ctx, &task.WaitRequest{ID: c.ID, ExecID: x.ID})
	if err == nil {
		code = int(response.ExitStatus)
	} else if lost(ctx, err) {
		x.mu.Lock()
		x.lost = true
		x.mu.Unlock()
	}
	x.finish(code) // who waits for it need not wait for what follows
	if err == nil {
		x.drop(ctx, shim)
	}
	c.engine.containerEvent(c, events.ActionExecDie, "execID", x.ID, "exitCode", fmt.Sprint(code))
}

func (x *execution) finish(code int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.code != nil {
		return
	}
	x.running, x.code, x.ended = false, &code, time.Now()
	close(x.done)
	c := x.container
	c.mu.Lock()
	c.execs = slices.DeleteFunc(c.execs, func(id string) bool { return id == x.ID })
	c.mu.Unlock()
}

// keptExecs is how long clients may ask how an execution ended.
const keptExecs = 5 * time.Minute

// dropOldExecs forgets executions that ended a while ago. The engine's mu is held.
func (e *Engine) dropOldExecs() {
	maps.DeleteFunc(e.execs, func(_ string, x *execution) bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.code != nil && time.Since(x.ended) > keptExecs
	})
}

// forgetExec forgets one execution, at once, also one that was never started.
func (e *Engine) forgetExec(c *Container, id string) {
	c.mu.Lock()
	c.execs = slices.DeleteFunc(c.execs, func(listed string) bool { return listed == id })
	c.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.execs, id)
}

// forgetExecs forgets the executions of an earlier run. (Until then, clients may ask for their exit codes.)
func (c *Container) forgetExecs() {
	c.mu.Lock()
	c.execs = nil
	c.mu.Unlock()
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	maps.DeleteFunc(c.engine.execs, func(_ string, x *execution) bool { return x.container == c })
}

// InspectExec describes an execution.
func (e *Engine) InspectExec(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	x, err := e.execution(id)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	r := &x.request
	return &container.ExecInspectResponse{
		ID: x.ID, Running: x.running, ExitCode: x.code, ContainerID: x.container.ID, Pid: x.pid, CanRemove: x.code != nil,
		OpenStdin: r.AttachStdin, OpenStdout: r.AttachStdout, OpenStderr: r.AttachStderr, DetachKeys: []byte(r.DetachKeys),
		ProcessConfig: &container.ExecProcessConfig{
			Tty: r.Tty, Entrypoint: r.Cmd[0], Arguments: append([]string{}, r.Cmd[1:]...), Privileged: &r.Privileged, User: r.User,
		},
	}, nil
}

// ResizeExec sets the size of an execution's terminal, in cells.
func (e *Engine) ResizeExec(ctx context.Context, id string, height, width uint) error {
	x, err := e.execution(id)
	if err != nil {
		return err
	}
	x.mu.Lock()
	running := x.running
	x.mu.Unlock()
	if !running {
		return refuse("exec process is not started")
	}
	return e.resize(ctx, x.container.ID, x.ID, height, width)
}

// execStream ends only when the exit code is known, since clients ask for it next, or known to be unknown.
type execStream struct {
	*net.UnixConn
	execution *execution
	frames    frameReader
	over      bool
	message   []byte // the last output
}

func (s *execStream) Read(p []byte) (int, error) {
	x := s.execution
	if !s.over {
		n, err := s.UnixConn.Read(p)
		if n > 0 || err == nil {
			if !x.request.Tty {
				s.frames.pass(p[:n])
			}
			return n, nil
		}
		<-x.done
		x.mu.Lock()
		isLost := x.lost
		x.mu.Unlock()
		if !isLost {
			return 0, err
		}
		s.over = true
		if s.frames.isBetween() {
			s.message = lossMessage(lostExec, x.request.Tty, client.AttachRequest{Stdout: x.request.AttachStdout, Stderr: x.request.AttachStderr})
		}
	}
	if len(s.message) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.message)
	s.message = s.message[n:]
	return n, nil
}

// lostExec is the end of the stream of an execution whose supervisor was killed.
const lostExec = "the supervisor was killed: the exit status of this command is unknown, and its output from now on is lost; the container goes on"

// messageStream delivers one message to a client that waits for output.
type messageStream struct{ io.Reader }

func message(err error, tty bool) Stream {
	text := []byte(err.Error() + "\r\n")
	if tty {
		return messageStream{bytes.NewReader(text)}
	}
	var framed bytes.Buffer
	_ = logs.Frame(&framed, logs.Stderr, text) // a buffer takes everything
	return messageStream{&framed}
}

func (messageStream) Write(p []byte) (int, error) { return len(p), nil }
func (messageStream) CloseWrite() error           { return nil }
func (messageStream) Close() error                { return nil }
