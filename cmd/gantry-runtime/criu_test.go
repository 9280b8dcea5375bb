package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestCheckpointAndRestore counts on where it was interrupted, in another container of another id, after a pre-dump.
func TestCheckpointAndRestore(t *testing.T) {
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("criu does not work on this kernel: %v: %s", err, out)
	}
	dir, images := bundle(t, "i=0; while true; do i=$((i+1)); echo $i >/tmp/n; sleep 0.1; done"), t.TempDir()
	rewrite(t, dir, func(s *specs.Spec) { // criu dumps network namespaces with modules that not every kernel has
		s.Root.Readonly = false
		s.Linux.Namespaces = s.Linux.Namespaces[:0:0]
		for _, n := range example().Linux.Namespaces {
			if n.Type != specs.NetworkNamespace {
				s.Linux.Namespaces = append(s.Linux.Namespaces, n)
			}
		}
	})
	if err := os.MkdirAll(filepath.Join(dir, "rootfs/tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		text, _ := os.ReadFile(filepath.Join(dir, "rootfs/tmp/n")) // being written, it is empty
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	grow := func(from int) int {
		t.Helper()
		for range 100 {
			if n := count(); n > from {
				return n
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("it does not count on from %d", from)
		return 0
	}
	u, id := own(t)
	second := id + "-2"
	t.Cleanup(func() { u.do("delete", "--force", second) })
	u.silently("run", "-d", "-b", dir, id)
	grow(3)
	u.want(0, "checkpoint", "--leave-running", "--image-path", filepath.Join(images, "left"), id)
	u.state(id, specs.StateRunning)
	grow(count())
	u.want(0, "checkpoint", "--pre-dump", "--image-path", filepath.Join(images, "before"), id)
	u.want(0, "checkpoint", "--parent-path", "../before", "--image-path", filepath.Join(images, "last"), id)
	u.want(1, "state", id)
	last := count()
	pidFile := filepath.Join(images, "pid")
	u.silently("restore", "-d", "-b", dir, "--pid-file", pidFile, "--image-path", filepath.Join(images, "last"), second)
	if n := grow(last); n > last+50 {
		t.Errorf("it counts on from %d, not from %d", n, last)
	}
	s := u.state(second, specs.StateRunning)
	if text, err := os.ReadFile(pidFile); err != nil || string(text) != strconv.Itoa(s.Pid) {
		t.Errorf("pid file: %q, %v; state: %d", text, err, s.Pid)
	}
	u.want(0, "exec", second, "/bin/true")
	u.want(0, "delete", "--force", second)
}

// silently runs a command whose streams, which the container keeps, are the null device: criu refuses files from outside.
func (u under) silently(args ...string) {
	u.t.Helper()
	log := filepath.Join(u.t.TempDir(), "log")
	if err := exec.Command(u.program, append([]string{"--root", u.root, "--log", log}, args...)...).Run(); err != nil {
		text, _ := os.ReadFile(log)
		u.t.Fatalf("%v: %v: %s", args, err, text)
	}
}

// rewrite changes a bundle's configuration.
func rewrite(t *testing.T, dir string, change func(*specs.Spec)) {
	t.Helper()
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	change(&spec)
	if text, err = json.Marshal(&spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
