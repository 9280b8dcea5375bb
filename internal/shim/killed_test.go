package shim_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
	"gantry/rawfile"
)

// A container writes and ends while there is no supervisor. Whoever holds its outputs and its pidfd loses nothing: the next
// supervisor logs every line, and the status is that of the process, or called unknown.
func TestEndWithoutSupervisor(t *testing.T) {
	h := newHost(t)
	gate := filepath.Join(h.dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	h.run("c", "echo line 0; read word < "+gate+"; i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done; exit 7")
	state, err := h.Task.State(t.Context(), &task.StateRequest{ID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	held, err := client.Hold(h.options.Dir, "c", int(state.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	pidfd, err := unix.PidfdOpen(int(state.Pid), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	for h.logged("c", logs.Stdout) != "line 0\n" {
		time.Sleep(time.Millisecond)
	}
	if err := unix.Kill(h.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Closed()
	if err := rawfile.Write(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := rawfile.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1); err != nil {
		t.Fatal(err)
	}
	h.connect(true)
	status := h.wait("c", "")
	exit, err := h.Exit(t.Context(), "c", "")
	if err != nil {
		t.Fatal(err)
	}
	if exit.Unknown != (status == client.UnknownStatus) || !exit.Unknown && status != 7 {
		t.Errorf("it ended with %d: %+v", status, exit)
	}
	if got, known := held.ExitStatus(); known && got != 7 {
		t.Errorf("the kernel says that it ended with %d", got)
	} else if !known && !exit.Unknown {
		t.Errorf("the status %d comes from nowhere", status)
	}
	var want strings.Builder
	for i := range 301 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if got := h.logged("c", logs.Stdout); got != want.String() {
		t.Errorf("%d of 301 lines are logged", strings.Count(got, "\n"))
	}
	h.delete("c", "")
}
