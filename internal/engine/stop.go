package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"gantry/internal/image"
	"gantry/internal/shim/client"
)

const defaultStopTimeout = 10 // seconds

// StopContainer ends a container: its stop signal, and after timeout seconds (nil: the container's own, -1: never) SIGKILL.
func (e *Engine) StopContainer(ctx context.Context, id, signal string, timeout *int) error {
	c, err := e.lookup(id)
	if err != nil {
		return err
	}
	return c.stop(ctx, signal, timeout)
}

func (c *Container) stop(ctx context.Context, name string, timeout *int) error {
	e := c.engine
	v := c.view()
	img, _ := e.images.Get(ctx, v.record.Image.ID.String(), &v.record.Image.Platform) // only for its stop signal
	if name == "" {
		name = v.record.Config.StopSignal
	}
	sig, err := stopSignal(name, img)
	if err != nil {
		return err
	}
	if v.phase == phaseRestarting {
		if cancelled, err := c.cancelRestart(ctx); cancelled || err != nil {
			return err
		}
	}
	r, err := c.stopping(ctx)
	if err != nil {
		return err
	}
	if err := c.sendSignal(ctx, sig); err != nil && !isNotRunning(err) {
		return err
	}
	if v.phase == phasePaused { // a frozen process cannot act on a signal
		if err := e.UnpauseContainer(ctx, c.ID); err != nil && !errdefs.IsConflict(err) {
			return err
		}
	}
	patience := defaultStopTimeout
	if v.record.Config.StopTimeout != nil {
		patience = *v.record.Config.StopTimeout
	}
	if timeout != nil {
		patience = *timeout
	}
	var over <-chan time.Time
	if patience >= 0 {
		timer := time.NewTimer(time.Duration(patience) * time.Second)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-r.ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-over:
		if err := c.sendSignal(ctx, unix.SIGKILL); err != nil && !isNotRunning(err) {
			return err
		}
		select {
		case <-r.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.settle()
	e.containerEvent(c, events.ActionStop)
	return nil
}

// settle waits until the clean-up after an exit is done.
func (c *Container) settle() {
	c.op.Lock()
	defer c.op.Unlock()
}

// stopping marks the container as stopped by a user and returns its run; ErrNotModified if there is none.
func (c *Container) stopping(ctx context.Context) (*run, error) {
	c.mu.Lock()
	r, alive := c.run, c.phase.alive()
	if alive {
		c.record.Stopped = true
	}
	c.mu.Unlock()
	if !alive {
		return nil, ErrNotModified
	}
	return r, ctx.Err()
}

// cancelRestart keeps the restart policy from starting the container again; false: it has done so, or somebody else has.
func (c *Container) cancelRestart(ctx context.Context) (bool, error) {
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	waiting := c.phase == phaseRestarting
	if waiting {
		c.phase = phaseExited
	}
	code := c.record.Last.ExitCode
	c.mu.Unlock()
	if !waiting {
		return false, nil
	}
	c.retries.cancel()
	c.notify(WaitResult{Status: code}, "next-exit", "not-running")
	return true, c.update(ctx, func(r *record) { r.Stopped = true })
}

// isNotRunning reports that the supervisor found no living process to act on: it has ended, or the container has gone.
func isNotRunning(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err)
}

// conflict is the error of a call that came when the container had another state than it needs.
func (c *Container) conflict(state string) error {
	return fmt.Errorf("container %s is %s%w", c.ID, state, noText{errdefs.ErrConflict})
}

// KillContainer sends a signal (SIGKILL if empty) to a container's first process.
func (e *Engine) KillContainer(ctx context.Context, id, name string) error {
	sig := unix.SIGKILL
	if name != "" {
		var err error
		if sig, err = parseSignal(name); err != nil {
			return err
		}
	}
	c, _, err := e.alive(id)
	if err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", id, err)
	}
	if sig == unix.SIGKILL || sig == c.stopSignal(ctx) {
		if _, err := c.stopping(ctx); err != nil && err != ErrNotModified {
			return err
		}
	}
	if err := c.sendSignal(ctx, sig); err != nil {
		if isNotRunning(err) {
			return fmt.Errorf("cannot kill container: %s: container %s is not running%w", id, c.ID, noText{errdefs.ErrConflict})
		}
		return err
	}
	return nil
}

// sendSignal sends a signal and publishes the event of it. op keeps the end that the signal causes from being published first.
func (c *Container) sendSignal(ctx context.Context, sig unix.Signal) error {
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.signal(ctx, sig, false); err != nil {
		return err
	}
	c.engine.containerEvent(c, events.ActionKill, "signal", strconv.Itoa(int(sig)))
	return nil
}

func (c *Container) signal(ctx context.Context, sig unix.Signal, all bool) error {
	err := c.engine.call(ctx, func(shim *client.Shim) error {
		_, err := shim.Task.Kill(ctx, &task.KillRequest{ID: c.ID, Signal: uint32(sig), All: all})
		return err
	})
	if err != nil {
		return fmt.Errorf("send %s to container %s: %w", unix.SignalName(sig), c.ID, err)
	}
	return nil
}

// PauseContainer freezes every process of a running container.
func (e *Engine) PauseContainer(ctx context.Context, id string) error {
	c, _, err := e.alive(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	switch c.view().phase {
	case phasePaused:
		return fmt.Errorf("container %s is already paused%w", c.ID, noText{errdefs.ErrConflict})
	case phaseRunning:
	default:
		return fmt.Errorf("container %s is not running%w", c.ID, noText{errdefs.ErrConflict})
	}
	if err := e.freeze(ctx, c.ID, true); isNotRunning(err) {
		return c.conflict("not running")
	} else if err != nil {
		return fmt.Errorf("pause container %s: %w", c.ID, err)
	}
	c.setPhase(phasePaused)
	e.containerEvent(c, events.ActionPause)
	return nil
}

// UnpauseContainer thaws a paused container.
func (e *Engine) UnpauseContainer(ctx context.Context, id string) error {
	c, _, err := e.alive(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if c.view().phase != phasePaused {
		return fmt.Errorf("container %s is not paused%w", c.ID, noText{errdefs.ErrConflict})
	}
	if err := e.freeze(ctx, c.ID, false); isNotRunning(err) {
		return c.conflict("not paused")
	} else if err != nil {
		return fmt.Errorf("unpause container %s: %w", c.ID, err)
	}
	c.setPhase(phaseRunning)
	e.containerEvent(c, events.ActionUnPause)
	return nil
}

// stopSignal is the signal that asks this container to end.
func (c *Container) stopSignal(ctx context.Context) unix.Signal {
	rec := c.view().record
	img, _ := c.engine.images.Get(ctx, rec.Image.ID.String(), &rec.Image.Platform) // only for its stop signal
	sig, err := stopSignal(rec.Config.StopSignal, img)
	if err != nil { // of the image: it was not checked
		return unix.SIGTERM
	}
	return sig
}

// stopSignal is the signal that asks the container to end: the container's, the image's, or SIGTERM.
func stopSignal(name string, img *image.Image) (unix.Signal, error) {
	if name == "" && img != nil {
		name = img.Config.Config.StopSignal
	}
	if name == "" {
		return unix.SIGTERM, nil
	}
	return parseSignal(name)
}

func parseSignal(name string) (unix.Signal, error) {
	sig, err := signal.ParseSignal(strings.TrimSpace(name))
	if err != nil || sig < 1 {
		return 0, refuse("Invalid signal: %s", name)
	}
	if sig > 64 { // SIGRTMAX
		return 0, refuse("the linux daemon does not support signal %d", int(sig))
	}
	return sig, nil
}
