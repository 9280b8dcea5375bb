package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"gantry/internal/shim/client"
)

// maxSupervisors is how many supervisors may die under one call before it fails.
const maxSupervisors = 20

// supervisor returns a live connection to the supervisor, starting one if there is none.
func (e *Engine) supervisor(ctx context.Context) (*client.Shim, error) {
	e.shimMu.Lock()
	defer e.shimMu.Unlock()
	if e.shim != nil {
		select {
		case <-e.shim.Closed():
			e.shim = nil
		default:
			return e.shim, nil
		}
	}
	if e.ctx.Err() != nil {
		return nil, fmt.Errorf("the engine is closing: %w", e.ctx.Err())
	}
	e.keeper.Await(ctx)
	shim, _, err := client.Connect(ctx, client.Options{
		Binary:    e.o.Shim,
		Namespace: "gantry",
		Dir:       filepath.Join(e.o.Run, "shim"),
		Runtime:   filepath.Join(e.o.Run, "runtime"),
		Keeper:    &e.keeper,
	})
	if err != nil {
		return nil, fmt.Errorf("reach the supervisor: %w", err)
	}
	if err := e.keeper.Keep(e.ctx, shim); err != nil && !severed(err) {
		e.log.Warn("terminals and inputs of containers would end with the supervisor", "error", err)
	}
	e.shim = shim
	return shim, nil
}

// lost reports whether a call failed because the supervisor died or was ending, so that nobody knows what came of the call. The
// errors that a supervisor answers with have a status.
func lost(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil {
		return false
	}
	return severed(err) || errdefs.IsUnavailable(native(err))
}

// call makes a call of the Task API. If the supervisor dies before it answers, the call is made again at the next one,
// which has taken over the containers: f must be safe to repeat. The error has its class back.
func (e *Engine) call(ctx context.Context, f func(*client.Shim) error) error {
	for attempt := 1; ; attempt++ {
		shim, err := e.supervisor(ctx)
		if err != nil {
			return err
		}
		err = native(f(shim))
		if !lost(ctx, err) || attempt == maxSupervisors {
			return err
		}
		awaitLoss(ctx, shim)
	}
}

// awaitLoss returns once the connection is known to be closed, which a failed call may learn first.
func awaitLoss(ctx context.Context, shim *client.Shim) {
	patience := time.NewTimer(time.Second) // for a supervisor that answers that it is ending
	defer patience.Stop()
	select {
	case <-shim.Closed():
	case <-ctx.Done():
	case <-patience.C:
	}
}

// deleteTask kills what is left of a task and deletes it, whichever supervisor has it.
func (e *Engine) deleteTask(ctx context.Context, id string) error {
	err := e.call(ctx, func(shim *client.Shim) error {
		_, err := shim.Task.Delete(ctx, &task.DeleteRequest{ID: id})
		if !errdefs.IsFailedPrecondition(native(err)) {
			return err
		}
		// It runs. What these two answer does not matter if the task can be deleted then.
		_, killErr := shim.Task.Kill(ctx, &task.KillRequest{ID: id, Signal: 9, All: true})
		if _, err := shim.Task.Wait(ctx, &task.WaitRequest{ID: id}); lost(ctx, err) {
			return err
		}
		if _, err = shim.Task.Delete(ctx, &task.DeleteRequest{ID: id}); err != nil && !lost(ctx, err) {
			return errors.Join(err, killErr)
		}
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete the task of container %s: %w", id, err)
	}
	return nil
}

// taskState asks for the state of a container's task.
func (e *Engine) taskState(ctx context.Context, id string) (state tasktypes.Status, err error) {
	err = e.call(ctx, func(shim *client.Shim) error {
		response, err := shim.Task.State(ctx, &task.StateRequest{ID: id})
		if err == nil {
			state = response.Status
		}
		return err
	})
	return state, err
}

// startTask executes the program of a created task. If the supervisor dies meanwhile, the next one says whether the program
// was executed: it must not be executed twice.
func (e *Engine) startTask(ctx context.Context, id string) error {
	again := false
	return e.call(ctx, func(shim *client.Shim) error {
		if again {
			response, err := shim.Task.State(ctx, &task.StateRequest{ID: id})
			if err != nil || response.Status != tasktypes.Status_CREATED {
				return err
			}
		}
		again = true
		_, err := shim.Task.Start(ctx, &task.StartRequest{ID: id})
		return err
	})
}

// hold keeps open what must outlive the supervisor. A container runs without it.
func (c *Container) hold(r *run) {
	held, err := client.Hold(filepath.Join(c.engine.o.Run, "shim"), c.ID, r.Pid)
	if err != nil {
		c.engine.log.Warn("what a container writes last may be lost with the supervisor", "container", c.ID, "error", err)
	}
	r.held = held
}

// freeze pauses a task, or resumes it. After the loss of a supervisor the next one says which of the two it is.
func (e *Engine) freeze(ctx context.Context, id string, pause bool) error {
	again := false
	return e.call(ctx, func(shim *client.Shim) error {
		if again {
			response, err := shim.Task.State(ctx, &task.StateRequest{ID: id})
			if err != nil || (response.Status == tasktypes.Status_PAUSED) == pause {
				return err
			}
		}
		again = true
		var err error
		if pause {
			_, err = shim.Task.Pause(ctx, &task.PauseRequest{ID: id})
		} else {
			_, err = shim.Task.Resume(ctx, &task.ResumeRequest{ID: id})
		}
		return err
	})
}

// severed reports whether an error is that of a connection whose other end has gone.
func severed(err error) bool {
	var broken *net.OpError
	return errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &broken)
}

// attachTo opens a stream to a process, and says at which supervisor.
func (e *Engine) attachTo(ctx context.Context, r client.AttachRequest) (*net.UnixConn, *client.Shim, error) {
	for attempt := 1; ; attempt++ {
		shim, err := e.supervisor(ctx)
		if err != nil {
			return nil, nil, err
		}
		conn, err := shim.Attach(ctx, r)
		if !severed(err) || ctx.Err() != nil || attempt == maxSupervisors {
			return conn, shim, err
		}
		awaitLoss(ctx, shim)
	}
}

// sweepTasks deletes the tasks that belong to no run that this engine knows of: their start was not finished.
func (e *Engine) sweepTasks(ctx context.Context) error {
	var ids []string
	err := e.call(ctx, func(shim *client.Shim) (err error) {
		ids, err = shim.List(ctx)
		return err
	})
	errs := []error{err}
	for _, id := range ids {
		if c := e.containers[id]; c == nil || c.run == nil {
			errs = append(errs, e.deleteTask(ctx, id))
		}
	}
	return errors.Join(errs...)
}
