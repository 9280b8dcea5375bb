package shim_test

import (
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
)

// TestKillTree: a process of exec is killed with its children, those of its session whose parents have ended, and
// children that have left the session; the container's own processes stay.
func TestKillTree(t *testing.T) {
	h := newHost(t)
	h.run("c", "sleep 1000 & sleep 1000")
	count := func() int {
		r, err := h.Task.Pids(t.Context(), &task.PidsRequest{ID: "c"})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.Processes)
	}
	wait := func(what string, n int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); count() != n; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d processes, want %d", what, count(), n)
			}
		}
	}
	wait("at first", 3)
	for _, script := range []string{
		"sleep 2000 & sleep 2000 & wait",
		"(sleep 2000 &); (sleep 2000 &); exec sleep 2000",
		"setsid sh -c 'sleep 2000 & wait' & wait",
	} {
		if err := h.execShell("c", "e", script); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: "e"}); err != nil {
			t.Fatal(err)
		}
		wait(script, 6)
		if _, err := h.Task.Kill(t.Context(), &task.KillRequest{ID: "c", ExecID: "e", Signal: uint32(unix.SIGKILL), All: true}); err != nil {
			t.Error(err)
		}
		if status := h.ends("c", "e"); status != 137 {
			t.Errorf("status %d", status)
		}
		wait("after the kill of "+strings.Fields(script)[0], 3)
		h.delete("c", "e")
	}
}
