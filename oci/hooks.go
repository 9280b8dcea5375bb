package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"github.com/go-json-experiment/json"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// hookRunner runs the specification's hooks ("POSIX-platform Hooks") with the container's state on their standard input.
type hookRunner struct {
	ctx   context.Context
	hooks *specs.Hooks
	state specs.State
}

// hooksBeforePivot: prestart and createRuntime run in the runtime's namespaces, createContainer in the container's,
// while the process waits in its namespaces, before the root changes.
func (b *builder) hooksBeforePivot(h *hookRunner) error {
	if h == nil || h.hooks == nil {
		return nil
	}
	//lint:ignore SA1019 deprecated is not gone
	before := append(h.hooks.Prestart[:len(h.hooks.Prestart):len(h.hooks.Prestart)], h.hooks.CreateRuntime...)
	if len(before)+len(h.hooks.CreateContainer) == 0 {
		return nil
	}
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "run the hooks of create", Sync: func(child *spawn.Process) error {
		h.state.Pid = child.Pid
		if err := h.run(before, nil); err != nil {
			return err
		}
		return h.run(h.hooks.CreateContainer, child)
	}})
	return nil
}

// hooksBeforeExec: startContainer runs in the container's namespaces, after start and before the program. Create has
// returned by then, so nobody is there to run them.
func (b *builder) hooksBeforeExec(h *hookRunner) error {
	if h != nil && h.hooks != nil && len(h.hooks.StartContainer) > 0 {
		return errors.New("config.json: hooks.startContainer is not supported")
	}
	return nil
}

func (h *hookRunner) poststart() error {
	if h.hooks == nil {
		return nil
	}
	return h.run(h.hooks.Poststart, nil)
}

// poststop logs failures: the container is gone already.
func (h *hookRunner) poststop() {
	if h.hooks == nil {
		return
	}
	for _, hook := range h.hooks.Poststop {
		if err := h.run([]specs.Hook{hook}, nil); err != nil {
			slog.Warn("a poststop hook failed", "container", h.state.ID, "error", err)
		}
	}
}

// run runs hooks one after the other, in a container's namespaces if it is given.
func (h *hookRunner) run(list []specs.Hook, container *spawn.Process) error {
	state, err := json.Marshal(h.state, lenient)
	if err != nil {
		return err
	}
	for _, hook := range list {
		ctx, cancel := h.ctx, context.CancelFunc(func() {})
		if hook.Timeout != nil {
			ctx, cancel = context.WithTimeout(h.ctx, time.Duration(*hook.Timeout)*time.Second)
		}
		if container == nil {
			err = runHook(ctx, hook, state)
		} else {
			err = runHookInside(ctx, hook, state, container)
		}
		cancel()
		if err != nil {
			return fmt.Errorf("hook %s: %w", hook.Path, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, hook specs.Hook, state []byte) error {
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = hook.Env, bytes.NewReader(state), &output, &output
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

// runHookInside runs a hook in the namespaces of a container's process by a plan that joins them.
func runHookInside(ctx context.Context, hook specs.Hook, state []byte, container *spawn.Process) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = w.Write(state) // a pipe holds more than a state
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	target := spawn.FD{Num: int(container.Pidfd.Fd()), Name: "container"}
	args := hook.Args
	if len(args) == 0 {
		args = []string{hook.Path}
	}
	p := &spawn.Plan{}
	p.Add("join the container", unix.SYS_SETNS, spawn.Desc(target), spawn.Flags(unix.CLONE_NEWNS|unix.CLONE_NEWNET|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC, "CLONE_NEWNS|…"))
	p.Add("pass the state", unix.SYS_DUP3, spawn.Desc(spawn.FD{Num: int(r.Fd()), Name: "state"}), spawn.Int(0), spawn.Int(0))
	p.Add("execute "+hook.Path, unix.SYS_EXECVE, spawn.Str(hook.Path), spawn.Strs(args), spawn.Strs(hook.Env))
	child, err := spawn.Start(p)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.PidfdSendSignal(int(child.Pidfd.Fd()), unix.SIGKILL, nil, 0) })
	status, err := child.Wait()
	stop()
	if err = errors.Join(err, child.Close()); err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("it ended with status %d", status.ExitStatus())
	}
	return nil
}
