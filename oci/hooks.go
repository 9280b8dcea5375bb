package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/plainjson"
	"gantry/rawfile"
	"gantry/spawn"
)

// hookRunner runs the specification's hooks ("POSIX-platform Hooks") with the container's state on their standard input.
type hookRunner struct {
	ctx   context.Context
	hooks *specs.Hooks
	state specs.State
	begun bool // hooks of create have been called, so that those of poststop must be
}

// hookList is one kind of hooks by its name in config.json.
type hookList struct {
	name string
	list []specs.Hook
}

// all are the kinds in the order in which they run.
func (h *hookRunner) all() [6]hookList {
	if h.hooks == nil {
		return [6]hookList{}
	}
	return [6]hookList{
		//lint:ignore SA1019 deprecated is not gone
		{"prestart", h.hooks.Prestart},
		{"createRuntime", h.hooks.CreateRuntime},
		{"createContainer", h.hooks.CreateContainer},
		{"startContainer", h.hooks.StartContainer},
		{"poststart", h.hooks.Poststart},
		{"poststop", h.hooks.Poststop},
	}
}

const (
	prestart = iota
	createRuntime
	createContainer
	startContainer
	poststart
	poststop
)

// validateHooks checks what the specification demands of every hook.
func validateHooks(hooks *specs.Hooks) error {
	for _, kind := range (&hookRunner{hooks: hooks}).all() {
		for i, hook := range kind.list {
			switch {
			case !filepath.IsAbs(hook.Path):
				return fmt.Errorf("config.json: hooks.%s[%d].path %q must be an absolute path", kind.name, i, hook.Path)
			case hook.Timeout != nil && *hook.Timeout <= 0:
				return fmt.Errorf("config.json: hooks.%s[%d].timeout %d must be greater than zero", kind.name, i, *hook.Timeout)
			}
		}
	}
	return nil
}

// ofCreate tells whether there are hooks to run while the container is being created.
func (h *hookRunner) ofCreate() bool {
	//lint:ignore SA1019 deprecated is not gone
	return h != nil && h.hooks != nil && len(h.hooks.Prestart)+len(h.hooks.CreateRuntime)+len(h.hooks.CreateContainer) > 0
}

// hooksBeforePivot: prestart and createRuntime run in the runtime's namespaces, createContainer in the container's,
// while the process waits in its namespaces with everything mounted, before the root changes.
func (b *builder) hooksBeforePivot(h *hookRunner) error {
	if !h.ofCreate() {
		return nil
	}
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "run the hooks of create", Sync: func(child *spawn.Process) error {
		h.state.Pid, h.begun = child.Pid, true
		kinds := h.all()
		for _, kind := range kinds[:createContainer] {
			if err := h.run(kind, runInRuntime); err != nil {
				return err
			}
		}
		if len(kinds[createContainer].list) == 0 {
			return nil
		}
		inside, err := h.seenFromInside(b.spec.Linux.Namespaces, child.Pid)
		if err != nil {
			return err
		}
		return inside.run(kinds[createContainer], func(ctx context.Context, p *hookProcess) error {
			return p.runBeside(ctx, b, child)
		})
	}})
	return nil
}

// attachPoint is where the root is attached until the pivot: with hooks of create, where they look for it by the bundle,
// if they may, so that what they mount in it is the container's.
func (b *builder) attachPoint() string {
	if _, foreign := b.joined[specs.MountNamespace]; foreign {
		return "/" // all that is known to be there
	}
	shared := strings.Contains(b.spec.Linux.RootfsPropagation, "shared") // there pivot_root refuses it
	if b.dry || shared || !(&hookRunner{hooks: b.spec.Hooks}).ofCreate() {
		return attachPoint()
	}
	if info, err := os.Stat(b.rootPath()); err != nil || !info.IsDir() {
		return attachPoint()
	}
	return b.rootPath()
}

