package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"

	"gantry/internal/network"
)

// loadContainers reads the stored containers, and finds those whose process the supervisor still has. It returns the
// endpoints in use. Directories without a record are what a killed engine left behind: they go.
func (e *Engine) loadContainers(ctx context.Context) []network.Endpoint {
	err := e.store.Each(bucketContainers, func(id string, value []byte) error {
		c := &Container{ID: id, engine: e}
		if err := json.Unmarshal(value, &c.record); err != nil {
			return err
		}
		if c.record.Config.Config == nil || c.record.Config.HostConfig == nil {
			return fmt.Errorf("the record has no configuration")
		}
		e.containers[id], e.names[c.record.Name] = c, id
		return nil
	}, func(id string, err error) {
		e.log.Error("a container's record is unreadable", "container", id, "error", err)
	})
	if err != nil {
		e.log.Error("read containers", "error", err)
	}
	var live []network.Endpoint
	for _, c := range e.containers {
		c.adopt(ctx)
		if c.run != nil && c.run.Endpoint != nil {
			live = append(live, *c.run.Endpoint)
		}
		if img, err := e.images.Get(ctx, c.record.Image.ID.String(), &c.record.Image.Platform); err != nil {
			e.log.Error("the image of a container is gone", "container", c.ID, "image", c.record.Image.ID, "error", err)
		} else if err := e.images.Hold(ctx, c.ID, img); err != nil {
			e.log.Error("hold an image", "container", c.ID, "error", err)
		}
	}
	e.sweep(ctx)
	return live
}

// adopt finds the container's process again, if it has one. No other goroutine knows the container yet.
func (c *Container) adopt(ctx context.Context) {
	c.phase = phaseCreated
	if !c.record.Last.Finished.IsZero() || c.record.Stopped {
		c.phase = phaseExited
	}
	text, err := os.ReadFile(filepath.Join(c.runDir(), "run.json"))
	if err != nil {
		if _, err := os.Stat(c.runDir()); err == nil { // the start was not finished
			c.forgetRun(ctx)
		}
		return
	}
	r := &run{ended: make(chan struct{})}
	if err := json.Unmarshal(text, r); err != nil {
		c.engine.log.Error("the facts of a run are unreadable", "container", c.ID, "error", err)
		return
	}
	if last := c.record.Last; last.Started.Equal(r.Started) && !last.Finished.Before(r.Started) {
		c.forgetRun(ctx)
		return
	}
	state, err := c.engine.taskState(ctx, c.ID)
	if err == nil && state == tasktypes.Status_CREATED { // the engine died between create and start: nothing has run
		c.forgetRun(ctx)
		return
	}
	if err == nil && state != tasktypes.Status_STOPPED {
		c.hold(r)
	}
	c.run, c.phase = r, phaseRunning
	c.record.Last.OOMKilled = c.record.Last.OOMKilled && c.record.Last.Started.Equal(r.Started) // else it is of the run before
	c.record.Last.Started, c.record.Last.Restarts = r.Started, r.Restarts
	switch {
	case errdefs.IsNotFound(err): // the supervisor is a new one: watch records the unknown end
	case err != nil:
		c.engine.log.Error("ask the supervisor for a container", "container", c.ID, "error", err)
	case state == tasktypes.Status_PAUSED:
		c.phase = phasePaused
	}
}

// forgetRun finishes what an engine left that was killed between the record of a run's end and the end of cleaning up.
// The supervisor may know no more of that run: asking it would replace the exit code by an unknown one.
func (c *Container) forgetRun(ctx context.Context) {
	if err := c.clearTask(ctx); err != nil {
		c.engine.log.Error("clean up after a container", "container", c.ID, "error", err)
	}
}

// resume goes on with what was under way: it watches running processes, and starts what the restart policy wants.
func (e *Engine) resume(ctx context.Context) {
	for _, c := range e.all() {
		v := c.view()
		policy := v.record.Config.HostConfig.RestartPolicy
		switch {
		case v.phase.alive():
			r := c.run
			e.background(func(ctx context.Context) { c.watch(ctx, r) })
			c.superviseHealth(ctx, r)
		case v.record.Config.HostConfig.AutoRemove:
			if err := e.RemoveContainer(ctx, c.ID, RemoveOptions{Volumes: true}); err != nil {
				e.log.Error("remove a container at its end", "container", c.ID, "error", err)
			}
		case v.phase == phaseExited && (wantsRun(v.record) || policy.IsAlways()): // always: even what a user has stopped
			c.setPhase(phaseRestarting)
			c.retries.after(time.Millisecond, func() { e.background(c.restartByPolicy) })
		}
	}
}

// sweep removes directories and tasks of containers that are not in the database.
func (e *Engine) sweep(ctx context.Context) {
	var errs []error
	unknown := func(dir string) (ids []string) {
		entries, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, entry := range entries {
			if e.containers[entry.Name()] == nil {
				ids = append(ids, entry.Name())
			}
		}
		return ids
	}
	for _, id := range unknown(filepath.Join(e.o.Run, "bundles")) {
		errs = append(errs, e.deleteTask(ctx, id), os.RemoveAll(filepath.Join(e.o.Run, "bundles", id)))
	}
	errs = append(errs, e.sweepTasks(ctx))
	for _, id := range unknown(filepath.Join(e.o.Root, "containers")) {
		errs = append(errs, e.trash.remove(filepath.Join(e.o.Root, "containers", id)))
	}
	errs = append(errs, e.images.Collect(ctx)) // of pulls; all holds are told
	if err := errors.Join(errs...); err != nil {
		e.log.Error("sweep what a killed engine left", "error", err)
	}
}
