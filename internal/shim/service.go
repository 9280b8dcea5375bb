package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gantry/internal/version"
	"gantry/oci"
)

// service is containerd.task.v3.Task.
type service struct{ *Server }

var done = &emptypb.Empty{}

// identifier is what can be a file's name with a suffix.
var identifier = regexp.MustCompile(`^[A-Za-z0-9][\w.+-]{0,199}$`)

// Create makes a container up to where its program would be executed.
func (s service) Create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	switch {
	case !identifier.MatchString(r.ID):
		return nil, fmt.Errorf("container id %q: %w", r.ID, errdefs.ErrInvalidArgument)
	case r.Checkpoint != "":
		return nil, fmt.Errorf("create container %s from a checkpoint: %w", r.ID, errdefs.ErrNotImplemented)
	}
	if err := s.reserve(r.ID); err != nil {
		return nil, err
	}
	c, err := s.create(context.WithoutCancel(ctx), r)
	s.settle(r.ID, c)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return nil, err
	}
	s.events.publish(&events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Pid: c.init.number(),
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	return &task.CreateTaskResponse{Pid: c.init.number()}, nil
}

// Start executes the program of a container or of an exec.
func (s service) Start(ctx context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if p == c.init {
		c.op.Lock()
		err = c.start(ctx)
		c.op.Unlock()
	} else {
		err = c.startExec(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	return &task.StartResponse{Pid: p.number()}, nil
}

// Exec prepares a process; Start makes it.
func (s service) Exec(_ context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	if !identifier.MatchString(r.ExecID) {
		return nil, fmt.Errorf("exec id %q: %w", r.ExecID, errdefs.ErrInvalidArgument)
	}
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	if err := c.addExec(r); err != nil {
		return nil, err
	}
	s.events.publish(&events.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return done, nil
}

// Delete forgets a process that has ended and says how.
func (s service) Delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	s.await(r.ID)
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p == c.init {
		c.op.Lock()
		err = c.remove(context.WithoutCancel(ctx))
		c.op.Unlock()
		if err != nil {
			return nil, err
		}
		s.forget(c)
	} else {
		p.mu.Lock()
		pending := p.spec != nil
		p.spec = nil
		p.mu.Unlock()
		if pending {
			p.release()
		} else if !p.hasExited() {
			return nil, fmt.Errorf("delete exec %s of container %s: it is running: %w", r.ExecID, r.ID, errdefs.ErrFailedPrecondition)
		}
		c.mu.Lock()
		delete(c.execs, r.ExecID)
		c.mu.Unlock()
	}
	at := timestamppb.New(p.exit.At)
	s.events.publish(&events.TaskDelete{ContainerID: r.ID, ID: r.ExecID, Pid: p.number(), ExitStatus: uint32(p.exit.Status), ExitedAt: at})
	return &task.DeleteResponse{Pid: p.number(), ExitStatus: uint32(p.exit.Status), ExitedAt: at}, nil
}

// State is the state of a process.
func (s service) State(_ context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	paused := c.paused && p == c.init
	c.mu.Unlock()
	state := &task.StateResponse{
		ID: r.ID, ExecID: r.ExecID, Bundle: c.bundle, Pid: p.number(), Status: p.status(paused),
		Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr, Terminal: p.terminal,
	}
	if state.Status == tasktypes.Status_STOPPED {
		state.ExitStatus, state.ExitedAt = uint32(p.exit.Status), timestamppb.New(p.exit.At)
	}
	return state, nil
}

// Wait returns when a process has ended and its output is where it belongs.
func (s service) Wait(ctx context.Context, r *task.WaitRequest) (*task.WaitResponse, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.exited:
	}
	return &task.WaitResponse{ExitStatus: uint32(p.exit.Status), ExitedAt: timestamppb.New(p.exit.At)}, nil
}

// Kill sends a signal to a process, or to all of a container. All with SIGKILL for a process of exec is for its descendants too.
func (s service) Kill(_ context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	sig := unix.Signal(r.Signal)
	if sig == unix.SIGKILL && p == c.init {
		c.mu.Lock()
		c.killed = true
		c.mu.Unlock()
	}
	switch {
	case r.All && p == c.init:
		err = c.oci.Kill(sig, true)
	case r.All && sig == unix.SIGKILL:
		err = c.killTree(p)
	default:
		err = p.signal(sig)
	}
	if err != nil {
		return nil, err
	}
	if sig == unix.SIGKILL { // the frozen die when they are thawed
		c.mu.Lock()
		paused := c.paused
		c.mu.Unlock()
		if paused {
			if _, err := s.resume(c); err != nil && !errors.Is(err, oci.ErrNotRunning) && !errdefs.IsFailedPrecondition(err) {
				return nil, err
			}
		}
	}
	return done, nil
}

// Pause freezes a container.
func (s service) Pause(_ context.Context, r *task.PauseRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	paused := c.paused
	c.mu.Unlock()
	if paused {
		return nil, fmt.Errorf("container %s is paused: %w", r.ID, errdefs.ErrFailedPrecondition)
	}
	if err := c.oci.Pause(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.paused = true
	killed := c.killed
	c.mu.Unlock()
	if killed { // on cgroup v1 a frozen process does not die
		_, err := s.thaw(c)
		return nil, errors.Join(fmt.Errorf("pause container %s: %w", r.ID, oci.ErrNotRunning), err)
	}
	s.events.publish(&events.TaskPaused{ContainerID: r.ID})
	return done, nil
}

// Resume thaws a container.
func (s service) Resume(_ context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	return s.resume(c)
}

func (s service) resume(c *container) (*emptypb.Empty, error) {
	c.op.Lock()
	defer c.op.Unlock()
	return s.thaw(c)
}

// thaw ends a pause. op is held.
func (s service) thaw(c *container) (*emptypb.Empty, error) {
	c.mu.Lock()
	paused := c.paused
	c.mu.Unlock()
	if !paused { // another one was faster
		return nil, fmt.Errorf("container %s is not paused: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if err := c.oci.Resume(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.paused = false
	c.mu.Unlock()
	s.events.publish(&events.TaskResumed{ContainerID: c.id})
	return done, nil
}

// Update changes limits; the resources are the runtime specification's, as JSON.
func (s service) Update(_ context.Context, r *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	var res specs.LinuxResources
	if err := json.Unmarshal(r.GetResources().GetValue(), &res); err != nil {
		return nil, fmt.Errorf("update container %s: read the resources: %w: %w", r.ID, err, errdefs.ErrInvalidArgument)
	}
	if err := c.oci.Update(&res); err != nil {
		return nil, err
	}
	return done, nil
}

// Pids lists the processes of a container, by the host's numbers.
func (s service) Pids(_ context.Context, r *task.PidsRequest) (*task.PidsResponse, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	g, err := c.cgroup()
	if err != nil {
		return nil, err
	}
	pids, err := g.Procs(true)
	if err != nil {
		return nil, err
	}
	response := &task.PidsResponse{}
	for _, pid := range pids {
		response.Processes = append(response.Processes, &tasktypes.ProcessInfo{Pid: uint32(pid)})
	}
	return response, nil
}

// ResizePty sets a terminal's size.
func (s service) ResizePty(_ context.Context, r *task.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return done, p.streams.resize(uint16(r.Width), uint16(r.Height))
}

// CloseIO ends a standard input.
func (s service) CloseIO(_ context.Context, r *task.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Stdin {
		p.streams.closeStdin()
	}
	return done, nil
}

// Connect names the processes; without an id, the supervisor's.
func (s service) Connect(_ context.Context, r *task.ConnectRequest) (*task.ConnectResponse, error) {
	response := &task.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: version.Version}
	if r.ID == "" {
		return response, nil
	}
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	response.TaskPid = c.init.number()
	return response, nil
}

// answerTime is what the answer to Shutdown gets to leave.
const answerTime = 10 * time.Millisecond

// Shutdown ends the supervisor if it has no containers.
func (s service) Shutdown(context.Context, *task.ShutdownRequest) (*emptypb.Empty, error) {
	time.AfterFunc(answerTime, func() { s.end(s.empty) })
	return done, nil
}

// Checkpoint is not offered.
func (s service) Checkpoint(context.Context, *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint: %w", errdefs.ErrNotImplemented)
}
