package shim_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
)

func TestRun(t *testing.T) {
	h := newHost(t)
	h.create("c", "echo out; echo err >&2; printf tail; exit 7")
	pid, err := h.Task.Connect(t.Context(), &task.ConnectRequest{ID: "c"})
	if err != nil || pid.TaskPid == 0 {
		t.Fatalf("%v, %v", pid, err)
	}
	h.start("c")
	if status := h.wait("c", ""); status != 7 {
		t.Errorf("status %d", status)
	}
	if out, err := h.logged("c", logs.Stdout), h.logged("c", logs.Stderr); out != "out\ntail" || err != "err\n" {
		t.Errorf("logged %q and %q", out, err)
	}
	if exit, err := h.Exit(t.Context(), "c", ""); err != nil || exit.Status != 7 || exit.OOMKilled {
		t.Errorf("exit %+v, %v", exit, err)
	}
	state, err := h.Task.State(t.Context(), &task.StateRequest{ID: "c"})
	if err != nil || state.Status != tasktypes.Status_STOPPED || state.ExitStatus != 7 {
		t.Errorf("state %v, %v", state, err)
	}
	if _, err := h.Task.Kill(t.Context(), &task.KillRequest{ID: "c", Signal: 15}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("kill of what has ended: %v", err)
	}
	h.delete("c", "")
	if _, err := h.Task.Wait(t.Context(), &task.WaitRequest{ID: "c"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("wait after delete: %v", err)
	}
	if _, err := h.Exit(t.Context(), "c", ""); !errdefs.IsNotFound(err) {
		t.Errorf("exit after delete: %v", err)
	}
}

func TestErrors(t *testing.T) {
	h := newHost(t)
	h.create("c", "sleep 100")
	for name, call := range map[string]struct {
		err  func() error
		is   func(error) bool
		text string
	}{
		"same id": {func() error {
			_, err := h.Task.Create(t.Context(), &task.CreateTaskRequest{ID: "c", Bundle: h.dir + "/bundle-c"})
			return err
		}, errdefs.IsAlreadyExists, "c"},
		"bad id": {func() error {
			_, err := h.Task.Create(t.Context(), &task.CreateTaskRequest{ID: "../x"})
			return err
		}, errdefs.IsInvalidArgument, "../x"},
		"no bundle": {func() error {
			_, err := h.Task.Create(t.Context(), &task.CreateTaskRequest{ID: "d", Bundle: "/no/such"})
			return err
		}, func(err error) bool { return err != nil }, "/no/such"},
		"bad output": {func() error {
			_, err := h.Task.Create(t.Context(), &task.CreateTaskRequest{ID: "d", Bundle: h.dir + "/bundle-c", Stdout: "binary:///x"})
			return err
		}, errdefs.IsNotImplemented, "binary"},
		"unknown": {func() error { _, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "nobody"}); return err }, errdefs.IsNotFound, "nobody"},
		"unknown exec": {func() error {
			_, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: "e"})
			return err
		}, errdefs.IsNotFound, "e"},
		"no terminal": {func() error {
			_, err := h.Task.ResizePty(t.Context(), &task.ResizePtyRequest{ID: "c"})
			return err
		}, errdefs.IsFailedPrecondition, "terminal"},
		"checkpoint": {func() error {
			_, err := h.Task.Checkpoint(t.Context(), &task.CheckpointTaskRequest{ID: "c"})
			return err
		}, errdefs.IsNotImplemented, ""},
		"attach":    {func() error { _, err := h.Attach(t.Context(), client.AttachRequest{ID: "x"}); return err }, errdefs.IsNotFound, "x"},
		"not ended": {func() error { _, err := h.Exit(t.Context(), "c", ""); return err }, errdefs.IsFailedPrecondition, "c"},
	} {
		err := call.err()
		if native := errgrpc.ToNative(err); !errdefs.IsUnknown(native) {
			err = native
		}
		if err == nil || !call.is(err) || !strings.Contains(err.Error(), call.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.delete("c", "") // created, never started
}

func TestProgramIsMissing(t *testing.T) {
	h := newHost(t)
	h.run("c", "sleep 100")
	if err := h.exec("c", "e", "no-such-program", false); err != nil {
		t.Fatal(err)
	}
	_, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: "e"})
	if err == nil || !strings.Contains(err.Error(), `exec: "no-such-program": executable file not found in $PATH`) {
		t.Errorf("exec: %v", err)
	}
	h.delete("c", "e")
}

