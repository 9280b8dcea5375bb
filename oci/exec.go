package oci

import (
	"context"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// ExecOptions are what exec knows besides the process.
type ExecOptions struct {
	Stdio Stdio
	// PreserveFDs are passed on as 3, 4, ….
	PreserveFDs []*os.File
	// Cgroups are paths below the container's cgroup that the process is put into: by v1 controller, or for all by "".
	Cgroups map[string]string
	// IgnorePaused lets the process into a paused container, where it stands still until the container is resumed.
	IgnorePaused bool
}

// Exec runs another process in the container. Its program has been executed when Exec returns.
func (c *Container) Exec(ctx context.Context, process *specs.Process, stdio Stdio, preserve ...*os.File) (*Process, error) {
	return c.ExecWith(ctx, process, ExecOptions{Stdio: stdio, PreserveFDs: preserve})
}

// ExecWith is Exec with more to choose.
func (c *Container) ExecWith(_ context.Context, process *specs.Process, o ExecOptions) (*Process, error) {
	rec, err := c.load()
	if err != nil {
		return nil, err
	}
	switch status := c.status(rec); {
	case status == specs.StateStopped:
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, ErrNotRunning)
	case status == StatePaused && !o.IgnorePaused:
		return nil, fmt.Errorf("cannot exec in a paused container: %s: resume it first", c.ID)
	}
	spec := *rec.Spec
	spec.Process = process
	if err := validate(&spec); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	first, err := rec.pidfd()
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, ErrNotRunning)
	}
	b := &builder{id: c.ID, bundle: rec.Bundle, spec: &spec, files: []*os.File{first}, state: rec.hookState(specs.StateRunning)}
	defer b.close()
	group, err := cgroup.Open(rec.Cgroup)
	if err != nil {
		return nil, err
	}
	entry, err := group.EntryBelow(o.Cgroups)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	cpus, err := parseAffinity(process.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	b.first = rec.Pid
	if err := b.exec(spawn.FD{Num: int(first.Fd()), Name: "container"}, entry, o.Stdio, o.PreserveFDs, rec.NoNewKeyring); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	child, err := startOn(cpus.initial, &b.plan)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return &Process{Pid: child.Pid, Pidfd: child.Pidfd}, nil
}

// exec adds the steps of a process that joins a container: its cgroup, then all its namespaces at once; see setns(2).
func (b *builder) exec(first spawn.FD, entry *cgroup.Entry, stdio Stdio, preserve []*os.File, noKeyring bool) error {
	if err := b.joinCgroup(entry); err != nil {
		return err
	}
	p := b.spec.Process
	cpus, err := parseAffinity(p.ExecCPUAffinity)
	if err != nil {
		return err
	}
	if cpus.final != nil || cpus.initial == nil {
		text := ""
		if cpus.final != nil {
			text = p.ExecCPUAffinity.Final
		}
		b.runOn(cpus.final, text)
	}
	if b.first != 0 {
		if err := b.environment(fmt.Sprintf("/proc/%d/root", b.first)); err != nil {
			return err
		}
		p = b.spec.Process
	}
	b.adjustOOM(false)
	b.openLabels()
	b.hide()
	b.joinAll(first)
	b.keyring(noKeyring, false)
	if p.Terminal {
		if stdio.Console == nil {
			return fmt.Errorf("process.terminal is set, but nobody takes the terminal")
		}
		b.openTerminal(stdio.Console)
	}
	for _, part := range []func() error{
		func() error { return b.stdio(stdio, preserve) },
		b.seal,
		func() error { return b.identity(p) },
		func() error { return b.checkProgram(p) },
		func() error { return b.seccomp(beforeStart) },
		func() error { return b.execute(p) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// joinAll joins all namespaces of a container at once, as the root of its user namespace.
func (b *builder) joinAll(first spawn.FD) {
	var flags uint64
	for _, n := range b.spec.Linux.Namespaces {
		if n.Type == specs.PIDNamespace {
			b.plan.JoinPID = &first
			continue
		}
		flags |= cloneFlags[n.Type]
	}
	b.add("join the container's namespaces", unix.SYS_SETNS, spawn.Desc(first), spawn.Flags(flags, fmt.Sprintf("%#x", flags)))
	if b.inUserNamespace() {
		b.becomeRoot()
	}
}
