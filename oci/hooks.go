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

// laterHooks are the hooks that run after create, as state.json keeps them. The specification's own type would lose the
// difference between an env that is empty and one that is missing.
type laterHooks struct {
	StartContainer []keptHook `json:"startContainer"`
	Poststart      []keptHook `json:"poststart"`
	Poststop       []keptHook `json:"poststop"`
}

// keptHook is a specs.Hook whose env is always written.
type keptHook struct {
	Path    string   `json:"path"`
	Args    []string `json:"args,omitempty"`
	Env     []string `json:"env"`
	Timeout *int     `json:"timeout,omitempty"`
}

func keepHooks(h *specs.Hooks) *laterHooks {
	if h == nil || len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) == 0 {
		return nil
	}
	keep := func(list []specs.Hook) (kept []keptHook) {
		for _, hook := range list {
			kept = append(kept, keptHook(hook))
		}
		return kept
	}
	return &laterHooks{keep(h.StartContainer), keep(h.Poststart), keep(h.Poststop)}
}

// spec returns the hooks in the specification's type.
func (l *laterHooks) spec() *specs.Hooks {
	if l == nil {
		return nil
	}
	restore := func(kept []keptHook) (list []specs.Hook) {
		for _, hook := range kept {
			list = append(list, specs.Hook(hook))
		}
		return list
	}
	return &specs.Hooks{StartContainer: restore(l.StartContainer), Poststart: restore(l.Poststart), Poststop: restore(l.Poststop)}
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

// ofCreate reports whether there are hooks to run while the container is being created.
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
			if err := h.run(kind, h.runInRuntime); err != nil {
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

// startContainerHooks runs the hooks of startContainer as the container's other processes run: with the same user,
// rights, limits and filter. A hook whose configuration has no env gets the container's environment.
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

func (h *hookRunner) poststart() error { return h.run(h.all()[poststart], h.runInRuntime) }

// poststop logs failures: the container is gone already.
func (h *hookRunner) poststop() {
	kind := h.all()[poststop]
	for i := range kind.list {
		if err := h.run(hookList{kind.name, kind.list[i : i+1]}, h.runInRuntime); err != nil {
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

// runInRuntime runs a hook in the runtime's own namespaces and in the bundle. A hook whose configuration has no env gets
// the runtime's environment.
func (h *hookRunner) runInRuntime(ctx context.Context, p *hookProcess) error {
	if p.env == nil {
		p.env = os.Environ()
	}
	plan := &spawn.Plan{}
	if h.state.Bundle != "" {
		step := plan.Add("go to the bundle", unix.SYS_CHDIR, spawn.Str(h.state.Bundle))
		if h.state.Status == specs.StateStopped { // its owner may have removed it: poststop runs where the runtime does
			step.Ignore = []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES}
		}
	}
	p.streams(plan)
	p.execute(plan)
	return p.follow(ctx, plan)
}

// runBeside runs a hook in the namespaces of the process that is being made, with the host's files in sight and the
// container's root for its directory: that process has not pivoted yet. The runtime's environment does not enter the
// container's namespaces: a hook whose configuration has no env gets an empty one. A pid namespace that is another
// container's, too, is not among them: those who are in there would have the host's files by the hook.
func (p *hookProcess) runBeside(ctx context.Context, b *builder, child *spawn.Process) error {
	target := spawn.FD{Num: int(child.Pidfd.Fd()), Name: "container"}
	x := &builder{id: b.id, spec: b.spec, shared: b.isNew(specs.PIDNamespace)}
	x.joinAll(&entrance{process: target}, x.shared)
	x.add("go to the container's root", unix.SYS_FCHDIR, spawn.Desc(b.root))
	p.streams(&x.plan)
	if x.shared {
		x.closeRest()
		x.succeed()
	}
	p.execute(&x.plan)
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
	if p.env != nil {
		process.Env = p.env
	}
	b, first, err := c.joiner(rec, &process)
	if err != nil {
		return err
	}
	defer b.close()
	b.program, b.state.Status = p.path, specs.StateCreated
	if p.env == nil {
		b.home = first.dir
	}
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