func TestStdin(t *testing.T) {
	h := newHost(t)
	h.create("once", "cat; echo end", stdin("attach:?once"))
	h.create("many", "read a; echo $a; read b; echo $b; echo end", stdin("attach:"))
	for _, id := range []string{"once", "many"} {
		c, err := h.Attach(t.Context(), client.AttachRequest{ID: id, Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		h.start(id)
		send(t, c, "first\n")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, len("HEADER..first\n"))
		if _, err := io.ReadFull(c, head); err != nil {
			t.Fatal(err)
		}
		if id == "many" { // a client has come and gone: another can go on
			send(t, h.attach(client.AttachRequest{ID: id, Stdin: true}), "second\n")
		}
		out, err := io.ReadAll(c) // to the end: the supervisor closes
		if err != nil {
			t.Error(err)
		}
		want := map[string]string{"once": "first\nend\n", "many": "first\nsecond\nend\n"}[id]
		if got := unframe(t, append(head, out...), logs.Stdout); got != want || h.logged(id, logs.Stdout) != want {
			t.Errorf("%s: attached %q, logged %q", id, got, h.logged(id, logs.Stdout))
		}
	}
}

func send(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Error(err)
	}
}

func unframe(t *testing.T, b []byte, s logs.Stream) string {
	t.Helper()
	var text []byte
	for len(b) >= 8 {
		n := int(b[4])<<24 | int(b[5])<<16 | int(b[6])<<8 | int(b[7])
		if 8+n > len(b) {
			t.Fatalf("a frame of %d bytes has %d", n, len(b)-8)
		}
		if logs.Stream(b[0]) == s {
			text = append(text, b[8:8+n]...)
		}
		b = b[8+n:]
	}
	return string(text)
}

func TestTerminal(t *testing.T) {
	h := newHost(t)
	h.create("c", `stty size; read x; stty size; echo "got $x"; exit 3`, tty, stdin("attach:"))
	c := h.attach(client.AttachRequest{ID: "c", Stdin: true, Stdout: true})
	h.start("c")
	b := make([]byte, 100)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "0 0\r\n" {
		t.Errorf("size %q, %v", b[:n], err)
	}
	if _, err := h.Task.ResizePty(t.Context(), &task.ResizePtyRequest{ID: "c", Width: 101, Height: 51}); err != nil {
		t.Fatal(err)
	}
	send(t, c, "hello\n")
	rest, err := io.ReadAll(c)
	if err != nil || string(rest) != "hello\r\n51 101\r\ngot hello\r\n" {
		t.Errorf("read %q, %v", rest, err)
	}
	if status := h.wait("c", ""); status != 3 {
		t.Errorf("status %d", status)
	}
	if got := h.logged("c", logs.Stdout); !strings.HasSuffix(got, "got hello\r\n") {
		t.Errorf("logged %q", got)
	}
}

// What a process writes before its first client comes waits for it; a process without one still ends.
func TestOutputWaitsForItsFirstClient(t *testing.T) {
	h := newHost(t)
	h.run("c", "sleep 100")
	for _, id := range []string{"seen", "unseen"} {
		if err := h.execTo(client.AttachWait, "c", id, "echo hi", false); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: id}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond) // both have written and ended
	out, err := io.ReadAll(h.attach(client.AttachRequest{ID: "c", ExecID: "seen", Stdout: true}))
	if want := "\x01\x00\x00\x00\x00\x00\x00\x03hi\n"; err != nil || string(out) != want {
		t.Errorf("output %q (%v), want %q", out, err, want)
	}
	for _, id := range []string{"seen", "unseen"} {
		response, err := h.Task.Wait(t.Context(), &task.WaitRequest{ID: "c", ExecID: id})
		if err != nil || response.ExitStatus != 0 {
			t.Errorf("wait for %s: %v, %v", id, response, err)
		}
	}
}

