package cgroup

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// comes waits for a value, or for the end of a channel.
func comes(t *testing.T, c <-chan struct{}) (there bool) {
	t.Helper()
	select {
	case _, there = <-c:
		return there
	case <-time.After(time.Minute):
		t.Fatal("nothing comes")
		return false
	}
}

// inside runs a command that begins in the group, and returns what waits for its end.
func inside(t *testing.T, dirs []string, command string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; "+command)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := write(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestWatchOOM: the kernel reports that it killed a process while others live on.
func TestWatchOOM(t *testing.T) {
	g := testGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}})
	ctx, cancel := context.WithCancel(t.Context())
	other := inside(t, slices.Collect(maps.Values(g.Paths())), "exec sleep 1000")
	defer func() { _ = other.Wait() }()
	defer func() { _ = other.Process.Kill() }()
	ooms, err := g.WatchOOM(ctx)
	if err != nil {
		t.Fatal(err)
	}
	big := inside(t, slices.Collect(maps.Values(g.Paths())), "head -c 200m /dev/zero | tail -c 200m >/dev/null")
	if !comes(t, ooms) {
		t.Error("the watch ended")
	}
	if err := big.Wait(); err == nil {
		t.Error("it got 200 MiB under a limit of 16")
	}
	cancel()
	for comes(t, ooms) {
	}
}

// TestChangesOf watches a file of v2 by poll, also where v2 has no controllers.
func TestChangesOf(t *testing.T) {
	g := testGroup(t, nil)
	if g.host.unified == nil {
		t.Skip("this host has no cgroup v2 hierarchy")
	}
	dir := filepath.Join(g.host.unified.mount, g.path)
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := changesOf("cgroup.events")(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := inside(t, []string{dir}, "exec sleep 1000")
	if !comes(t, changes) { // populated
		t.Error("the watch ended")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !comes(t, changes) { // no longer
		t.Error("the watch ended")
	}
	cancel()
	for comes(t, changes) {
	}
}
