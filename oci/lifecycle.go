package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/oci/plainjson"
	"gantry/rawfile"
	"gantry/spawn"
)

// ReadSpec reads a bundle's config.json, as leniently as runc: see package plainjson.
func ReadSpec(bundle string) (*specs.Spec, error) {
	text, err := rawfile.Read(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	var spec specs.Spec
	if err := plainjson.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("read bundle %s: config.json: %w", bundle, err)
	}
	return &spec, nil
}

// Create makes the container up to the point where its program would be executed. On error nothing is left.
func (r *Runtime) Create(ctx context.Context, id string, o CreateOptions) (_ *Container, _ *Process, err error) {
	if err := checkID(id); err != nil {
		return nil, nil, err
	}
	if o.Spec == nil {
		if o.Spec, err = ReadSpec(o.Bundle); err != nil {
			return nil, nil, err
		}
	}
	if err := validate(o.Spec); err != nil {
		return nil, nil, err
	}
	c, unlock, err := r.begin(id)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	process, err := c.create(ctx, o)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("create container %s: %w", id, blameNUL(o.Spec, err)), c.remove())
	}
	return c, process, nil
}

func (c *Container) create(ctx context.Context, o CreateOptions) (_ *Process, err error) {
	o.Spec = withoutOwnUserNamespace(o.Spec)
	b := &builder{id: c.ID, bundle: o.Bundle, spec: o.Spec, rootless: c.runtime.Rootless}
	defer b.close()
	if err := b.checkUsersNamespace(); err != nil {
		return nil, err
	}
	// A first record, so that what a killed create leaves behind can be deleted.
	rec, err := c.begun(b)
	if err != nil {
		return nil, err
	}
	group, undo, err := c.makeGroups(ctx, b, rec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo())
		}
	}()
	if warning := b.warnOfCompany(group.Group != nil); warning != "" {
		slog.Warn(warning)
	}
	entry, err := group.entry()
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	fifo, err := c.makeFIFO(b, 3+len(o.PreserveFDs))
	if err != nil {
		return nil, err
	}
	if err := b.holdUserNamespace(); err != nil {
		return nil, err
	}
	hooks := &hookRunner{ctx: ctx, hooks: o.Spec.Hooks, state: specs.State{
		Version: specs.Version, ID: c.ID, Status: specs.StateCreating, Bundle: o.Bundle, Annotations: o.Spec.Annotations,
	}}
	b.state = hooks.state
	if err := b.container(o, entry, fifo, hooks); err != nil {
		return nil, err
	}
	identify := func(pid int) (err error) {
		rec.Pid, rec.Created = pid, time.Now().UTC()
		if rec.StartTime, _, err = processStat(pid); err != nil {
			return err
		}
		return c.runtime.prepare(rec)
	}
	var prepared error
	rec.describe(o.Spec)
	rec.RDT.created()
	rec.NoNewKeyring, rec.Pipes = o.NoNewKeyring, o.Stdio.pipes()
	b.plan.Meanwhile = func(pid int) { prepared = identify(pid) }
	child, err := spawn.Start(&b.plan)
	if err != nil {
		b.detachRoot()
		if hooks.begun {
			hooks.state.Status, hooks.state.Pid = specs.StateStopped, 0
			hooks.poststop()
		}
		return nil, blameMemory(group.Group, b.blame(err))
	}
	if child.Pid != rec.Pid { // a successor
		prepared = identify(child.Pid)
	}
	if err = prepared; err == nil {
		err = group.settle(ctx)
	}
	if err == nil {
		err = c.runtime.commit(rec)
	}
	if err != nil {
		_ = unix.PidfdSendSignal(int(child.Pidfd.Fd()), unix.SIGKILL, nil, 0)
		_, waitErr := child.Wait()
		return nil, errors.Join(err, waitErr, child.Close())
	}
	c.child, c.known = child, rec
	return &Process{Pid: child.Pid, Pidfd: child.Pidfd}, nil
}

// begun stores the first record of a new container.
func (c *Container) begun(b *builder) (rec *record, err error) {
	rec = &record{ID: c.ID, Bundle: b.bundle, Created: time.Now().UTC(), Cgroup: b.cgroupPath()}
	if rec.Scope, err = c.runtime.scopeOf(c.ID, b.spec); err != nil {
		return nil, err
	}
	if rec.Scope != nil {
		rec.Cgroup = rec.Scope.Path() // a user's manager has it somewhere else
	}
	return rec, c.runtime.save(rec)
}

// makeFIFO makes what start writes to. The process holds it open for both, so neither side blocks on the other's
// absence. Its descriptor is at least free: below, others come to stand.
func (c *Container) makeFIFO(b *builder, free int) (spawn.FD, error) {
	path := c.fifo()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return spawn.FD{}, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	fd, err := b.open(path, unix.O_RDWR, "exec.fifo")
	if err != nil || fd.Num >= free {
		return fd, err
	}
	num, err := unix.FcntlInt(uintptr(fd.Num), unix.F_DUPFD_CLOEXEC, free)
	if err != nil {
		return fd, fmt.Errorf("move a descriptor: %w", err)
	}
	return b.fd(num, "exec.fifo"), nil
}

