package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// execFlags are those of exec.
type execFlags struct {
	console, pidFile, cwd, user, process string
	apparmor, label                      string
	env, caps, groups                    values
	tty, detach, noNewPrivs              bool
	preserve                             int
}

func execute(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var x execFlags
	flags.StringVar(&x.console, "console-socket", "", "`SOCKET` that receives the terminal's master")
	flags.StringVar(&x.pidFile, "pid-file", "", "`FILE` that the process's pid is written to")
	flags.StringVar(&x.cwd, "cwd", "", "working `DIR`")
	alias(flags.StringVar, &x.user, "", "`UID[:GID]`", "user", "u")
	alias(flags.StringVar, &x.process, "", "`FILE` with the process as JSON", "process", "p")
	for name, v := range map[string]*values{"env": &x.env, "e": &x.env, "cap": &x.caps, "c": &x.caps, "additional-gids": &x.groups, "g": &x.groups} {
		flags.Var(v, name, "may be repeated")
	}
	alias(flags.BoolVar, &x.tty, false, "make a terminal", "tty", "t")
	alias(flags.BoolVar, &x.detach, false, "return when the program has been executed", "detach", "d")
	flags.BoolVar(&x.noNewPrivs, "no-new-privs", false, "give up new privileges")
	flags.Bool("ignore-paused", false, "accepted; a paused container takes no process")
	flags.StringVar(&x.apparmor, "apparmor", "", "`PROFILE` of AppArmor")
	flags.StringVar(&x.label, "process-label", "", "`LABEL` of SELinux")
	flags.IntVar(&x.preserve, "preserve-fds", 0, "`N` descriptors from 3 on that the process gets")
	return func(ctx context.Context, args []string) error {
		err := a.exec(ctx, x, args)
		var code exitCode
		if err == nil || errors.As(err, &code) {
			return err
		}
		return &failedExec{err}
	}
}

func (a *app) exec(ctx context.Context, x execFlags, args []string) error {
	c, err := a.runtime.Load(args[0])
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
	terminal, err := newTerminal(process, x.console, x.detach)
	if err != nil {
		return err
	}
	defer terminal.close()
	signals := make(chan os.Signal, 64)
	if !x.detach {
		signal.Notify(signals, forwarded...)
	}
	p, err := c.Exec(ctx, process, terminal.stdio(), preserved(x.preserve)...)
	if err != nil {
		return err
	}
	if err := writePid(x.pidFile, p.Pid); err != nil {
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
		text, err := os.ReadFile(x.process)
		if err != nil {
			return nil, fmt.Errorf("read the process: %w", err)
		}
		var p specs.Process
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, fmt.Errorf("read the process %s: %w", x.process, err)
		}
		return &p, nil
	}
	if len(command) == 0 {
		return nil, errors.New("exec: name a command, or a process file by --process")
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
		for _, set := range []*[]string{&sets.Bounding, &sets.Effective, &sets.Permitted, &sets.Inheritable, &sets.Ambient} {
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
