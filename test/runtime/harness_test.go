// Package runtime tests gantry-runtime in runc's place, under Debian's docker, containerd and podman. Each peer gets
// directories and sockets of its own; a peer that is not installed is an error, since test.sh installs them.
package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gantry/test/isolate"
)

// built is the directory of all the tests: it has the runtime and the program that fills root file systems.
var built string

// TestMain runs the tests in namespaces, where whatever daemons leave ends with them. GANTRY_PEERS_DIR names a directory that
// has the programs, on a machine that is for these tests alone.
func TestMain(m *testing.M) {
	isolate.Init()
	built = os.Getenv("GANTRY_PEERS_DIR")
	run := build
	switch {
	case built != "":
		run = func(m *testing.M) (int, error) { return m.Run(), nil }
	case !isolate.Inside():
		run = func(*testing.M) (int, error) { return isolate.Run(os.Args, true) }
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(1, code)
	}
	os.Exit(code)
}

// build builds the programs, then runs the tests.
func build(m *testing.M) (code int, err error) {
	if built, err = os.MkdirTemp("", "gp-"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(built)) }()
	build := exec.Command("go", "build", "-C", "../..", "-trimpath", "-o", built, "./cmd/gantry-runtime", "./cmd/containerd-shim-gantry-v1", "./cmd/toolbox", "./cmd/gantry-runtime/testdata/subject")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build: %w\n%s", err, out)
	}
	if err := os.Chmod(built, 0o711); err != nil { // for mapped users
		return 1, err
	}
	return m.Run(), nil
}

// ownNamespace is the name of one of the tests' namespaces, those of the host for containers.
func ownNamespace(t *testing.T, kind string) string {
	t.Helper()
	link, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// peer is somebody who calls the runtime.
type peer struct {
	t       *testing.T
	dir     string   // short: sockets are in it
	command []string // of its client
	calls   string   // file with a line for each call of the runtime
	runtime string   // what to give it as the runtime: it notes its calls and is that runtime then
	id      string   // differs from peer to peer, for names that are the machine's
}

// beside runs a test with runc, then with gantry-runtime: a test that runc fails is a wrong test.
func beside(t *testing.T, test func(t *testing.T, runtime string)) {
	for _, runtime := range []string{"runc", "gantry-runtime"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			test(t, runtime)
		})
	}
}

var peers atomic.Int32

func newPeer(t *testing.T, runtime string, programs ...string) *peer {
	t.Helper()
	for _, program := range append(programs, "runc") {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is not installed: %v", program, err)
		}
	}
	if runtime != "runc" {
		runtime = filepath.Join(built, runtime)
	}
	dir, err := os.MkdirTemp(built, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeAll(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil { // for mapped users
		t.Fatal(err)
	}
	p := &peer{t: t, dir: dir, calls: filepath.Join(dir, "calls"), runtime: filepath.Join(dir, "runtime"), id: fmt.Sprintf("peer%d", peers.Add(1))}
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\nexec %s \"$@\"\n", p.calls, runtime)
	if err := os.WriteFile(p.runtime, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// removeAll waits for what a daemon that has just ended still has mounted.
func removeAll(dir string) error {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if mounts, readErr := os.ReadFile("/proc/self/mountinfo"); readErr == nil {
			for line := range strings.Lines(string(mounts)) {
				if at := strings.Fields(line)[4]; strings.HasPrefix(at, dir+"/") {
					_ = syscall.Unmount(at, syscall.MNT_DETACH) // seen again if it failed
				}
			}
		}
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// rootfs makes a root directory with a shell and a few programs.
func (p *peer) rootfs() string {
	p.t.Helper()
	root := filepath.Join(p.dir, "rootfs")
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "etc", "run"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			p.t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(built, "toolbox"))
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "bin/sh"), text, 0o755)
	}
	for _, name := range []string{"cat", "chmod", "echo", "env", "grep", "hog", "hostname", "id", "ip", "ls", "mount", "ps", "readlink", "sleep", "stat", "true", "tty"} {
		err = errors.Join(err, os.Symlink("sh", filepath.Join(root, "bin", name)))
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return root
}

// daemon starts a program, and ends it after the test. It is ready when the client can talk to it.
func (p *peer) daemon(ready []string, program string, args ...string) {
	p.t.Helper()
	log, err := os.Create(filepath.Join(p.dir, filepath.Base(program)+".log"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is told to end
		close(ended)
	}()
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-ended
		}
		if p.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			p.t.Logf("%s said:\n%s", program, text[max(0, len(text)-4000):])
		}
	})
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if code, _ := p.do(ready...); code == 0 {
			return
		}
		select {
		case <-ended:
			p.t.Fatalf("%s ended at once", program)
		case <-time.After(100 * time.Millisecond):
		}
	}
	p.t.Fatalf("%s does not answer", program)
}

// patience is how long a client may take: under software emulation, beside other work, a minute is too short.
const patience = 5 * time.Minute

// do runs the peer's client: exit code, and both outputs together.
func (p *peer) do(args ...string) (int, string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.command[0], append(p.command[1:len(p.command):len(p.command)], args...)...)
	var out bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, &out, &out // conmon writes a file where podman is called
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		p.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// want runs the client, and checks its exit code and that its output has a text.
func (p *peer) want(code int, text string, args ...string) string {
	p.t.Helper()
	got, out := p.do(args...)
	if got != code || !strings.Contains(out, text) {
		p.t.Fatalf("%s: exit code %d, want %d; output %q, want %q", strings.Join(args, " "), got, code, out, text)
	}
	return out
}

// eventually repeats a command until its output has a text.
func (p *peer) eventually(text string, args ...string) {
	p.t.Helper()
	var out string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, out = p.do(args...); strings.Contains(out, text) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.t.Fatalf("%s: %q, want %q", strings.Join(args, " "), out, text)
}

// called checks that the peer has used commands of the runtime.
func (p *peer) called(commands ...string) {
	p.t.Helper()
	text, err := os.ReadFile(p.calls)
	if err != nil {
		p.t.Fatal(err)
	}
	words := strings.Fields(string(text))
	for _, c := range commands {
		if !slices.Contains(words, c) {
			p.t.Errorf("the runtime was not asked to %s; calls:\n%s", c, text)
		}
	}
}
