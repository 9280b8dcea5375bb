package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// Ready is what a supervisor writes to its -ready-fd when its sockets answer; anything else is its error.
const Ready = "ready\n"

// Taken is what it writes if another supervisor has the directory, one that was just started by somebody else or is ending.
const Taken = "taken\n"

// Connect returns the supervisor of the directory, starting it (as a daemon of its own session, outside the engine's
// cgroup and process group, so that it outlives the engine) if none answers. started says which.
func Connect(ctx context.Context, o Options) (shim *Shim, started bool, err error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("make the supervisor's directory: %w", err)
	}
	lock, err := Lock(ctx, o.Dir)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = lock.Close() }()
	for {
		if shim, err := dial(ctx, o.Dir); err == nil {
			return shim, false, nil
		} else if ctx.Err() != nil {
			return nil, false, err
		}
		err := start(ctx, o)
		if err == nil {
			shim, err = dial(ctx, o.Dir)
			return shim, err == nil, err
		}
		if !errors.Is(err, errTaken) {
			return nil, false, fmt.Errorf("start supervisor %s: %w", o.Binary, err)
		}
		select { // it answers soon, or is gone
		case <-ctx.Done():
			return nil, false, fmt.Errorf("reach the supervisor of %s: %w", o.Dir, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

var errTaken = errors.New("another supervisor has the directory")

// Lock lets one process at a time start or end the directory's supervisor; closing the file ends the lock.
func Lock(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, LockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the supervisor's directory: %w", err)
	}
	for {
		err := rawfile.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK {
			_ = f.Close()
			return nil, fmt.Errorf("lock the supervisor's directory %s: %w", dir, err)
		}
		select { // who holds it is starting the supervisor: a matter of milliseconds
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("lock the supervisor's directory %s: %w", dir, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// start runs the binary and returns when it says that it is ready.
func start(ctx context.Context, o Options) error {
	log, err := os.OpenFile(filepath.Join(o.Dir, LogFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()
	args := []string{"-dir", o.Dir, "-namespace", o.Namespace, "-runtime", o.Runtime, "-ready-fd", "3"}
	if o.Events != "" {
		args = append(args, "-events", o.Events)
	}
	cmd := exec.Command(o.Binary, append(args, "serve")...)
	cmd.Dir = "/"
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{theirs}
	kept, handOver, err := o.Keeper.handOver()
	if err != nil {
		return errors.Join(fmt.Errorf("hand over what was kept for it: %w", err), theirs.Close())
	}
	if kept != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, kept)
		cmd.Args = slices.Insert(cmd.Args, 1, "-kept-fd", "4")
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	handOver()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it outlives us or not: no zombie either way
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(ready, 64<<10))
	switch {
	case string(text) == Ready:
		return nil
	case string(text) == Taken:
		return errTaken
	case ctx.Err() != nil:
		_ = cmd.Process.Kill()
		return ctx.Err()
	case len(text) > 0:
		return fmt.Errorf("%s", strings.TrimSpace(string(text)))
	case err != nil:
		return err
	}
	return fmt.Errorf("it ended at once; see %s", log.Name())
}