// cgroupPath is linux.cgroupsPath in the hierarchies. systemd's form slice:prefix:name is a path of slices. Without
// one the container stands below /gantry, unless it wants realtime scheduling: v1 takes that from the parent, and only the
// root has any to give.
func (b *builder) cgroupPath() string {
	if b.group != "" {
		return b.group
	}
	path := b.spec.Linux.CgroupsPath
	if parts := strings.Split(path, ":"); len(parts) == 3 {
		return filepath.Join("/", slicePath(parts[0]), parts[1]+"-"+parts[2]+".scope")
	}
	if path == "" {
		if b.rootless {
			if beside := cgroup.Beside(b.id); beside != "" {
				return beside
			}
		}
		if b.wantsRealtime() {
			return "/gantry-" + b.id
		}
		return "/gantry/" + b.id
	}
	return filepath.Join("/", path)
}

// wantsRealtime reports whether the configuration limits realtime scheduling.
func (b *builder) wantsRealtime() bool {
	res := b.spec.Linux.Resources
	return res != nil && res.CPU != nil && res.CPU.RealtimeRuntime != nil && *res.CPU.RealtimeRuntime != 0
}

// slicePath is where systemd puts a slice: a-b.slice is in a.slice.
func slicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "" || name == "-" {
		return "system.slice"
	}
	var path, prefix string
	for part := range strings.SplitSeq(name, "-") {
		prefix += part
		path = filepath.Join(path, prefix+".slice")
		prefix += "-"
	}
	return path
}

// Start executes the program of a created container and returns when it has been executed. If execve fails, the error
// wraps the errno (ENOENT, EACCES, …) and names the program. (Only the process that created the container learns so;
// another one returns when the program was told to go.)
//
// If a hook of startContainer or poststart fails, nothing of the container is left, and the hooks of poststop have run:
// that is the specification's "Lifecycle".
func (c *Container) Start(ctx context.Context) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := c.load()
	if err != nil {
		return err
	}
	if status := c.status(rec); status != specs.StateCreated {
		if status == specs.StateRunning {
			return fmt.Errorf("start container %s: it is %s, not created: %w", c.ID, status, ErrStarted)
		}
		err := fmt.Errorf("start container %s: it is %s, not created", c.ID, status)
		if group, openErr := rec.group(); openErr == nil && status == specs.StateStopped {
			return blameMemory(group, err)
		}
		return err
	}
	hooks := &hookRunner{ctx: ctx, hooks: rec.Hooks.spec(), state: rec.hookState(specs.StateCreated)}
	if err := c.startContainerHooks(rec, hooks); err != nil {
		return errors.Join(fmt.Errorf("start container %s: %w", c.ID, err), c.destroy(context.WithoutCancel(ctx), rec))
	}
	if err := write(c.fifo()); err != nil {
		if c.status(rec) == specs.StateRunning { // told by a start that was killed
			return errors.Join(fmt.Errorf("start container %s: %w", c.ID, ErrStarted), os.Remove(c.fifo()))
		}
		return fmt.Errorf("start container %s: %w", c.ID, err)
	}
	if err := os.Remove(c.fifo()); err != nil {
		return fmt.Errorf("start container %s: %w", c.ID, err)
	}
	if c.child != nil {
		if err := c.child.Executed(); err != nil {
			return fmt.Errorf("start container %s: %w", c.ID, err)
		}
	}
	hooks.state.Status = specs.StateRunning
	if err := hooks.poststart(); err != nil {
		return errors.Join(fmt.Errorf("start container %s: %w", c.ID, err), c.destroy(context.WithoutCancel(ctx), rec))
	}
	return nil
}

// write tells the waiting process to go. If it has died, nobody reads and the open fails with ENXIO.
func write(fifo string) error {
	f, err := rawfile.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) {
		return errors.New("its process has died")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write([]byte{0})
	return err
}

func (rec *record) hookState(status specs.ContainerState) specs.State {
	s := specs.State{Version: specs.Version, ID: rec.ID, Status: status, Pid: rec.Pid, Bundle: rec.Bundle, Annotations: rec.Annotations}
	if status == specs.StateStopped {
		s.Pid = 0
	}
	return s
}

// ErrStarted is wrapped by the error of a start whose program has been executed before.
var ErrStarted = errors.New("it has been started")

// ErrPaused is wrapped by errors of an exec in a paused container.
var ErrPaused = errors.New("cannot exec in a paused container: resume it first")

// ErrNotRunning is wrapped by errors of what needs a living process.
var ErrNotRunning = errors.New("container not running")