func TestExec(t *testing.T) {
	h := newHost(t)
	h.run("c", "sleep 100")
	for _, terminal := range []bool{false, true} {
		id := fmt.Sprintf("e-%v", terminal)
		if err := h.exec("c", id, "cat -", terminal); err != nil {
			t.Fatal(err)
		}
		if err := h.exec("c", id, "cat", terminal); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second exec of the same id: %v", err)
		}
		c, err := h.Attach(t.Context(), client.AttachRequest{ID: "c", ExecID: id, Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: id}); err != nil {
			t.Fatal(err)
		}
		send(t, c, "hi\n")
		if terminal {
			send(t, c, "\x04")
		} else if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(c)
		want := "hi\r\nhi\r\n"
		if !terminal {
			out, want = []byte(unframe(t, out, logs.Stdout)), "hi\n"
		}
		if err != nil || string(out) != want {
			t.Errorf("read %q, %v", out, err)
		}
		if status := h.wait("c", id); status != 0 {
			t.Errorf("status %d", status)
		}
		h.delete("c", id)
	}
}

func TestKillPausePids(t *testing.T) {
	h := newHost(t)
	h.run("c", "trap 'exit 42' TERM; sleep 100 & wait")
	if r, err := h.Task.Pids(t.Context(), &task.PidsRequest{ID: "c"}); err != nil || len(r.Processes) == 0 {
		t.Errorf("pids %v, %v", r, err)
	}
	status := func() tasktypes.Status {
		r, err := h.Task.State(t.Context(), &task.StateRequest{ID: "c"})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if _, err := h.Task.Pause(t.Context(), &task.PauseRequest{ID: "c"}); err != nil || status() != tasktypes.Status_PAUSED {
		t.Errorf("paused: %v, %v", status(), err)
	}
	if _, err := h.Task.Resume(t.Context(), &task.ResumeRequest{ID: "c"}); err != nil || status() != tasktypes.Status_RUNNING {
		t.Errorf("resumed: %v, %v", status(), err)
	}
	if _, err := h.Task.Delete(t.Context(), &task.DeleteRequest{ID: "c"}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("delete of what runs: %v", err)
	}
	if _, err := h.Task.Kill(t.Context(), &task.KillRequest{ID: "c", Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Error(err)
	}
	if got := h.wait("c", ""); got != 137 {
		t.Errorf("status %d", got)
	}
}

// A process in the background that keeps the output open does not keep the exit from being seen.
func TestHeldOutput(t *testing.T) {
	h := newHost(t)
	h.run("c", "sleep 1000 & echo done", hostPIDs)
	if status := h.wait("c", ""); status != 0 || h.logged("c", logs.Stdout) != "done\n" {
		t.Errorf("status %d, logged %q", status, h.logged("c", logs.Stdout))
	}
}

func TestOOM(t *testing.T) {
	h := newHost(t)
	limit := int64(16 << 20)
	h.run("c", "tail /dev/zero", func(_ *task.CreateTaskRequest, s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/zero", Type: "bind", Source: "/dev/zero", Options: []string{"bind"}})
		s.Process.Args = []string{"tail", "/dev/zero"}
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	})
	status := h.wait("c", "")
	if exit, err := h.Exit(t.Context(), "c", ""); err != nil || status != 137 || !exit.OOMKilled {
		t.Errorf("status %d, exit %+v, %v", status, exit, err)
	}
}

// Twenty containers write while the engine goes and comes: no line is lost, and exit codes are kept.
func TestEngineGoes(t *testing.T) {
	const containers, lines = 20, 2000
	h := newHost(t)
	pid := h.Pid
	for i := range containers {
		h.run(fmt.Sprintf("c%d", i), fmt.Sprintf("seq %d; sleep 0.2; seq %d; exit %d", lines/2, lines/2, i+1))
		c := h.attach(client.AttachRequest{ID: fmt.Sprintf("c%d", i), Stdout: true})
		if i%2 == 0 {
			defer func() { _ = c.Close() }() // one that is never read, and one that goes
		} else {
			_ = c.Close()
		}
		if i%5 == 0 {
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			h.connect(false)
		}
	}
	if h.Pid != pid {
		t.Errorf("another supervisor: %d, not %d", h.Pid, pid)
	}
	var want strings.Builder
	for range 2 {
		for i := range lines / 2 {
			fmt.Fprintln(&want, i+1)
		}
	}
	var all sync.WaitGroup
	for i := range containers {
		all.Go(func() {
			id := fmt.Sprintf("c%d", i)
			if status := h.wait(id, ""); status != i+1 {
				t.Errorf("%s: status %d", id, status)
			}
			if got := h.logged(id, logs.Stdout); got != want.String() {
				t.Errorf("%s: logged %d bytes of %d", id, len(got), want.Len())
			}
		})
	}
	all.Wait()
}

// The supervisor is killed: containers go on, the next one reads on where it was.
func TestSupervisorIsKilled(t *testing.T) {
	h := newHost(t)
	h.run("c", "echo before; while [ ! -e "+h.dir+"/go ]; do sleep 0.05; done; echo after; exit 9")
	for h.logged("c", logs.Stdout) != "before\n" {
		time.Sleep(time.Millisecond)
	}
	if err := unix.Kill(h.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Closed()
	h.connect(true)
	state, err := h.Task.State(t.Context(), &task.StateRequest{ID: "c"})
	if err != nil || state.Status != tasktypes.Status_RUNNING {
		t.Fatalf("state %v, %v", state, err)
	}
	if err := os.WriteFile(h.dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status := h.wait("c", ""); status != 9 {
		t.Errorf("status %d", status)
	}
	if got := h.logged("c", logs.Stdout); got != "before\nafter\n" {
		t.Errorf("logged %q", got)
	}
}

// Two engines that connect at once get the same supervisor, and it ends when both have gone, or its directory has.
func TestConnectRace(t *testing.T) {
	for _, removed := range []bool{false, true} {
		testConnectRace(t, removed)
	}
}

func testConnectRace(t *testing.T, removed bool) {
	t.Helper()
	dir := t.TempDir()
	o := client.Options{Binary: binary, Dir: dir, Runtime: dir + "/runtime", Namespace: "test"}
	shims := make([]*client.Shim, 8)
	var all sync.WaitGroup
	for i := range shims {
		all.Go(func() {
			var err error
			if shims[i], _, err = client.Connect(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, s := range shims[1:] {
		if s.Pid != shims[0].Pid {
			t.Errorf("supervisors %d and %d", s.Pid, shims[0].Pid)
		}
	}
	pidfd, err := unix.PidfdOpen(shims[0].Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	if removed {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range shims {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 15_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != 1 {
			t.Errorf("it does not end: %v", err)
		}
		break
	}
}

func TestConnectFails(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]client.Options{
		"no binary": {Binary: "/no/such", Dir: dir, Runtime: dir},
		"ends":      {Binary: "/bin/true", Dir: dir, Runtime: dir},
		"refuses":   {Binary: binary, Dir: dir + "/" + strings.Repeat("x", 120), Runtime: dir},
	} {
		if _, _, err := client.Connect(t.Context(), o); err == nil || !strings.Contains(err.Error(), "start supervisor") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	h := newHost(b)
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprintf("b%d", n)
		h.run(id, "exit 0")
		h.wait(id, "")
		h.delete(id, "")
	}
}
