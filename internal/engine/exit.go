package engine

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"gantry/internal/shim/client"
)

// unknownStatus is the exit code of a process whose end nobody saw. The container's State.Error says so then.
const unknownStatus = client.UnknownStatus

const unknownEnd = "exit status unknown: the supervisor was killed before the container ended, and the kernel did not keep the status"

// watch waits for the end of a run and cleans up after it. It ends early, leaving everything, when the engine closes.
func (c *Container) watch(ctx context.Context, r *run) {
	last, err := c.awaitExit(ctx, r)
	defer func() { _ = r.held.Close() }() // of what nobody needs any more
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		c.engine.log.Error("the end of a container was not seen", "container", c.ID, "error", err)
	}
	c.op.Lock()
	defer c.op.Unlock()
	c.ended(ctx, r, last)
}

// awaitExit asks the supervisor for the end of the container's process, through reconnections.
func (c *Container) awaitExit(ctx context.Context, r *run) (lastRun, error) {
	lost := lastRun{Finished: time.Now().UTC(), ExitCode: unknownStatus, Error: unknownEnd}
	for attempt := 0; ; attempt++ {
		last, err := c.askExit(ctx, r)
		switch {
		case err == nil:
			return last, nil
		case ctx.Err() != nil:
			return lost, ctx.Err()
		case errdefs.IsNotFound(err), attempt == 100:
			return lost, err
		}
		select { // the connection broke, or could not be made on a busy machine
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (c *Container) askExit(ctx context.Context, r *run) (lastRun, error) {
	shim, err := c.engine.supervisor(ctx)
	if err != nil {
		return lastRun{}, err
	}
	response, err := shim.Task.Wait(ctx, &task.WaitRequest{ID: c.ID})
	if err != nil {
		return lastRun{}, native(err)
	}
	last := lastRun{ExitCode: int(response.ExitStatus), Finished: time.Now().UTC()}
	if response.ExitedAt.IsValid() && response.ExitedAt.AsTime().Unix() > 0 {
		last.Finished = response.ExitedAt.AsTime()
	}
	if exit, err := shim.Exit(ctx, c.ID, ""); err == nil {
		last.OOMKilled = exit.OOMKilled
		if exit.Unknown {
			if status, known := r.held.ExitStatus(); known {
				last.ExitCode = status
			} else {
				last.Error = unknownEnd
			}
		}
	} else if severed(err) {
		return lastRun{}, err
	}
	return last, nil
}

// ended records an exit, tells who waits, cleans up and does what the restart policy says. op is held.
func (c *Container) ended(ctx context.Context, r *run, last lastRun) {
	e := c.engine
	c.mu.Lock()
	if c.run != r { // another one took over
		c.mu.Unlock()
		return
	}
	last.Started, last.Restarts = r.Started, c.record.Last.Restarts
	last.OOMKilled = last.OOMKilled || c.record.Last.OOMKilled
	unheard := last.OOMKilled && r.ooms == 0 && !c.record.Last.OOMKilled
	c.record.Last, c.run, c.phase = last, nil, phaseExited
	if h := c.record.Health; h != nil { // nothing that ended is healthy
		c.record.Health = &container.Health{Status: container.Unhealthy, FailingStreak: h.FailingStreak, Log: h.Log}
	}
	restart, delay := c.retries.next(c.record, time.Since(r.Started))
	if restart {
		c.phase = phaseRestarting
	}
	auto := c.record.Config.HostConfig.AutoRemove && c.restarts == 0
	c.mu.Unlock()

	if unheard {
		e.containerEvent(c, events.ActionOOM)
	}
	e.containerEvent(c, events.ActionDie, "exitCode", strconv.Itoa(last.ExitCode), "execDuration", strconv.Itoa(int(last.Finished.Sub(r.Started).Seconds())))
	close(r.ended)
	c.notify(WaitResult{Status: last.ExitCode}, container.WaitConditionNextExit, container.WaitConditionNotRunning)
	if auto {
		if err := c.remove(ctx, r, true); err != nil {
			e.log.Error("remove a container at its end", "container", c.ID, "error", err)
		}
		return
	}
	// The task is deleted only when the exit is on disk: an engine that dies here asks for it again.
	err := c.save(ctx)
	if err == nil {
		err = c.cleanRun(ctx, r)
	}
	if err != nil {
		e.log.Error("clean up after a container", "container", c.ID, "error", err)
	}
	if restart {
		c.retries.after(delay, func() { e.background(c.restartByPolicy) })
	}
}

// cleanRun deletes the task and what stands in the run directory, and gives the address back.
func (c *Container) cleanRun(ctx context.Context, r *run) error {
	err := errors.Join(c.clearTask(ctx), c.disconnect(ctx, r.Endpoint))
	c.volumeEvents(events.ActionUnmount)
	return err
}

// waiter waits for a condition of a container.
type waiter struct {
	condition container.WaitCondition
	result    chan WaitResult
}

// notify gives the result to everybody who waits for one of the conditions. The channels have room for it.
func (c *Container) notify(result WaitResult, conditions ...container.WaitCondition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = c.removed || slices.Contains(conditions, container.WaitConditionRemoved)
	c.waiters = slices.DeleteFunc(c.waiters, func(w waiter) bool {
		if !slices.Contains(conditions, w.condition) {
			return false
		}
		w.result <- result
		return true
	})
}

// WaitContainer returns a channel that gets one result when the condition holds, unless ctx ends first.
func (e *Engine) WaitContainer(ctx context.Context, id string, condition container.WaitCondition) (<-chan WaitResult, error) {
	c, err := e.lookup(id)
	if err != nil {
		return nil, err
	}
	if condition == "" {
		condition = container.WaitConditionNotRunning
	}
	return c.await(ctx, condition), nil
}

// await registers a waiter, which is forgotten when ctx ends.
func (c *Container) await(ctx context.Context, condition container.WaitCondition) <-chan WaitResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := waiter{condition: condition, result: make(chan WaitResult, 1)}
	idle := condition == container.WaitConditionNotRunning && !c.phase.alive() && c.phase != phaseRestarting
	if idle || c.removed {
		w.result <- WaitResult{Status: c.record.Last.ExitCode}
		return w.result
	}
	c.waiters = append(c.waiters, w)
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.waiters = slices.DeleteFunc(c.waiters, func(other waiter) bool { return other.result == w.result })
	})
	return w.result
}
