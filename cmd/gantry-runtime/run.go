package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci"
	"gantry/spawn"
)

// launch are the flags of create and run.
type launch struct {
	bundle, console, pidFile string
	noPivot, noKeyring       bool
	detach, keep             bool
	preserve                 int
}

func (l *launch) define(flags *flag.FlagSet) {
	alias(flags.StringVar, &l.bundle, ".", "`DIR` of the bundle", "bundle", "b")
	flags.StringVar(&l.console, "console-socket", "", "`SOCKET` that receives the terminal's master")
	flags.StringVar(&l.pidFile, "pid-file", "", "`FILE` that the process's pid is written to")
	flags.BoolVar(&l.noPivot, "no-pivot", false, "change the root without pivot_root")
	flags.BoolVar(&l.noKeyring, "no-new-keyring", false, "keep the session keyring")
	flags.IntVar(&l.preserve, "preserve-fds", 0, "`N` descriptors from 3 on that the process gets")
}

func create(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var l launch
	l.define(flags)
	return func(ctx context.Context, args []string) error {
		spec, err := oci.ReadSpec(l.bundle)
		if err != nil {
			return err
		}
		terminal, err := newTerminal(spec.Process, l.console, true)
		if err != nil {
			return err
		}
		defer terminal.close()
		_, process, err := a.create(ctx, args[0], spec, l, terminal)
		if err != nil {
			return err
		}
		return process.Pidfd.Close()
	}
}

// create makes the container. Its standard streams are ours.
func (a *app) create(ctx context.Context, id string, spec *specs.Spec, l launch, terminal *terminal) (*oci.Container, *oci.Process, error) {
	bundle, err := filepath.Abs(l.bundle)
	if err != nil {
		return nil, nil, err
	}
	c, process, err := a.runtime.Create(ctx, id, oci.CreateOptions{
		Bundle: bundle, Spec: spec, NoPivot: l.noPivot, NoNewKeyring: l.noKeyring,
		Stdio: terminal.stdio(), PreserveFDs: preserved(l.preserve),
	})
	if err != nil {
		return nil, nil, err
	}
	if err := writePid(l.pidFile, process.Pid); err != nil {
		return nil, nil, errors.Join(err, c.Delete(ctx, true), process.Pidfd.Close())
	}
	return c, process, nil
}

func preserved(n int) []*os.File {
	var files []*os.File
	for fd := 3; fd < 3+n; fd++ {
		files = append(files, os.NewFile(uintptr(fd), "preserved "+strconv.Itoa(fd)))
	}
	return files
}

// writePid writes the pid file atomically: who waits for it never sees half of it.
func writePid(path string, pid int) error {
	if path == "" {
		return nil
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(temp, []byte(strconv.Itoa(pid)), 0o666); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}

func start(a *app, _ *flag.FlagSet) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		c, err := a.runtime.Load(args[0])
		if err != nil {
			return err
		}
		return c.Start(ctx)
	}
}

func run(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var l launch
	l.define(flags)
	alias(flags.BoolVar, &l.detach, false, "return when the program has been executed", "detach", "d")
	flags.BoolVar(&l.keep, "keep", false, "do not delete the container at its end")
	return func(ctx context.Context, args []string) error {
		spec, err := oci.ReadSpec(l.bundle)
		if err != nil {
			return err
		}
		terminal, err := newTerminal(spec.Process, l.console, l.detach)
		if err != nil {
			return err
		}
		defer terminal.close()
		signals := make(chan os.Signal, 64)
		if !l.detach {
			signal.Notify(signals, forwarded...)
		}
		c, process, err := a.create(ctx, args[0], spec, l, terminal)
		if err != nil {
			return err
		}
		if err := c.Start(ctx); err != nil {
			_, waitErr := spawn.Reap(process.Pidfd)
			return errors.Join(err, waitErr, c.Delete(ctx, true))
		}
		if l.detach {
			return process.Pidfd.Close()
		}
		code, err := follow(process, terminal, signals)
		if !l.keep {
			err = errors.Join(err, c.Delete(ctx, true))
		}
		if err != nil {
			return err
		}
		return code.asError()
	}
}

// asError is nil for 0, so that main ends as usual.
func (e exitCode) asError() error {
	if e == 0 {
		return nil
	}
	return e
}

// follow passes signals on to a process until it ends, and returns the exit code that a shell would give.
func follow(process *oci.Process, terminal *terminal, signals chan os.Signal) (exitCode, error) {
	done := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				forward(process, terminal, s)
			}
		}
	}()
	status, err := spawn.Reap(process.Pidfd)
	close(done)
	<-forwarded
	terminal.drain()
	if err = errors.Join(err, process.Pidfd.Close()); err != nil {
		return 0, err
	}
	if status.Signaled() {
		return exitCode(128 + int(status.Signal())), nil
	}
	return exitCode(status.ExitStatus()), nil
}

// forwarded are the signals that a container gets by way of us: those that terminals, shells and service managers send.
// Each costs the start some time, and of the others nobody sends one to a process that does not ask for it.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT,
	unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH, unix.SIGPIPE,
}

func forward(process *oci.Process, terminal *terminal, s os.Signal) {
	sig, ok := s.(unix.Signal)
	switch {
	case !ok || sig == unix.SIGCHLD || sig == unix.SIGURG: // Go preempts goroutines by SIGURG
	case sig == unix.SIGWINCH:
		terminal.resize()
	default:
		_ = unix.PidfdSendSignal(int(process.Pidfd.Fd()), sig, nil, 0) // it may have just ended
	}
}
