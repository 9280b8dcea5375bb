package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
	"gantry/spawn"
)

// hookProcess is a hook on its way to be executed.
type hookProcess struct {
	path      string
	args, env []string // env is nil if the configuration has none
	state     *os.File // its standard input
	output    *os.File // what it prints, for the error if it fails
}

// hookOutput bounds what of a hook's output is kept, in bytes. It is a pipe's size: one that prints more is not kept waiting.
const hookOutput = 4096

// runHook runs a hook by start with its state, and kills it when its time is over.
func runHook(ctx context.Context, hook specs.Hook, state []byte, start func(context.Context, *hookProcess) error) error {
	input, err := memoryFile("state", state)
	if err != nil {
		return err
	}
	defer input.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p := &hookProcess{path: hook.Path, args: hook.Args, env: hook.Env, state: input, output: w}
	if len(p.args) == 0 {
		p.args = []string{hook.Path}
	}
	said := make(chan []byte, 1)
	go func() { said <- drain(r) }()
	if hook.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*hook.Timeout)*time.Second, fmt.Errorf("%w of %d s", errHookTime, *hook.Timeout))
		defer cancel()
	}
	err = start(ctx, p)
	// What the hook left running may hold the pipe open for ever: what is in it by now is all.
	err = errors.Join(err, w.Close(), r.SetReadDeadline(time.Unix(1, 0)))
	text := append(<-said, rest(r)...)
	err = errors.Join(err, r.Close())
	if text = bytes.TrimSpace(text); err != nil && len(text) > 0 {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// rest reads what a pipe holds, without waiting.
func rest(r *os.File) []byte {
	buf := make([]byte, hookOutput)
	n := 0
	if conn, err := r.SyscallConn(); err == nil && r.SetReadDeadline(time.Time{}) == nil {
		_ = conn.Read(func(fd uintptr) bool {
			_ = rawfile.Retry(func() (err error) { // of an error there is nothing to read
				n, err = unix.Read(int(fd), buf)
				return err
			})
			return true
		})
	}
	return buf[:max(n, 0)]
}

// drain reads to the end, or to the deadline, and returns the beginning.
func drain(r *os.File) []byte {
	var kept []byte
	buf := make([]byte, hookOutput)
	for {
		n, err := r.Read(buf)
		kept = append(kept, buf[:min(n, hookOutput-len(kept))]...)
		if err != nil {
			return kept
		}
	}
}

// memoryFile is a file without a name that has the text, to be read from its beginning.
func memoryFile(name string, text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(text)
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (p *hookProcess) stdio() Stdio { return Stdio{Stdin: p.state, Stdout: p.output, Stderr: p.output} }

// streams adds the steps that put the streams in place.
func (p *hookProcess) streams(plan *spawn.Plan) {
	state, output := spawn.FD{Num: int(p.state.Fd()), Name: "state"}, spawn.FD{Num: int(p.output.Fd()), Name: "output"}
	plan.Add("pass the state", unix.SYS_DUP3, spawn.Desc(state), spawn.Int(0), spawn.Int(0))
	plan.Add("take standard output", unix.SYS_DUP3, spawn.Desc(output), spawn.Int(1), spawn.Int(0))
	plan.Add("take standard error", unix.SYS_DUP3, spawn.Desc(output), spawn.Int(2), spawn.Int(0))
}

func (p *hookProcess) execute(plan *spawn.Plan) {
	plan.Add("execute", unix.SYS_EXECVE, spawn.Str(p.path), spawn.Strs(p.args), spawn.Strs(p.env))
}

// follow starts the hook and waits for its end. A hook that is still running when the context ends is killed.
func (p *hookProcess) follow(ctx context.Context, plan *spawn.Plan) error {
	child, err := spawn.Start(plan)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.PidfdSendSignal(int(child.Pidfd.Fd()), unix.SIGKILL, nil, 0) })
	status, err := child.Wait()
	killed := !stop()
	if err = errors.Join(err, child.Close()); err != nil {
		return err
	}
	switch {
	case killed && status.Signal() == unix.SIGKILL:
		return context.Cause(ctx)
	case status.Signaled():
		return fmt.Errorf("ended by signal %s: %s", unix.SignalName(status.Signal()), status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return nil
}
