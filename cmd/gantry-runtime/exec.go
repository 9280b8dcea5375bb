package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci"
	"gantry/rawfile"
)

// execFlags are those of exec.
type execFlags struct {
	console, pidFile, pidfd, cwd, user, process string
	apparmor, label                             string
	env, caps, groups, cgroups                  values
	tty, detach, noNewPrivs, ignorePaused       bool
	preserve                                    int
}

func execute(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var x execFlags
	flags.StringVar(&x.console, "console-socket", "", "`SOCKET` that receives the terminal's master")
	flags.StringVar(&x.pidFile, "pid-file", "", "`FILE` that the process's pid is written to")
	flags.StringVar(&x.cwd, "cwd", "", "working `DIR`")
	alias(flags.StringVar, &x.user, "", "`UID[:GID]`", "user", "u")
	alias(flags.StringVar, &x.process, "", "`FILE` with the process as JSON", "process", "p")
	flags.StringVar(&x.pidfd, "pidfd-socket", "", "`SOCKET` that receives a pidfd of the process")
	repeated(flags, &x.env, "`NAME=VALUE` for the environment", "env", "e")
	repeated(flags, &x.caps, "`CAPABILITY` to have besides", "cap", "c")
	repeated(flags, &x.groups, "`GID` to be in besides", "additional-gids", "g")
	repeated(flags, &x.cgroups, "`[CONTROLLER:]PATH` of a cgroup below the container's", "cgroup")
	alias(flags.BoolVar, &x.tty, false, "make a terminal", "tty", "t")
	alias(flags.BoolVar, &x.detach, false, "return when the program has been executed", "detach", "d")
	flags.BoolVar(&x.noNewPrivs, "no-new-privs", false, "give up new privileges")
	flags.BoolVar(&x.ignorePaused, "ignore-paused", false, "let the process begin in a paused container: it stands still with it")
	flags.StringVar(&x.apparmor, "apparmor", "", "`PROFILE` of AppArmor")
	flags.StringVar(&x.label, "process-label", "", "`LABEL` of SELinux")
	flags.IntVar(&x.preserve, "preserve-fds", 0, "`N` descriptors from 3 on that the process gets")
	return func(ctx context.Context, args []string) error {
		err := a.exec(ctx, x, args)
		var code exitCode
		if err == nil || errors.As(err, &code) {
			return err
		}
		return &failedExec{fmt.Errorf("exec failed: %w", err)}
	}
}

func (a *app) exec(ctx context.Context, x execFlags, args []string) error {
	caught := catchSignals(!x.detach)
	c, err := a.runtime.LoadCreated(args[0])
	if err != nil {
		return err
	}
	spec, err := c.Spec()
	if err != nil {
		return err
	}
	process, err := x.build(spec.Process, args[1:])
	if err != nil {
		return err
	}
	groups, err := subgroups(x.cgroups)
	if err != nil {
		return err
	}
	files, err := passedOn(nil, x.preserve)
	if err != nil {
		return err
	}
	terminal, err := newTerminal(process, x.console, x.detach)
	if err != nil {
		return err
	}
	defer terminal.close()
	if err := a.sealed(); err != nil {
		return err
	}
	signals := caught()
	slog.Debug("exec in container "+c.ID, "args", strings.Join(process.Args, " "), "cwd", process.Cwd, "uid", process.User.UID)
	p, err := c.ExecWith(ctx, process, oci.ExecOptions{Stdio: terminal.stdio(), PreserveFDs: files, Cgroups: groups, IgnorePaused: x.ignorePaused})
	if err != nil {
		return err
	}
	if err := announce(p, x.pidFile, x.pidfd); err != nil {
		_ = unix.PidfdSendSignal(int(p.Pidfd.Fd()), unix.SIGKILL, nil, 0) // nobody would know of it
		return errors.Join(err, p.Pidfd.Close())
	}
	if x.detach {
		return p.Pidfd.Close()
	}
	code, err := follow(p, terminal, signals)
	if err != nil {
		return err
	}
	return code.asError()
}

// failedExec is an error of exec itself. It ends with 255 as runc's does, so that it is not taken for the process's.
type failedExec struct{ error }

func (e *failedExec) Unwrap() error { return e.error }

// build is the process that flags and arguments ask for, on top of the container's own.
func (x *execFlags) build(own *specs.Process, command []string) (*specs.Process, error) {
	if x.process != "" {
		text, err := rawfile.Read(x.process)
		if err != nil {
			return nil, fmt.Errorf("read the process: %w", err)
		}
		var p specs.Process
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, fmt.Errorf("read the process %s: %w", x.process, err)
		}
		p.Terminal = p.Terminal || x.tty
		return &p, nil
	}
	if len(command) == 0 {
		return nil, errors.New("exec args cannot be empty: name a command, or a process file by --process")
	}
	p := *own
	p.Args, p.Terminal, p.Env = command, x.tty, append(p.Env[:len(p.Env):len(p.Env)], x.env...)
	if x.cwd != "" {
		p.Cwd = x.cwd
	}
	if x.apparmor != "" {
		p.ApparmorProfile = x.apparmor
	}
	if x.label != "" {
		p.SelinuxLabel = x.label
	}
	p.NoNewPrivileges = p.NoNewPrivileges || x.noNewPrivs
	if err := x.identity(&p); err != nil {
		return nil, err
	}
	if len(x.caps) > 0 {
		sets := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			sets = *p.Capabilities
		}
		wanted := []*[]string{&sets.Bounding, &sets.Effective, &sets.Permitted}
		if sets.Inheritable != nil { // what is not inheritable cannot be ambient
			wanted = append(wanted, &sets.Ambient)
		}
		for _, set := range wanted {
			*set = append((*set)[:len(*set):len(*set)], x.caps...)
		}
		p.Capabilities = &sets
	}
	return &p, nil
}

func (x *execFlags) identity(p *specs.Process) error {
	number := func(text string) (uint32, error) {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return 0, fmt.Errorf("user or group %q: want a number", text)
		}
		return uint32(n), nil
	}
	if x.user != "" {
		uid, gid, both := strings.Cut(x.user, ":")
		var err error
		if p.User.UID, err = number(uid); err != nil {
			return err
		}
		if both {
			if p.User.GID, err = number(gid); err != nil {
				return err
			}
		}
	}
	for _, g := range x.groups {
		n, err := number(g)
		if err != nil {
			return err
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, n)
	}
	return nil
}

func repeated(flags *flag.FlagSet, v *values, usage string, names ...string) {
	for _, n := range names {
		flags.Var(v, n, usage)
	}
}

// subgroups reads --cgroup: one path on v2, "controller[,controller…]:path" on v1. The key "" is for all controllers.
func subgroups(list values) (map[string]string, error) {
	groups := map[string]string{}
	for _, text := range list {
		controllers, path, found := strings.Cut(text, ":")
		if !found {
			if len(list) > 1 {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (missing <controller>: prefix)", text)
			}
			return map[string]string{"": text}, nil
		}
		for c := range strings.SplitSeq(controllers, ",") {
			if c == "" {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (empty <controller> prefix)", text)
			}
			if _, twice := groups[c]; twice {
				return nil, fmt.Errorf("invalid --cgroup argument(s): controller %s specified multiple times", c)
			}
			groups[c] = path
		}
	}
	return groups, nil
}