// seenFromInside is the runner whose state has the pid that the container's processes see.
func (h *hookRunner) seenFromInside(list []specs.LinuxNamespace, pid int) (*hookRunner, error) {
	inside := *h
	if !slices.ContainsFunc(list, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace }) {
		return &inside, nil
	}
	status, err := rawfile.Read(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, fmt.Errorf("find the container's pid from inside: %w", err)
	}
	_, rest, _ := strings.Cut(string(status), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	pids := strings.Fields(line)
	if len(pids) == 0 {
		return nil, fmt.Errorf("find the container's pid from inside: /proc/%d/status has no NSpid", pid)
	}
	if inside.state.Pid, err = strconv.Atoi(pids[len(pids)-1]); err != nil {
		return nil, fmt.Errorf("find the container's pid from inside: %w", err)
	}
	return &inside, nil
}

// startContainer runs its hooks in the container as another process of it would run: same user, rights, limits and
// filter, and, where a hook has no environment of its own, same environment.
func (c *Container) startContainerHooks(rec *record, h *hookRunner) error {
	kind := h.all()[startContainer]
	if len(kind.list) == 0 {
		return nil
	}
	inside, err := h.seenFromInside(rec.Namespaces, rec.Pid)
	if err != nil {
		return err
	}
	return inside.run(kind, func(ctx context.Context, p *hookProcess) error { return p.runIn(ctx, c, rec) })
}

func (h *hookRunner) poststart() error { return h.run(h.all()[poststart], runInRuntime) }

// poststop logs failures: the container is gone already.
func (h *hookRunner) poststop() {
	kind := h.all()[poststop]
	for i := range kind.list {
		if err := h.run(hookList{kind.name, kind.list[i : i+1]}, runInRuntime); err != nil {
			slog.Warn("a poststop hook failed", "container", h.state.ID, "hook", i, "error", err)
		}
	}
}

// run runs hooks one after the other; the first that fails ends it.
func (h *hookRunner) run(kind hookList, start func(context.Context, *hookProcess) error) error {
	if len(kind.list) == 0 {
		return nil
	}
	state, err := plainjson.Marshal(h.state)
	if err != nil {
		return err
	}
	for i, hook := range kind.list {
		if err := runHook(h.ctx, hook, state, start); err != nil {
			return fmt.Errorf("error running %s hook #%d: hook %s: %w", kind.name, i, hook.Path, err)
		}
	}
	return nil
}

// runInRuntime runs a hook in the runtime's own namespaces.
func runInRuntime(ctx context.Context, p *hookProcess) error {
	plan := &spawn.Plan{}
	p.steps(plan)
	return p.follow(ctx, plan)
}

// runBeside runs a hook in the namespaces of the process that is being made, with the host's files in sight and the
// container's root for its directory: that process has not pivoted yet.
func (p *hookProcess) runBeside(ctx context.Context, b *builder, child *spawn.Process) error {
	target := spawn.FD{Num: int(child.Pidfd.Fd()), Name: "container"}
	x := &builder{id: b.id, spec: b.spec}
	x.joinAll(target)
	x.add("go to the container's root", unix.SYS_FCHDIR, spawn.Desc(b.root))
	p.steps(&x.plan)
	return p.follow(ctx, &x.plan)
}

// runIn runs a hook as a process of a container that exists.
func (p *hookProcess) runIn(ctx context.Context, c *Container, rec *record) error {
	spec, err := rec.spec()
	if err != nil {
		return err
	}
	process := *spec.Process
	process.Terminal, process.Args, process.ExecCPUAffinity = false, p.args, nil
	home := rec.Pid // where the user's home is looked up
	if len(p.env) > 0 {
		process.Env, home = p.env, 0
	}
	b, first, err := c.joiner(rec, &process)
	if err != nil {
		return err
	}
	defer b.close()
	b.program, b.first, b.state.Status = p.path, home, specs.StateCreated
	b.visible = b.isNew(specs.PIDNamespace) // its program has not begun
	entry, err := b.enterGroup(rec, nil)
	if err != nil {
		return err
	}
	defer entry.Close()
	if err := b.exec(first, entry, p.stdio(), nil, rec.NoNewKeyring); err != nil {
		return err
	}
	return p.follow(ctx, &b.plan)
}

// errHookTime is the end of a hook that took longer than its timeout.
var errHookTime = errors.New("hook ran past its timeout")
