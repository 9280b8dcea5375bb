package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"
)

// RemoveContainer removes a container that does not run, or with Force any.
func (e *Engine) RemoveContainer(ctx context.Context, id string, o RemoveOptions) error {
	if o.Link {
		return refuse("removing a link of a running container is not supported: remove the container")
	}
	c, err := e.lookup(id)
	if err != nil {
		return err
	}
	for {
		v := c.view()
		if v.phase.alive() || v.phase == phaseRestarting {
			if !o.Force && v.phase == phasePaused {
				return fmt.Errorf("cannot remove container %q: container is paused and must be unpaused first%w", id, noText{errdefs.ErrConflict})
			}
			if !o.Force {
				return fmt.Errorf("cannot remove container %q: container is %s: stop the container before removing or force remove%w",
					id, phaseStates[v.phase], noText{errdefs.ErrConflict})
			}
			if err := c.stopNow(ctx); err != nil {
				return err
			}
		}
		if again, err := c.removeStopped(ctx, o); !again {
			return err
		}
	}
}

// removeStopped removes a container that does not run; again: it was started meanwhile, and is to be removed by force.
func (c *Container) removeStopped(ctx context.Context, o RemoveOptions) (again bool, err error) {
	c.op.Lock()
	defer c.op.Unlock()
	switch v := c.view(); {
	case v.phase == phaseRemoving: // --rm was quicker
		return false, nil
	case v.phase.alive(), v.phase == phaseRestarting:
		if o.Force {
			return true, ctx.Err()
		}
		return false, fmt.Errorf("container %s was started while it was to be removed%w", c.ID, noText{errdefs.ErrConflict})
	}
	return false, c.remove(ctx, nil, o.Volumes)
}

// stopNow kills the container's process and waits for its end.
func (c *Container) stopNow(ctx context.Context) error {
	if c.view().phase == phaseRestarting {
		if cancelled, err := c.cancelRestart(ctx); cancelled || err != nil {
			return err
		}
	}
	r, err := c.stopping(ctx)
	if err == ErrNotModified {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.sendSignal(ctx, unix.SIGKILL); err != nil && !isNotRunning(err) {
		return err
	}
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remove takes away everything of a container that does not run: r is the run that has just ended, if any. op is held.
func (c *Container) remove(ctx context.Context, r *run, volumes bool) error {
	e := c.engine
	c.retries.cancel()
	if r == nil { // nothing of a start that failed may stay when nobody knows the container any more
		if _, err := os.Stat(c.runDir()); err == nil {
			if err := c.clearTask(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("remove container %s: %w", c.ID, err)
			}
		}
	}
	c.mu.Lock()
	c.phase = phaseRemoving
	code, name := c.record.Last.ExitCode, c.record.Name
	pending := c.pending
	c.pending = nil
	c.mu.Unlock()
	for _, a := range pending {
		a.fail(nil)
	}
	ctx = context.WithoutCancel(ctx)
	// The record goes first: without it, everything else is swept at the next start.
	if err := e.store.Delete(ctx, bucketContainers, c.ID); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	var errs []error
	if r != nil {
		errs = append(errs, c.cleanRun(ctx, r))
	}
	errs = append(errs, e.trash.remove(c.dir()), e.images.Release(ctx, c.ID))
	if volumes {
		e.dropAnonymous(ctx, c)
	}
	e.mu.Lock()
	delete(e.containers, c.ID)
	delete(e.names, name)
	maps.DeleteFunc(e.execs, func(_ string, x *execution) bool { return x.container == c })
	e.mu.Unlock()
	e.containerEvent(c, events.ActionDestroy)
	c.notify(WaitResult{Status: code}, container.WaitConditionNextExit, container.WaitConditionNotRunning, container.WaitConditionRemoved)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	return nil
}

// RenameContainer gives a container another name.
func (e *Engine) RenameContainer(ctx context.Context, id, name string) error {
	c, err := e.lookup(id)
	if err != nil {
		return err
	}
	if name == "" {
		return refuse("Neither old nor new names may be empty")
	}
	c.op.Lock()
	defer c.op.Unlock()
	if c.view().phase == phaseRemoving {
		return c.conflict("being removed")
	}
	old := c.view().record.Name
	if strings.TrimPrefix(name, "/") == old {
		return refuse("Renaming a container with the same name as its current name")
	}
	name, err = e.reserveName(name, c.ID)
	if err != nil {
		return fmt.Errorf("Error when allocating new name: %w", err)
	}
	if err := c.update(ctx, func(r *record) { r.Name = name }); err != nil {
		c.mu.Lock()
		c.record.Name = old
		c.mu.Unlock()
		e.freeName(name)
		return fmt.Errorf("rename container %s to %s: %w", old, name, err)
	}
	e.freeName(old)
	e.containerEvent(c, events.ActionRename, "oldName", "/"+old)
	return nil
}

// PruneContainers removes every container that does not run and that the filters (until, label) select.
func (e *Engine) PruneContainers(ctx context.Context, filters map[string]map[string]bool) (container.PruneReport, error) {
	report := container.PruneReport{ContainersDeleted: []string{}}
	match, err := pruneFilter(filters)
	if err != nil {
		return report, err
	}
	list := e.all()
	slices.SortFunc(list, func(a, b *Container) int { return a.record.Created.Compare(b.record.Created) })
	for _, c := range list {
		v := c.view()
		if v.phase.alive() || v.phase == phaseRestarting || !match(v.record.Created, v.record.Config.Labels) {
			continue
		}
		size := diskUsage(c.dir())
		err := e.RemoveContainer(ctx, c.ID, RemoveOptions{})
		switch {
		case errdefs.IsConflict(err), errdefs.IsNotFound(err):
			continue
		case err != nil:
			return report, err
		}
		report.ContainersDeleted = append(report.ContainersDeleted, c.ID)
		report.SpaceReclaimed += uint64(size)
	}
	e.events.publish(events.ContainerEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)})
	return report, nil
}
