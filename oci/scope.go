package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/cgroup"
	"gantry/spawn"
)

// scopeOf is the scope that systemd is to make for the container; nil where the runtime makes the directories itself.
func (r *Runtime) scopeOf(id string, spec *specs.Spec) (*cgroup.Scope, error) {
	if !r.Systemd {
		return nil, nil
	}
	s, err := cgroup.ScopeOf(spec.Linux.CgroupsPath, id, usersManager())
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return &s, nil
}

// usersManager tells whose systemd is asked: a user's own, unless this is the host's root. Who is root of a user
// namespace is a user, if the user's directory is known; else the whole of a system is in there, with its systemd.
func usersManager() bool {
	if os.Geteuid() != 0 || isHostRoot() {
		return os.Geteuid() != 0
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	return dir != "" && filepath.Base(dir) != "0"
}

// newGroup is a container's cgroup in the making.
type newGroup struct {
	*cgroup.Group
	scope  *cgroup.Scope
	holder *spawn.Process       // keeps the scope until the container's process is in it
	gate   *os.File             // whose end ends the holder, also if this program is killed
	late   specs.LinuxResources // limits that would not let those in who make the container
}

// makeGroup makes the container's cgroup and puts it on record.
func (b *builder) makeGroup(ctx context.Context, rec *record) (_ *newGroup, err error) {
	limits := specs.LinuxResources{}
	if b.spec.Linux.Resources != nil {
		limits = *b.spec.Linux.Resources
	}
	limits.Devices = withDefaults(limits.Devices)
	g := &newGroup{scope: rec.Scope}
	switch {
	case rec.Scope == nil && b.rootless:
		g.late.Pids = takeFew(&limits)
		g.Group, err = b.makePermitted(rec, &limits)
		if err == nil && g.Group == nil && g.late.Pids != nil {
			_, err = b.makePermitted(rec, &g.late) // for its words
		}
		return g, err
	case rec.Scope == nil:
		if pids, _ := b.has(specs.PIDNamespace); pids.Path != "" {
			g.late.Pids = takeFew(&limits)
		}
		g.Group, err = cgroup.Create(rec.Cgroup, &limits)
		return g, err
	}
	if rec.Scope.User {
		limits.Devices = nil // the kernel takes no filter from a user, who can make no devices either
	}
	g.late.Pids = takeFew(&limits)
	if err := g.hold(); err != nil {
		return nil, fmt.Errorf("begin unit %s: %w", rec.Scope.Unit, err)
	}
	if g.Group, err = rec.Scope.Start(ctx, g.holder.Pid, &limits, b.spec.Annotations); err != nil {
		return nil, errors.Join(err, g.release())
	}
	rec.Cgroup, b.group = g.Path(), g.Path()
	if rec.Scope.User {
		b.moveIn = g.Add
	}
	return g, nil
}

// takeFew takes a limit out that would not let those in who make the container: the holder of a scope, the process that
// enters a user or a pid namespace, its successor there, and who serves them meanwhile.
func takeFew(limits *specs.LinuxResources) *specs.LinuxPids {
	const few = 8
	p := limits.Pids
	if p == nil || p.Limit == nil || *p.Limit < 0 || *p.Limit >= few {
		return nil
	}
	limits.Pids = nil
	return p
}

// hold starts a process that does nothing until its gate is closed: systemd makes no scope without one.
func (g *newGroup) hold() error {
	gate, wait, err := newGate()
	if err != nil {
		return err
	}
	defer wait.Close()
	p := &builder{plan: spawn.Plan{Steps: []spawn.Step{{Name: "begin", Ready: true}}}}
	p.addWait(wait)
	holder, err := spawn.Start(&p.plan)
	if err != nil {
		return errors.Join(err, gate.Close())
	}
	g.holder, g.gate = holder, gate
	return nil
}

// release ends the holder, if there is one.
func (g *newGroup) release() error {
	if g.holder == nil {
		return nil
	}
	holder := g.holder
	g.holder = nil
	return endHeld(holder, g.gate)
}

// settle is for when the container's process is in the group: it needs no holder then.
func (g *newGroup) settle(ctx context.Context) error {
	if err := g.release(); err != nil {
		return fmt.Errorf("end the holder of the cgroup: %w", err)
	}
	if g.late.Pids == nil {
		return nil
	}
	if g.scope == nil {
		return g.Set(&g.late)
	}
	return g.scope.Set(ctx, g.Group, &g.late)
}

// entry is how the container's process gets in: nothing for one that systemd will move.
func (g *newGroup) entry() (*cgroup.Entry, error) {
	if g.Group == nil || g.scope != nil && g.scope.User {
		return &cgroup.Entry{}, nil
	}
	return g.Entry()
}

// Add moves a process into the group.
func (g *newGroup) Add(pid int) error {
	if g.scope != nil && g.scope.User {
		return g.scope.Attach(context.Background(), pid, "")
	}
	if g.Group == nil {
		return nil
	}
	return g.Group.Add(pid)
}

// remove takes the group back, with all that is in it.
func (g *newGroup) remove(ctx context.Context) error {
	if g.Group == nil {
		return g.release()
	}
	return errors.Join(g.release(), g.Destroy(stopOf(context.WithoutCancel(ctx), g.scope)))
}

// stopOf is how systemd stops a scope; nil without one.
func stopOf(ctx context.Context, s *cgroup.Scope) func() error {
	if s == nil {
		return nil
	}
	return func() error { return s.Stop(ctx) }
}

// endGroup kills what is left in the container's cgroup, and removes it. Without a pid namespace of its own, processes
// may have outlived the first one.
func (rec *record) endGroup(ctx context.Context) error {
	group, err := rec.group()
	if errors.Is(err, errNoCgroup) || errors.Is(err, os.ErrNotExist) {
		if rec.Scope != nil {
			return rec.Scope.Stop(ctx) // it may have failed, or never have got so far
		}
		return rec.end() // no cgroup shows what else is left
	}
	if err != nil {
		return err
	}
	return group.Destroy(stopOf(ctx, rec.Scope))
}

// limit changes the limits of a container's group.
func (rec *record) limit(res *specs.LinuxResources) error {
	group, err := rec.group()
	if err != nil {
		return err
	}
	if rec.Scope == nil || res == nil {
		return group.Set(res)
	}
	if rec.Scope.User {
		own := *res
		own.Devices, res = nil, &own
	}
	return rec.Scope.Set(context.Background(), group, res)
}

// enterGroup is how another process gets into the container's group, or into groups below it.
func (b *builder) enterGroup(rec *record, below map[string]string) (*cgroup.Entry, error) {
	group, err := rec.group()
	if errors.Is(err, errNoCgroup) && len(below) == 0 {
		return &cgroup.Entry{}, nil
	}
	if err != nil {
		return nil, err
	}
	if rec.Scope == nil || !rec.Scope.User {
		return group.EntryBelow(below)
	}
	e, err := group.EntryBelow(below) // for its checks
	if err != nil {
		return nil, err
	}
	e.Close()
	b.moveIn = func(pid int) error { return rec.Scope.Attach(context.Background(), pid, below[""]) }
	return &cgroup.Entry{}, nil
}
