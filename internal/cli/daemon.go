package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// engineStartTimeout bounds the wait for a new engine's readiness: it restores its containers before it listens.
const engineStartTimeout = time.Minute

// startEngine runs gantryd in the background, in a session of its own, and returns when it listens on socket.
// A lock in the socket's directory lets only one of several commands start it.
func (a *app) startEngine(ctx context.Context, socket string) error {
	program, err := findEngine()
	if err != nil {
		return err
	}
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make its run directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "start.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock its start: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := rawfile.Retry(func() error { return unix.Flock(int(lock.Fd()), unix.LOCK_EX) }); err != nil {
		return fmt.Errorf("lock its start: %w", err)
	}
	if conn, err := dialUnix(ctx, socket); err == nil {
		return conn.Close() // another command was faster
	}
	log, err := os.OpenFile(filepath.Join(dir, "gantryd.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open its log: %w", err)
	}
	defer func() { _ = log.Close() }()
	a.warnf("gantry: starting the engine (%s), log in %s\n", program, log.Name())
	return spawnEngine(ctx, program, socket, log)
}

// findEngine looks for gantryd beside this executable, then in PATH.
func findEngine() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "gantryd")
		if unix.Access(beside, unix.X_OK) == nil {
			return beside, nil
		}
	}
	program, err := exec.LookPath("gantryd")
	if err != nil {
		return "", fmt.Errorf("find gantryd: %w", err)
	}
	return program, nil
}

// spawnEngine starts program and waits for its word on descriptor 3.
func spawnEngine(ctx context.Context, program, socket string, log *os.File) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the readiness pipe: %w", err)
	}
	defer func() { _ = ready.Close() }()
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		start = 0
	}
	cmd := exec.Command(program, "--host", "unix://"+socket, "--run", filepath.Dir(socket))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(os.Environ(), "GANTRYD_READY_FD=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	if err := awaitReady(ctx, ready, socket); err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			err = cmd.Wait() // it closed the pipe without listening: it is going down
		}
		return fmt.Errorf("%s did not come up: %v%s", program, err, logTail(log.Name(), start))
	}
	return cmd.Process.Release()
}

// awaitReady returns nil once the engine wrote to, or closed, the pipe and listens on socket.
func awaitReady(ctx context.Context, ready *os.File, socket string) error {
	_ = ready.SetReadDeadline(time.Now().Add(engineStartTimeout))
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) })
	defer stop()
	var word [1]byte
	n, err := ready.Read(word[:])
	if n == 1 {
		return nil
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	conn, err := dialUnix(ctx, socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// logTail returns the end of what was logged since offset, to be appended to a message.
func logTail(path string, offset int64) string {
	data, err := os.ReadFile(path)
	if err != nil || int64(len(data)) <= offset {
		return "; see " + path
	}
	lines := strings.Split(string(bytes.TrimSpace(data[offset:])), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return "; its log ends:\n  " + strings.Join(lines, "\n  ")
}
