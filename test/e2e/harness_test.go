// Package e2e drives the built binaries as a user does: with the gantry command line and with the stock docker client.
//
// GANTRY_BIN names the directory of the binaries, DOCKER the docker client (test/test.sh builds both).
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every command: a hang is a failure. GANTRY_TEST_PATIENCE multiplies it, for machines under software
// emulation.
var patience = time.Minute * slowness()

func slowness() time.Duration {
	if n, err := strconv.Atoi(os.Getenv("GANTRY_TEST_PATIENCE")); err == nil && n > 0 {
		return time.Duration(n)
	}
	return 1
}

// daemon is one gantryd with directories of its own.
type daemon struct {
	dir  string
	root string // its state; empty: in dir
	host string
	cmd  *exec.Cmd
	log  *os.File
}

// shared is the engine that most tests use.
var shared *daemon

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	for _, variable := range []string{"GANTRY_BIN", "DOCKER"} {
		if os.Getenv(variable) == "" {
			fmt.Fprintln(os.Stderr, "set", variable, "(make test does)")
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "gantry-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if shared, err = startDaemon(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := shared.remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func bin(name string) string { return filepath.Join(os.Getenv("GANTRY_BIN"), name) }

// startDaemon starts an engine in dir, or starts it again there.
func startDaemon(dir string) (*daemon, error) {
	d := &daemon{dir: dir, host: "unix://" + filepath.Join(dir, "run", "gantry.sock")}
	return d, d.start()
}

func (d *daemon) start() error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	if d.log, err = os.OpenFile(filepath.Join(d.dir, "gantryd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	d.cmd = exec.Command(bin("gantryd"), "--root", d.rootDir(), "--run", filepath.Join(d.dir, "run"), "--host", d.host)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.ExtraFiles = []*os.File{theirs}
	d.cmd.Env = append(os.Environ(), "GANTRYD_READY_FD=3")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	_ = theirs.Close()
	if n, _ := ready.Read(make([]byte, 1)); n != 1 {
		err := d.cmd.Wait()
		text, _ := os.ReadFile(d.log.Name())
		return fmt.Errorf("gantryd did not start: %v\n%s", err, text)
	}
	return nil
}

func (d *daemon) rootDir() string {
	if d.root != "" {
		return d.root
	}
	return filepath.Join(d.dir, "root")
}

// kill ends the engine as a crash would.
func (d *daemon) kill() error {
	err := d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	return errors.Join(err, d.log.Close())
}

// remove removes every container, ends the engine and what it set up on the host, and waits for the supervisor's end.
func (d *daemon) remove() error {
	if ids := strings.Fields(command("gantry", d, "ps", "-aq").out); len(ids) > 0 {
		if r := command("gantry", d, append([]string{"rm", "-fv"}, ids...)...); r.code != 0 {
			return fmt.Errorf("remove containers: %s", r.err)
		}
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("gantryd ended badly: %w", err)
	}
	out, err := exec.Command(bin("gantryd"), "--root", d.rootDir(), "--run", filepath.Join(d.dir, "run"), "--teardown").CombinedOutput()
	if err != nil {
		return fmt.Errorf("gantryd --teardown: %w: %s", err, out)
	}
	return d.log.Close()
}

// result is what a command printed and how it ended.
type result struct {
	out, err string
	code     int
}

// client is gantry or docker; both take the same arguments.
func client(ctx context.Context, name string, d *daemon, args ...string) *exec.Cmd {
	program := bin("gantry")
	if name == "docker" {
		program = os.Getenv("DOCKER")
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.host, "GANTRY_HOST="+d.host, "DOCKER_CONFIG="+filepath.Join(d.dir, "docker-config"))
	return cmd
}

func command(name string, d *daemon, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return finish(client(ctx, name, d, args...))
}

func finish(cmd *exec.Cmd) result {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
	if err != nil && cmd.ProcessState == nil {
		r.err, r.code = err.Error(), -1
	}
	return r
}

// both runs a test with each client.
func both(t *testing.T, test func(t *testing.T, do func(args ...string) result)) {
	for _, name := range []string{"gantry", "docker"} {
		t.Run(name, func(t *testing.T) {
			test(t, func(args ...string) result { return command(name, shared, args...) })
		})
	}
}

// must fails the test unless the command ended with 0, and returns its output without space around it.
func must(t *testing.T, r result) string {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("exit %d: %s%s", r.code, r.out, r.err)
	}
	return strings.TrimSpace(r.out)
}

// eventually waits for a condition that the kernel or the engine brings about in its own time.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// hostAddress is an address of this machine that is not loopback.
func hostAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String()
		}
	}
	t.Fatal("this machine has no address but loopback")
	return ""
}
