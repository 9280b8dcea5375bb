package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// patience bounds what a test waits for: a machine may be slow and busy, but what takes longer hangs.
const patience = 2 * time.Minute

// binaries are built once: the runtime, and the toolbox that fills root file systems.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gantry-runtime-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("sh", "-c", "go build -o \"$0\" -ldflags '-E gantry/internal/early.entry' gantry/cmd/gantry-runtime && go build -o \"$0\" gantry/cmd/toolbox", dir+"/") // as the Makefile does
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %s", err, out)
			return 1
		}
		binaries = dir
		defer func() { // the parent of cgroups that no configuration names; one with others' groups stays
			_ = os.Remove("/sys/fs/cgroup/gantry")
			parents, _ := filepath.Glob("/sys/fs/cgroup/*/gantry")
			for _, parent := range parents {
				_ = os.Remove(parent)
			}
		}()
		return m.Run()
	}())
}

// bundle makes a bundle whose container runs a shell script.
func bundle(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(binaries, "toolbox"), filepath.Join(bin, "sh")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"true", "sleep", "id", "cat"} {
		if err := os.Symlink("sh", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	spec := example()
	spec.Version = "1.0.2" // runc's in many distributions
	spec.Process.Terminal, spec.Process.Args = false, []string{"/bin/sh", "-c", script}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// under is a runtime with a state directory of its own.
type under struct {
	program, root string
	t             *testing.T
	as            func(*exec.Cmd) // makes the command another user's; nil: it is the test's own
}

// do runs a command: exit code, standard output, standard error. The streams are files, which a container may keep.
func (u under) do(args ...string) (int, string, string) {
	u.t.Helper()
	var texts [2]string
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(u.t.TempDir(), "stream")
		if err != nil {
			u.t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	cmd := exec.Command(u.program, append([]string{"--root", u.root}, args...)...)
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	if u.as != nil {
		u.as(cmd)
	}
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		u.t.Fatal(err)
	}
	for i, f := range files {
		text, err := os.ReadFile(f.Name())
		if err != nil {
			u.t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return cmd.ProcessState.ExitCode(), texts[0], texts[1]
}

func (u under) want(code int, args ...string) (out, errs string) {
	u.t.Helper()
	got, out, errs := u.do(args...)
	if got != code {
		u.t.Errorf("%v: exit code %d, want %d: %s%s", args, got, code, out, errs)
	}
	return out, errs
}

// each runs a test with this runtime, and with runc where it is installed: what is expected is what runc does.
func each(t *testing.T, f func(u under, id string)) {
	programs := []string{filepath.Join(binaries, "gantry-runtime")}
	if runc, err := exec.LookPath("runc"); err == nil {
		programs = append(programs, runc)
	}
	for _, program := range programs {
		t.Run(filepath.Base(program), func(t *testing.T) {
			id := fmt.Sprintf("gantry-test-%d-%s", os.Getpid(), strings.ToLower(t.Name()[4:8]))
			u := under{program: program, root: t.TempDir(), t: t}
			t.Cleanup(func() { u.want(0, "delete", "--force", id) })
			f(u, id)
		})
	}
}

func TestRunEndsWithTheContainersCode(t *testing.T) {
	for script, code := range map[string]int{"exit 0": 0, "exit 7": 7, "exec /nonexistent": 127} {
		dir := bundle(t, script)
		each(t, func(u under, id string) {
			u.want(code, "run", "--bundle", dir, id)
			u.want(1, "state", id)
		})
	}
}

func TestLifeCycle(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	each(t, func(u under, id string) {
		pidFile := filepath.Join(u.root, "..", filepath.Base(u.root)+".pid")
		u.want(0, "create", "-b", dir, "--pid-file", pidFile, id)
		u.want(1, "create", "-b", dir, id)
		s := u.state(id, specs.StateCreated)
		if text, err := os.ReadFile(pidFile); err != nil || string(text) != strconv.Itoa(s.Pid) {
			u.t.Errorf("pid file: %q, %v; state: %d", text, err, s.Pid)
		}
		if s.Rootfs != filepath.Join(dir, "rootfs") || s.Bundle != dir || s.ID != id || s.Created.IsZero() {
			u.t.Errorf("state: %+v", s)
		}
		u.want(0, "start", id)
		u.want(1, "start", id)
		u.want(0, "kill", id, "0")
		if out, _ := u.want(0, "list", "-q"); out != id+"\n" {
			u.t.Errorf("list -q: %q", out)
		}
		out, _ := u.want(0, "list", "--format", "json")
		var all []stateJSON
		if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 || all[0].Pid != s.Pid {
			u.t.Errorf("list: %v: %s", err, out)
		}
		u.want(0, "update", "--memory", "67108864", "--pids-limit", "30", id)
		u.want(0, "pause", id)
		u.state(id, "paused")
		u.want(255, "exec", id, "/bin/true")
		u.want(0, "resume", id)
		u.want(1, "delete", id)
		u.want(0, "kill", id, "KILL")
		u.want(0, "delete", "--force", id)
		u.want(1, "state", id)
	})
}

func (u under) state(id string, want specs.ContainerState) stateJSON {
	u.t.Helper()
	for tries := 1; ; tries++ {
		out, _ := u.want(0, "state", id)
		var s stateJSON
		err := json.Unmarshal([]byte(out), &s)
		if err == nil && s.Status == string(want) {
			return s
		}
		executes := filepath.Base(u.program) == "runc" && want == specs.StateRunning && s.Status == string(specs.StateStopped)
		if !executes || tries == 1000 { // runc's is stopped for a moment, while its program executes another
			u.t.Errorf("state %q, want %q: %v", s.Status, want, err)
			return s
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestExec(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	each(t, func(u under, id string) {
		u.want(0, "run", "--detach", "--bundle", dir, id)
		u.want(9, "exec", id, "/bin/sh", "-c", "exit 9")
		u.want(137, "exec", id, "/bin/sh", "-c", "kill -9 $$")
		u.want(255, "exec", id, "/nonexistent")
		u.want(0, "exec", "--ignore-paused", id, "/bin/true")
		if out, _ := u.want(0, "exec", "-u", "5:6", "-e", "A=b", "--cwd", "/bin", id, "/bin/sh", "-c", "id -u; id -g; echo $A $PWD"); out != "5\n6\nb /bin\n" {
			u.t.Errorf("exec: %q", out)
		}
	})
}

func TestWhatIsMissing(t *testing.T) {
	each(t, func(u under, id string) {
		for _, args := range [][]string{
			{"state", id}, {"start", id}, {"kill", id}, {"delete", id}, {"pause", id}, {"run", "-b", t.TempDir(), id}, {"create", "-b", "/nonexistent", id},
		} {
			if _, errs := u.want(1, args...); !strings.Contains(errs, "exist") && !strings.Contains(errs, "config.json") {
				u.t.Errorf("%v: %s", args, errs)
			}
		}
		u.want(255, "exec", id, "/bin/true")
		u.want(0, "delete", "--force", id)
		file := filepath.Join(t.TempDir(), "log.json")
		u.want(1, "--log", file, "--log-format", "json", "state", id)
		text, err := os.ReadFile(file)
		var line struct{ Level, Msg, Time string }
		if err = errors.Join(err, json.Unmarshal(bytes.TrimSpace(text), &line)); err != nil || line.Level != "error" || !strings.Contains(line.Msg, "does not exist") || line.Time == "" {
			u.t.Errorf("log: %v: %s", err, text)
		}
		if out, _ := u.want(0, "--version"); !strings.Contains(out, " version ") || !strings.Contains(out, "\nspec: ") {
			u.t.Errorf("version: %q", out)
		}
	})
}

func TestOwnCommands(t *testing.T) {
	u := under{program: filepath.Join(binaries, "gantry-runtime"), root: t.TempDir(), t: t}
	if out, _ := u.want(0, "plan", bundle(t, "exit 0")); !strings.Contains(out, "execve") {
		t.Errorf("plan: %s", out)
	}
	out, _ := u.want(0, "features")
	var f struct{ OCIVersionMax string }
	if err := json.Unmarshal([]byte(out), &f); err != nil || f.OCIVersionMax != specs.Version {
		t.Errorf("features: %v: %s", err, out)
	}
	dir := t.TempDir()
	u.want(0, "spec", "--bundle", dir)
	u.want(1, "spec", "--bundle", dir) // it overwrites nothing
	u.want(1, "no-such-command")
}
