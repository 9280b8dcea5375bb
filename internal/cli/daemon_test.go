package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeDaemon is what this test binary is under the name gantryd: it listens, says so, and waits to be killed.
func fakeDaemon() {
	if os.Getenv("FAKE_DAEMON_FAILS") != "" {
		fmt.Fprintln(os.Stderr, "gantryd: root directory is not writable")
		os.Exit(1)
	}
	socket := strings.TrimPrefix(os.Args[2], "unix://")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	session, err := unix.Getsid(0)
	if err != nil || session != os.Getpid() {
		fmt.Fprintln(os.Stderr, "not in a session of its own")
		os.Exit(1)
	}
	pids, err := os.OpenFile(filepath.Join(filepath.Dir(socket), "pids"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		os.Exit(1)
	}
	_, _ = fmt.Fprintln(pids, os.Getpid())
	fd, err := strconv.Atoi(os.Getenv("GANTRYD_READY_FD"))
	if err != nil {
		os.Exit(1)
	}
	_, _ = os.NewFile(uintptr(fd), "ready").WriteString("1")
	for {
		if _, err := listener.Accept(); err != nil {
			return
		}
	}
}

// withFakeEngine puts this binary, as gantryd, into PATH and returns the socket that it will listen on.
func withFakeEngine(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "gantryd")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	return filepath.Join(t.TempDir(), "run", "gantry.sock")
}

func TestStartsOneEngine(t *testing.T) {
	socket := withFakeEngine(t)
	ad := address{url: "unix://" + socket, isDefault: true}
	var commands sync.WaitGroup
	for range 4 {
		commands.Go(func() {
			var said bytes.Buffer
			a := &app{errOut: &said}
			conn, err := a.dialOrStart(context.Background(), ad, socket)
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
		})
	}
	commands.Wait()
	pids, err := os.ReadFile(filepath.Join(filepath.Dir(socket), "pids"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(pids))
	for _, line := range lines {
		pid, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if len(lines) != 1 {
		t.Errorf("%d engines were started, want 1", len(lines))
	}
}

func TestEngineThatFailsToStart(t *testing.T) {
	socket := withFakeEngine(t)
	t.Setenv("FAKE_DAEMON_FAILS", "1")
	var said bytes.Buffer
	a := &app{errOut: &said}
	_, err := a.dialOrStart(context.Background(), address{url: "unix://" + socket, isDefault: true}, socket)
	if err == nil || !strings.Contains(err.Error(), "root directory is not writable") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("error %v: want the end of the log and the exit status", err)
	}
	if !strings.Contains(said.String(), "starting the engine") {
		t.Errorf("stderr %q does not tell of the start", said.String())
	}
}

func TestChosenHostIsNotStarted(t *testing.T) {
	socket := withFakeEngine(t)
	_, err := (&app{}).dialOrStart(context.Background(), address{url: "unix://" + socket}, socket)
	if err == nil || !strings.Contains(err.Error(), "cannot connect to the engine at unix://"+socket+": no such file or directory") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Dir(socket)); !os.IsNotExist(err) {
		t.Errorf("the run directory was made: %v", err)
	}
}

func TestResolveHost(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	for _, test := range []struct {
		flag      string
		env       func(string) string
		uid       int
		url       string
		isDefault bool
	}{
		{"unix:///a", env("GANTRY_HOST", "unix:///b"), 0, "unix:///a", false},
		{"", env("GANTRY_HOST", "unix:///b", "DOCKER_HOST", "unix:///c"), 0, "unix:///b", false},
		{"", env("DOCKER_HOST", "tcp://h:1"), 0, "tcp://h:1", false},
		{"", env(), 0, "unix:///run/gantry/gantry.sock", true},
		{"", env("XDG_RUNTIME_DIR", "/x"), 5, "unix:///x/gantry/gantry.sock", true},
		{"", env(), 5, "unix:///run/user/5/gantry/gantry.sock", true},
		{"/p", env(), 0, "unix:///p", false},
		{":2375", env(), 0, "tcp://127.0.0.1:2375", false},
		{"ssh://h", env(), 0, "", false},
		{"unix://rel", env(), 0, "", false},
		{"tcp://h", env(), 0, "", false},
	} {
		got, err := resolveHost(test.flag, test.env, test.uid)
		if (err != nil) != (test.url == "") || got.url != test.url || got.isDefault != test.isDefault {
			t.Errorf("resolveHost(%q) = %+v, %v; want %q", test.flag, got, err, test.url)
		}
	}
}
