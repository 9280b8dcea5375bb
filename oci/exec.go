package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

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
		return nil, errors.New("cannot exec in a paused container: resume it first")
	}
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
	b.first = rec.Pid
	if err := b.exec(first, entry, o.Stdio, o.PreserveFDs, rec.NoNewKeyring); err != nil {
		return nil, err
	}
	return whileExecuting(func() (*spawn.Process, error) { return startOn(cpus.initial, &b.plan) })
}

// joiner is the builder of a process that joins the container's, and the container's first process.
func (c *Container) joiner(rec *record, process *specs.Process) (*builder, spawn.FD, error) {
	own, err := rec.spec()
	if err != nil {
		return nil, spawn.FD{}, err
	}
	spec := *own
	spec.Process = process
	if err := validate(&spec); err != nil {
		return nil, spawn.FD{}, err
	}
	first, err := rec.pidfd()
	if err != nil {
		return nil, spawn.FD{}, ErrNotRunning
	}
	b := &builder{id: c.ID, bundle: rec.Bundle, spec: &spec, state: rec.hookState(specs.StateRunning), rdt: rec.RDT}
	return b, b.fd(first, "container"), nil
}

// whileExecuting tries again while the process whose namespaces are to be joined has none (ESRCH): its first thread
// has, for the moment in which another one calls execve(2), and for good if it has ended while others go on.
func whileExecuting(start func() (*spawn.Process, error)) (*spawn.Process, error) {
	const tries = 200
	for i := range tries {
		child, err := start()
		if !errors.Is(err, unix.ESRCH) {
			return child, err
		}
		time.Sleep(time.Duration(i) * 10 * time.Microsecond)
	}
	return nil, errors.New("the first thread of its first process has ended: there are no namespaces to join")
}

// exec adds the steps of a process that joins a container: its cgroup, then all its namespaces at once; see setns(2).
func (b *builder) exec(first spawn.FD, entry *cgroup.Entry, stdio Stdio, preserve []*os.File, noKeyring bool) error {
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
	if b.first != 0 {
		if err := b.environment(filesOf(fmt.Sprintf("/proc/%d/root", b.first))); err != nil {
			return err
		}
		p = b.spec.Process
	}
	b.adjustOOM(false)
	b.openLabels()
	if os.Geteuid() == 0 {
		b.hide()
	}
	if b.inHostMounts() {
		b.openFirstRoot()
		b.joinAll(first)
		b.enterFirstRoot(first)
	} else {
		b.joinAll(first)
	}
	b.keyring(noKeyring, false)
	if p.Terminal {
		if stdio.Console == nil {
			return fmt.Errorf("process.terminal is set, but nobody takes the terminal")
		}
		if err := b.openTerminal(stdio.Console); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		b.enterPIDs(first)
	}
	if p.Terminal {
		b.controlTerminal()
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
			if os.Geteuid() == 0 {
				b.plan.JoinPID = &first
			}
			continue
		}
		flags |= cloneFlags[n.Type]
	}
	if flags != 0 {
		b.add("join the container's namespaces", unix.SYS_SETNS, spawn.Desc(first), spawn.Flags(flags, fmt.Sprintf("%#x", flags)))
	}
	if b.inUserNamespace() {
		b.becomeRoot()
	}
}
