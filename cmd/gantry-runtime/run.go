package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci"
	"gantry/spawn"
)

// launch are the flags of create, run and, but for some, restore.
type launch struct {
	bundle, console, pidFile, pidfd string
	noPivot, noKeyring              bool
	detach, keep                    bool
	preserve                        int
}

func (l *launch) define(flags *flag.FlagSet) {
	l.defineCommon(flags)
	flags.StringVar(&l.pidfd, "pidfd-socket", "", "`SOCKET` that receives a pidfd of the first process")
	flags.BoolVar(&l.noKeyring, "no-new-keyring", false, "keep the session keyring")
	flags.IntVar(&l.preserve, "preserve-fds", 0, "`N` descriptors that the process gets, besides $LISTEN_FDS")
}

func (l *launch) defineCommon(flags *flag.FlagSet) {
	alias(flags.StringVar, &l.bundle, ".", "`DIR` of the bundle", "bundle", "b")
	flags.StringVar(&l.console, "console-socket", "", "`SOCKET` that receives the terminal's master")
	flags.StringVar(&l.pidFile, "pid-file", "", "`FILE` that the process's pid is written to")
	flags.BoolVar(&l.noPivot, "no-pivot", false, "change the root without pivot_root")
}

// defineRun are the flags of what may stay in the foreground.
func (l *launch) defineRun(flags *flag.FlagSet) {
	alias(flags.BoolVar, &l.detach, false, "return when the program has been executed", "detach", "d")
	flags.Bool("no-subreaper", false, "accepted: a foreground container's processes are never adopted")
}

// bundleSpec reads the configuration, for a terminal that somebody takes, with what the environment adds to it.
func (a *app) bundleSpec(l *launch, id string) (*specs.Spec, *terminal, *notifier, error) {
	bundle, err := filepath.Abs(l.bundle)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("bundle %s: %w", l.bundle, err)
	}
	l.bundle = bundle
	spec, err := oci.ReadSpec(bundle)
	if err != nil {
		return nil, nil, nil, err
	}
	terminal, err := newTerminal(spec.Process, l.console, l.detach)
	if err != nil {
		return nil, nil, nil, err
	}
	notifier := newNotifier(a.runtime.Root, id)
	if err := notifier.prepare(spec); err != nil {
		return nil, nil, nil, err
	}
	return spec, terminal, notifier, nil
}

func create(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	l := launch{detach: true}
	l.define(flags)
	return func(ctx context.Context, args []string) error {
		spec, terminal, _, err := a.bundleSpec(&l, args[0])
		if err != nil {
			return err
		}
		defer terminal.close()
		_, process, err := a.create(ctx, args[0], spec, l, terminal)
		if err != nil {
			return errors.Join(err, removeNotify(a.runtime.Root, args[0]))
		}
		return process.Pidfd.Close()
	}
}

// create makes the container. Its standard streams are ours.
func (a *app) create(ctx context.Context, id string, spec *specs.Spec, l launch, terminal *terminal) (*oci.Container, *oci.Process, error) {
	files, err := passedOn(spec.Process, l.preserve)
	if err != nil {
		return nil, nil, err
	}
	a.explain(l.bundle, spec)
	if err := a.sealed(); err != nil {
		return nil, nil, err
	}
	c, process, err := a.runtime.Create(ctx, id, oci.CreateOptions{
		Bundle: l.bundle, Spec: spec, NoPivot: l.noPivot, NoNewKeyring: l.noKeyring, Stdio: terminal.stdio(), PreserveFDs: files,
	})
	if err != nil {
		return nil, nil, err
	}
	if err := announce(process, l.pidFile, l.pidfd); err != nil {
		return nil, nil, errors.Join(err, c.Delete(ctx, true), process.Pidfd.Close())
	}
	return c, process, nil
}

// explain logs, for --debug, every step that will make the container.
func (a *app) explain(bundle string, spec *specs.Spec) {
	if !a.log.debug {
		return
	}
	plan, err := oci.Compile(bundle, spec, nil)
	if err != nil {
		return // Create will say so
	}
	_, _ = plan.WriteTo(&debugLines{&a.log}) // a log that cannot be written is no reason not to run
}

// announce tells who asked for it which process it is.
func announce(p *oci.Process, pidFile, pidfdSocket string) error {
	if pidfdSocket != "" {
		if err := send(pidfdSocket, "pidfd", p.Pidfd); err != nil {
			return err
		}
	}
	return writePid(pidFile, p.Pid)
}

