package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// ExecOptions are what exec knows besides the process.
type ExecOptions struct {
	Stdio Stdio
	// PreserveFDs are passed on as 3, 4, …; the number of a nil is not open in the process.
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
	child, err := c.exec(rec, process, o)
	if err != nil && c.status(rec) == specs.StateStopped { // whatever it met
		err = ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return &Process{Pid: child.Pid, Pidfd: child.Pidfd}, nil
}

func (c *Container) exec(rec *record, process *specs.Process, o ExecOptions) (*spawn.Process, error) {
	switch status := c.status(rec); {
	case status == specs.StateStopped:
		return nil, ErrNotRunning
	case status == specs.StateCreating:
		return nil, errors.New("it is being created")
	case status == StatePaused && !o.IgnorePaused:
		return nil, ErrPaused
	}
	return whileEnding(rec, func() (*spawn.Process, error) { return c.enter(rec, process, o) })
}

// enter makes the process in the container as it is now.
func (c *Container) enter(rec *record, process *specs.Process, o ExecOptions) (*spawn.Process, error) {
	b, first, err := c.joiner(rec, process)
	if err != nil {
		return nil, err
	}
	defer b.close()
	entry, err := b.enterGroup(rec, o.Cgroups)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	cpus, err := parseAffinity(process.ExecCPUAffinity)
	if err != nil {
		return nil, err
	}
	if cpus.initial != nil {
		slog.Debug("the process begins on its initial CPUs: affinity: " + cpus.initial.mask())
	}
	b.home = first.dir
	if err := b.exec(first, entry, o.Stdio, o.PreserveFDs, rec.NoNewKeyring); err != nil {
		return nil, err
	}
	child, err := startOn(cpus.initial, &b.plan)
	return child, b.joinError(err)
}

// joiner is the builder of a process that joins the container's, and what it joins that by.
func (c *Container) joiner(rec *record, process *specs.Process) (_ *builder, _ *entrance, err error) {
	own, err := rec.spec()
	if err != nil {
		return nil, nil, err
	}
	spec := *own
	spec.Process = process
	if err := validate(&spec); err != nil {
		return nil, nil, err
	}
	first, err := rec.pidfd()
	if err != nil {
		return nil, nil, ErrNotRunning
	}
	b := &builder{id: c.ID, bundle: rec.Bundle, spec: &spec, state: rec.hookState(specs.StateRunning), rdt: rec.RDT}
	e, err := b.entrance(rec.Pid, b.fd(first, "container"))
	if isGone(err) {
		err = fmt.Errorf("%w: %w", errNoThread, err)
	}
	if err != nil {
		b.close()
		return nil, nil, err
	}
	return b, e, nil
}

// joinError tells a failure to join a process whose threads are ending from others.
func (b *builder) joinError(err error) error {
	var failed *spawn.StepError
	if errors.As(err, &failed) && b.joinFrom <= failed.Index && failed.Index < b.joinTo && isGone(failed.Err) {
		return fmt.Errorf("%w: %w", errNoThread, err)
	}
	return err
}

// exec adds the steps of a process that joins a container: its cgroup, then all its namespaces at once; see setns(2).
func (b *builder) exec(first *entrance, entry *cgroup.Entry, stdio Stdio, preserve []*os.File, noKeyring bool) error {
	if err := errors.Join(b.joinCgroup(entry), b.joinRDT()); err != nil {
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
	if b.home != "" {
		if err := b.environment(filesOf(b.home + "/root")); err != nil {
			return err
		}
		p = b.spec.Process
	}
	b.adjustOOM(false)
	b.openLabels()
	if os.Geteuid() == 0 {
		b.hide()
	}
	_, b.shared = b.has(specs.PIDNamespace)
	b.joinFrom = len(b.plan.Steps)
	if b.inHostMounts() {
		b.openFirstRoot(first)
		b.joinAll(first, b.shared)
		b.enterFirstRoot(first)
	} else {
		b.joinAll(first, b.shared)
	}
	b.joinTo = len(b.plan.Steps)
	b.keyring(noKeyring, false)
	if p.Terminal {
		if stdio.Console == nil {
			return fmt.Errorf("process.terminal is set, but nobody takes the terminal")
		}
		if err := b.openTerminal(stdio.Console); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 && !b.visible { // from here on, nothing is taken out of it
		b.hide()
	}
	if p.Terminal && !b.shared {
		b.controlTerminal()
	}
	b.keepPreserved(preserve)
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

// joinAll joins all namespaces of a container, as the root of its user namespace. Of the pid namespace the process becomes
// no part, but its successor will be one; see appear.
func (b *builder) joinAll(first *entrance, pids bool) {
	root := os.Geteuid() == 0
	join := func(kinds ...specs.LinuxNamespaceType) {
		var flags uint64
		for _, kind := range kinds {
			if _, listed := b.has(kind); listed && (pids || kind != specs.PIDNamespace) {
				flags |= cloneFlags[kind]
			}
		}
		b.joinBy(first, flags)
	}
	others := []specs.LinuxNamespaceType{
		specs.MountNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace,
	}
	if root { // of the host, whose may be what does not belong to the user namespace
		join(specs.PIDNamespace)
	}
	join(append(others, specs.UserNamespace)...)
	if b.inUserNamespace() {
		b.becomeRoot()
	}
	if !root { // of the user namespace by now
		join(specs.PIDNamespace)
	}
}

// joinBy joins namespaces of a process, at once where the kernel does that; see setns(2).
func (b *builder) joinBy(e *entrance, flags uint64) {
	if flags == 0 {
		return
	}
	name := "join the container's namespaces"
	if flags == unix.CLONE_NEWPID {
		name = "join the container's pid namespace, for the successor"
	}
	if e.files == nil {
		b.add(name, unix.SYS_SETNS, spawn.Desc(e.process), spawn.Flags(flags, b.namesOf(flags)))
		return
	}
	order := []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace, specs.MountNamespace,
	}
	if os.Geteuid() == 0 { // see joinAll
		order = append(order, specs.UserNamespace)
	} else {
		order = append([]specs.LinuxNamespaceType{specs.UserNamespace}, order...)
	}
	for _, kind := range order {
		if flags&cloneFlags[kind] != 0 {
			b.add(name, unix.SYS_SETNS, spawn.Desc(e.files[kind]), spawn.Flags(cloneFlags[kind], flagName(kind)))
		}
	}
}