// Kill sends a signal to the first process through its pidfd, or to all processes of the container. Where the first one's
// end would not be theirs, since they are not alone in their pid namespace, SIGKILL is for all.
func (c *Container) Kill(sig unix.Signal, all bool) error {
	rec, err := c.load()
	if err != nil {
		return err
	}
	alone := slices.ContainsFunc(rec.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace && n.Path == "" })
	if rec.Cgroup != "" && (all || (sig == unix.SIGKILL && !alone)) {
		return c.killAll(rec, sig)
	}
	status := c.status(rec) // before the signal: after it, it may well be another
	if status == specs.StateCreated && ends(sig) {
		sig = unix.SIGKILL // it waits, the first of its namespace: no other signal would reach it
	}
	stopped := status == specs.StateStopped
	pidfd, err := rec.pidfd()
	if err == nil {
		defer unix.Close(pidfd)
		err = unix.PidfdSendSignal(pidfd, sig, nil, 0)
	}
	if err == unix.ESRCH || stopped {
		return fmt.Errorf("send %s to container %s: %w", unix.SignalName(sig), c.ID, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("send %s to container %s: %w", unix.SignalName(sig), c.ID, err)
	}
	if sig == unix.SIGKILL {
		return thaw(rec) // on v1 a frozen process does not die
	}
	return nil
}

func thaw(rec *record) error {
	group, err := rec.group()
	if err != nil {
		return nil //nolint:nilerr // it has gone with its last process
	}
	if frozen, err := group.Frozen(); err != nil || !frozen {
		return nil //nolint:nilerr // likewise
	}
	return group.Thaw()
}

// ends reports whether a signal ends who does not expect it; see signal(7).
func ends(sig unix.Signal) bool {
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGURG, unix.SIGWINCH, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

func (c *Container) killAll(rec *record, sig unix.Signal) error {
	group, err := rec.group()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if sig == unix.SIGKILL {
		return group.Kill()
	}
	pids, err := group.Procs(true)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return fmt.Errorf("send %s to process %d of container %s: %w", unix.SignalName(sig), pid, c.ID, err)
		}
	}
	return nil
}

// Pause freezes every process of the container.
func (c *Container) Pause() error { return c.freeze(specs.StateRunning, (*cgroup.Group).Freeze) }

// Resume thaws them.
func (c *Container) Resume() error { return c.freeze(StatePaused, (*cgroup.Group).Thaw) }

func (c *Container) freeze(from specs.ContainerState, f func(*cgroup.Group) error) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := c.load()
	if err != nil {
		return err
	}
	if status := c.status(rec); status != from && (from != specs.StateRunning || status != specs.StateCreated) {
		if status == specs.StateStopped {
			return fmt.Errorf("container %s is %s, not %s: %w", c.ID, status, from, ErrNotRunning)
		}
		return fmt.Errorf("container %s is %s, not %s", c.ID, status, from)
	}
	group, err := rec.group()
	if err == nil {
		err = f(group)
	}
	if err != nil && c.status(rec) == specs.StateStopped { // it ended meanwhile
		return fmt.Errorf("container %s: %w: %w", c.ID, ErrNotRunning, err)
	}
	return err
}

// Update changes limits of a container that exists. Device rules, if there are any, replace the earlier ones; what every
// container may use it may use further.
func (c *Container) Update(res *specs.LinuxResources) error {
	rec, err := c.load()
	if err != nil {
		return err
	}
	if len(res.Devices) > 0 {
		own := *res
		own.Devices = withDefaults(res.Devices)
		res = &own
	}
	return rec.limit(res)
}

// Delete removes a container by force, as the container's own Delete does; also one that has no state, since its creator
// was killed too early.
func (r *Runtime) Delete(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	return (&Container{ID: id, runtime: r}).Delete(ctx, true)
}

// Delete removes a stopped container: cgroup, state, mounts. With force a running one is killed first. Idempotent.
func (c *Container) Delete(ctx context.Context, force bool) error {
	unlock, err := c.lock()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := c.load()
	if errors.Is(err, os.ErrNotExist) { // a create that was killed half way
		return c.remove()
	}
	if err != nil {
		return err
	}
	if status := c.status(rec); status != specs.StateStopped {
		if !force {
			return fmt.Errorf("delete container %s: it is %s: stop it first, or force", c.ID, status)
		}
	}
	return c.destroy(ctx, rec)
}

// destroy ends what is left of a container, removes it and runs the hooks of poststop. The caller holds its lock.
func (c *Container) destroy(ctx context.Context, rec *record) error {
	if err := rec.endGroup(ctx); err != nil {
		return err
	}
	if err := rec.RDT.remove(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	if err := c.remove(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	if c.child != nil {
		_ = c.child.CloseStatus() // of a process that has ended
	}
	hooks := &hookRunner{ctx: ctx, hooks: rec.Hooks.spec(), state: rec.hookState(specs.StateStopped)}
	hooks.poststop()
	return nil
}