// passedOn are the descriptors that a process gets behind its standard streams: those of socket activation, see
// sd_listen_fds(3), which its environment then tells it of, and the caller's. Numbers that the caller left out are nil.
func passedOn(p *specs.Process, preserve int) ([]*os.File, error) {
	sockets, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid, pidErr := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pidErr != nil || pid != os.Getpid() {
		sockets = 0
	}
	if sockets > 0 && p != nil {
		p.Env = append(p.Env, "LISTEN_FDS="+strconv.Itoa(sockets), "LISTEN_PID=1")
	}
	return inherited(sockets + preserve)
}

// inherited are the n descriptors from 3 on that this program got from its caller; nil for each in between that it did not
// get. What the program itself has opened, in the gaps, is close-on-exec. As with runc, the last one must be open.
func inherited(n int) ([]*os.File, error) {
	if n <= 0 {
		return nil, nil
	}
	const dir, first = "/proc/self/fd", 3
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("find the descriptors to pass on: %w", err)
	}
	var files []*os.File
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd < first || fd-first >= n {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		if missing := fd - first + 1 - len(files); missing > 0 {
			files = append(files, make([]*os.File, missing)...)
		}
		files[fd-first] = os.NewFile(uintptr(fd), "preserved "+entry.Name())
	}
	if len(files) < n {
		return nil, fmt.Errorf("%d descriptors are to be passed on, but %d, the last one, is not open", n, first+n-1)
	}
	return files, nil
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
		c, err := a.runtime.LoadCreated(args[0])
		if err != nil {
			return err
		}
		notifier := newNotifier(a.runtime.Root, args[0])
		if err := notifier.listen(); err != nil {
			return err
		}
		defer notifier.close()
		if err := c.Start(ctx); err != nil {
			if _, stateErr := c.State(); errors.Is(stateErr, os.ErrNotExist) { // a hook has failed
				err = errors.Join(err, removeNotify(a.runtime.Root, args[0]))
			}
			return err
		}
		if notifier == nil {
			return nil
		}
		s, err := c.State()
		if err != nil {
			return err
		}
		return notifier.forward(s.Pid, s.Pid)
	}
}

func run(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var l launch
	l.define(flags)
	l.defineRun(flags)
	flags.BoolVar(&l.keep, "keep", false, "do not delete the container at its end")
	return func(ctx context.Context, args []string) error {
		caught := catchSignals(!l.detach)
		spec, terminal, notifier, err := a.bundleSpec(&l, args[0])
		if err != nil {
			return err
		}
		defer terminal.close()
		defer notifier.close()
		c, process, err := a.create(ctx, args[0], spec, l, terminal)
		if err != nil {
			return errors.Join(err, removeNotify(a.runtime.Root, args[0]))
		}
		signals := caught()
		if err = notifier.listen(); err == nil {
			err = c.Start(ctx)
		}
		if err != nil {
			killErr := c.Kill(unix.SIGKILL, true)
			if errors.Is(killErr, oci.ErrNotRunning) || errors.Is(killErr, os.ErrNotExist) {
				killErr = nil // it ended over that error
			}
			_, waitErr := spawn.Reap(process.Pidfd)
			if cleanErr := errors.Join(killErr, waitErr, c.Delete(ctx, true)); cleanErr != nil || l.detach {
				return errors.Join(err, cleanErr)
			}
			return asProgram(err)
		}
		return a.attend(ctx, c, process, l, terminal, notifier, signals)
	}
}

// notExecuted is the error of a program that was there and could not be executed: a script without its interpreter.
type notExecuted struct{ error }

func (e *notExecuted) Unwrap() error { return e.error }

// asProgram makes a failed execve the program's own message, as which runc's users know it. Other errors stay.
func asProgram(err error) error {
	var step *spawn.StepError
	if errors.As(err, &step) && strings.HasPrefix(step.Name, "exec ") {
		return &notExecuted{step}
	}
	return err
}

// attend leaves a container that runs, or follows it to its end.
func (a *app) attend(ctx context.Context, c *oci.Container, p *oci.Process, l launch, t *terminal, n *notifier, signals <-chan os.Signal) error {
	if l.detach {
		return errors.Join(n.forward(p.Pid, p.Pid), p.Pidfd.Close())
	}
	n.forwardBeside(p.Pid)
	code, err := follow(p, t, signals)
	if !l.keep {
		err = errors.Join(err, c.Delete(ctx, true), removeNotify(a.runtime.Root, c.ID))
	}
	if err != nil {
		return err
	}
	return code.asError()
}

// asError is nil for 0, so that main ends as usual.
func (e exitCode) asError() error {
	if e == 0 {
		return nil
	}
	return e
}
