package engine

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/events"

	"gantry/internal/shim/client"
)

// watchOOM hears from the supervisor, whichever it is, which containers run out of memory.
func (e *Engine) watchOOM(ctx context.Context) {
	for ctx.Err() == nil {
		shim, err := e.supervisor(ctx)
		if err == nil {
			err = shim.WatchOOM(ctx, func(o client.OOM) { e.ranOutOfMemory(ctx, o) })
		}
		e.log.Debug("watch containers for want of memory", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // it has gone: whoever needs one starts the next
		}
	}
}

func (e *Engine) ranOutOfMemory(ctx context.Context, o client.OOM) {
	e.mu.Lock()
	c := e.containers[o.ID]
	e.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	c.oom = o
	c.mu.Unlock()
	c.recordOOM(ctx)
}

// recordOOM takes what was last heard of the container's memory into account, once its run is known: it may be heard
// before the start is complete. After the engine's restart only what is new is an event.
func (c *Container) recordOOM(ctx context.Context) {
	c.mu.Lock()
	if c.run == nil || c.run.Pid != c.oom.Pid || c.oom.Count <= c.run.ooms {
		c.mu.Unlock()
		return
	}
	known := c.run.ooms == 0 && c.record.Last.OOMKilled
	c.run.ooms = c.oom.Count
	killed := true
	if disabled := c.record.Config.HostConfig.OomKillDisable; disabled != nil && *disabled {
		killed = false // its processes wait
	}
	changed := killed && !c.record.Last.OOMKilled
	c.record.Last.OOMKilled = killed
	c.mu.Unlock()
	if !known {
		c.engine.containerEvent(c, events.ActionOOM)
	}
	if changed {
		if err := c.save(ctx); err != nil {
			c.engine.log.Error("record that a container ran out of memory", "container", c.ID, "error", err)
		}
	}
}
