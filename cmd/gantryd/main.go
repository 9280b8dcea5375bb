// Command gantryd is the engine: it serves the Docker Engine API, and keeps images, containers, networks and volumes.
// Containers run under the supervisor and go on when the engine ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/api/docker"
	"gantry/internal/engine"
	"gantry/internal/idle"
	"gantry/internal/version"
	"gantry/rawfile"
)

func main() {
	c, err := parseConfig(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err == nil:
		err = run(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gantryd:", err)
		os.Exit(1)
	}
}

// gcPercent lets the heap grow while there is work; trimAfter is when what it took is given back.
const (
	gcPercent = 200
	trimAfter = time.Second
)

func run(c *config) error {
	if os.Geteuid() != 0 {
		return errors.New("the engine needs root: it mounts, makes namespaces and configures the network")
	}
	debug.SetGCPercent(gcPercent)
	unix.Umask(0o022)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	lock, err := lockRun(c.Run)
	if err != nil {
		return err
	}
	defer lock.Close()

	if c.teardown {
		return engine.Teardown(ctx, c.engineOptions())
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	o := c.engineOptions()
	o.Version, o.Log = version.Version, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	listeners, err := listen(c)
	if err != nil {
		return err
	}
	e, err := engine.Open(ctx, o)
	if err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		return err
	}
	ready()
	err = serve(ctx, listeners, trimming(docker.New(e, version.Version)))
	return errors.Join(err, e.Close())
}

// trimming gives memory back when no request has come for a while.
func trimming(next http.Handler) http.Handler {
	memory := idle.New(trimAfter)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		memory.Touch()
		next.ServeHTTP(w, r)
	})
}

// lockPatience is how long an engine waits for another one to be gone.
const lockPatience = time.Second

// lockRun makes this the only engine of a run directory; the lock ends with the process.
func lockRun(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	path := filepath.Join(dir, "gantryd.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	take := func() error {
		return rawfile.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	}
	err = take()
	// An engine that was killed while it started the supervisor leaves the lock to that process until it executes its program.
	for end := time.Now().Add(lockPatience); err == unix.EWOULDBLOCK && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		err = take()
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another gantryd is using %s (lock %s: %w)", dir, path, err)
	}
	return f, nil
}

// ready tells whoever started this process that requests are answered: by a byte on the pipe named in GANTRYD_READY_FD.
func ready() {
	n, err := strconv.Atoi(os.Getenv("GANTRYD_READY_FD"))
	if err != nil || n < 3 {
		return
	}
	f := os.NewFile(uintptr(n), "ready")
	_, _ = f.WriteString("1") // the starter may be gone
	_ = f.Close()
}
