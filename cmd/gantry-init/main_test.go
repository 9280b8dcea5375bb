package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the built program.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gantry-init-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "gantry-init")
	build := exec.Command("go", "build", "-ldflags", "-s -w -E main.entry", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	return m.Run()
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		args []string
		code int
		out  string
	}{
		"success":          {args: []string{"true"}},
		"code":             {args: []string{"sh", "-c", "exit 41"}, code: 41},
		"signal":           {args: []string{"sh", "-c", "kill -KILL $$"}, code: 137},
		"arguments":        {args: []string{"printf", "%s,", "a b", "", "c"}, out: "a b,,c,"},
		"by path":          {args: []string{"/bin/echo", "x"}, out: "x\n"},
		"missing":          {args: []string{"no-such-program"}, code: 127, out: "exec no-such-program failed: No such file or directory\n"},
		"missing path":     {args: []string{"/no/such"}, code: 127, out: "exec /no/such failed: No such file or directory\n"},
		"not allowed":      {args: []string{dir + "/plain"}, code: 126, out: "exec " + dir + "/plain failed: it cannot be executed\n"},
		"later on PATH":    {path: "/no/such:" + dir + ":/bin", args: []string{"echo", "found"}, out: "found\n"},
		"refused on PATH":  {path: dir, args: []string{"plain"}, code: 126, out: "exec plain failed: it cannot be executed\n"},
		"no PATH":          {path: "-", args: []string{"sh"}, code: 127, out: "exec sh failed: No such file or directory\n"},
		"a long PATH":      {path: strings.Repeat("x", 5000) + ":/bin", args: []string{"echo", "y"}, out: "y\n"},
		"orphans are left": {args: []string{"sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 5"}, code: 5},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(binary, append([]string{"--"}, c.args...)...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID} // orphans end with it
			switch c.path {
			case "":
			case "-":
				cmd.Env = []string{"A=b"}
			default:
				cmd.Env = []string{"PATH=" + c.path}
			}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if cmd.ProcessState.ExitCode() != c.code || string(out) != c.out {
				t.Errorf("exit %d, want %d; output %q, want %q", cmd.ProcessState.ExitCode(), c.code, out, c.out)
			}
		})
	}
	if err := exec.Command(binary, "sh").Run(); err == nil || err.Error() != "exit status 125" {
		t.Errorf("without --: %v", err)
	}
}

// TestSignals sends signals to the init, and looks for them in the program.
func TestSignals(t *testing.T) {
	cmd := exec.Command(binary, "--", "sh", "-c", `trap 'echo got usr1' USR1; trap 'echo got term; exit 7' TERM; echo ready; while :; do sleep 0.05; done`)
	var out bytes.Buffer
	reader, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	expect := func(text string) {
		buffer := make([]byte, 256)
		for !strings.Contains(out.String(), text) {
			n, err := reader.Read(buffer)
			out.Write(buffer[:n])
			if err != nil {
				t.Fatalf("no %q in %q: %v", text, out.String(), err)
			}
		}
	}
	expect("ready")
	for _, s := range []struct {
		signal os.Signal
		text   string
	}{{syscall.SIGUSR1, "got usr1"}, {syscall.SIGTERM, "got term"}} {
		if err := cmd.Process.Signal(s.signal); err != nil {
			t.Fatal(err)
		}
		expect(s.text)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "exit status 7" {
		t.Errorf("ended with %v", err)
	}
}

// TestReaps makes orphans in a pid namespace, and waits until none is left as a zombie. It also bounds the memory.
func TestReaps(t *testing.T) {
	cmd := exec.Command(binary, "--", "sh", "-c", `for i in 1 2 3; do sh -c 'sleep 0.05 &'; done; exec sleep 1000`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	children := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/task/" + strconv.Itoa(cmd.Process.Pid) + "/children"
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(children)
		if err != nil {
			t.Fatal(err)
		}
		pids := strings.Fields(string(text))
		if len(pids) == 1 {
			name, err := os.ReadFile("/proc/" + pids[0] + "/comm")
			if err == nil && string(name) == "sleep\n" {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("its children are still %s", text)
		}
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	size, err := strconv.Atoi(strings.Fields(rss)[0])
	if err != nil || size > 512 {
		t.Errorf("resident memory %d KiB, want at most 512", size)
	}
}
