package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// Restart policies start again with a delay that doubles, and begins anew after a run that lasted.
const (
	firstDelay  = 100 * time.Millisecond
	maxDelay    = time.Minute
	lastingTime = 10 * time.Second
)

// retries is the state of a restart policy; guarded by the container's mu, but for cancel and after, which op guards.
type retries struct {
	delay time.Duration
	timer *time.Timer
}

// wantsRun reports whether the policy asks for another run of a container that has ended.
func wantsRun(rec record) bool {
	policy := rec.Config.HostConfig.RestartPolicy
	switch {
	case policy.IsOnFailure():
		return !rec.Stopped && rec.Last.ExitCode != 0 && (policy.MaximumRetryCount == 0 || rec.Last.Restarts < policy.MaximumRetryCount)
	case policy.IsAlways(), policy.IsUnlessStopped():
		return !rec.Stopped
	}
	return false
}

// next reports whether the policy wants another run after one of this length, and after which delay.
func (r *retries) next(rec record, lasted time.Duration) (bool, time.Duration) {
	if lasted >= lastingTime {
		r.delay = 0
	}
	if !wantsRun(rec) {
		return false, 0
	}
	r.delay = min(max(2*r.delay, firstDelay), maxDelay)
	return true, r.delay
}

func (r *retries) after(delay time.Duration, f func()) { r.timer = time.AfterFunc(delay, f) }

// cancel keeps a scheduled start from happening.
func (r *retries) cancel() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// restartByPolicy starts a container that is still waiting for it.
func (c *Container) restartByPolicy(ctx context.Context) {
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	due := c.phase == phaseRestarting && ctx.Err() == nil
	if due {
		c.record.Last.Restarts++
	}
	c.mu.Unlock()
	if !due {
		return
	}
	if err := c.start(ctx); err != nil {
		c.engine.log.Warn("restart by policy", "container", c.ID, "error", err)
		c.mu.Lock()
		again, delay := c.retries.next(c.record, 0)
		if again {
			c.phase = phaseRestarting
		}
		c.mu.Unlock()
		if again {
			c.retries.after(delay, func() { c.engine.background(c.restartByPolicy) })
		}
	}
}

// RestartContainer stops a container if it runs, and starts it.
func (e *Engine) RestartContainer(ctx context.Context, id, signal string, timeout *int) error {
	c, err := e.lookup(id)
	if err != nil {
		return err
	}
	c.addRestart(1)
	err = c.stop(ctx, signal, timeout)
	if err != nil && err != ErrNotModified {
		c.addRestart(-1)
		c.removeIfEnded(ctx)
		return err
	}
	err = e.StartContainer(ctx, c.ID)
	c.addRestart(-1)
	if err != nil && err != ErrNotModified {
		c.removeIfEnded(ctx)
		return err
	}
	e.containerEvent(c, "restart")
	return nil
}

// addRestart counts the restarts in progress: until they are done, an end does not remove a container.
func (c *Container) addRestart(n int) {
	c.mu.Lock()
	c.restarts += n
	c.mu.Unlock()
}

// removeIfEnded removes a container with AutoRemove that ended in a restart which failed: its end did not remove it.
func (c *Container) removeIfEnded(ctx context.Context) {
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	due := c.record.Config.HostConfig.AutoRemove && c.restarts == 0 && c.phase == phaseExited
	c.mu.Unlock()
	if !due {
		return
	}
	if err := c.remove(ctx, nil, true); err != nil {
		c.engine.log.Error("remove a container after a failed restart", "container", c.ID, "error", err)
	}
}

// UpdateContainer changes limits and the restart policy; zero fields of u stay as they are.
func (e *Engine) UpdateContainer(ctx context.Context, id string, u container.UpdateConfig) (container.UpdateResponse, error) {
	c, err := e.lookup(id)
	if err != nil {
		return container.UpdateResponse{}, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	v := c.view()
	if v.phase == phaseRemoving {
		return container.UpdateResponse{}, c.conflict("being removed")
	}
	host := *v.record.Config.HostConfig
	if err := mergeUpdate(&host, u); err != nil {
		if errdefs.IsConflict(err) {
			err = fmt.Errorf("Cannot update container %s: %w", id, err)
		}
		return container.UpdateResponse{}, err
	}
	if v.phase.alive() {
		if err := c.applyLimits(ctx, &host); err != nil {
			return container.UpdateResponse{}, err
		}
	}
	if err := c.update(ctx, func(r *record) { r.Config.HostConfig = &host }); err != nil {
		c.mu.Lock()
		c.record.Config.HostConfig = v.record.Config.HostConfig
		c.mu.Unlock()
		return container.UpdateResponse{}, fmt.Errorf("update container %s: %w", c.ID, err)
	}
	e.containerEvent(c, "update")
	return container.UpdateResponse{Warnings: []string{}}, nil
}
