package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"gantry/cgroup"
	"gantry/internal/logs"
	"gantry/internal/shim/client"
)

var binary string // the supervisor

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gantry-shim-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "containerd-shim-gantry-v1")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "gantry/cmd/containerd-shim-gantry-v1")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the supervisor: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if g, err := cgroup.Open(parent()); err == nil {
		if err := g.Delete(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

func parent() string { return fmt.Sprintf("/gantry-shim-test-%d", os.Getpid()) }

// host is a supervisor and the bundles of its containers, whose root is the host's, read-only.
type host struct {
	t       testing.TB
	dir     string
	options client.Options
	*client.Shim
}

func newHost(t testing.TB) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "shim") // short: the path of a socket has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{t: t, dir: dir, options: client.Options{Binary: binary, Namespace: "test", Dir: dir + "/shim", Runtime: dir + "/runtime"}}
	h.connect(true)
	t.Cleanup(h.end)
	return h
}

func (h *host) connect(wantStarted bool) {
	h.t.Helper()
	shim, started, err := client.Connect(h.t.Context(), h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	if started != wantStarted {
		h.t.Errorf("the supervisor was started: %v", started)
	}
	h.Shim = shim
}

// end deletes every container, ends the supervisor and looks at what it complained about.
func (h *host) end() {
	ctx := context.Background()
	entries, _ := os.ReadDir(h.options.Runtime)
	for _, e := range entries {
		_, _ = h.Task.Kill(ctx, &task.KillRequest{ID: e.Name(), Signal: 9, All: true})
		_, _ = h.Task.Wait(ctx, &task.WaitRequest{ID: e.Name()})
		if _, err := h.Task.Delete(ctx, &task.DeleteRequest{ID: e.Name()}); err != nil {
			h.t.Errorf("delete %s: %v", e.Name(), err)
		}
	}
	if _, err := h.Task.Shutdown(ctx, &task.ShutdownRequest{}); err != nil {
		h.t.Errorf("shutdown: %v", err)
	}
	select {
	case <-h.Closed():
	case <-time.After(patience):
		h.t.Error("the supervisor does not end")
	}
	if text, err := os.ReadFile(filepath.Join(h.options.Dir, client.LogFile)); err != nil || len(text) > 0 {
		h.t.Errorf("the supervisor's log: %v\n%s", err, text)
	}
	if left, _ := filepath.Glob(h.options.Dir + "/io/*"); len(left) > 0 {
		h.t.Errorf("files are left: %q", left)
	}
}

func (h *host) log(id string) logs.Options {
	return logs.Options{Path: filepath.Join(h.dir, id+".log"), MaxFiles: 1}
}

// logged is what a container wrote to a stream.
func (h *host) logged(id string, s logs.Stream) string {
	h.t.Helper()
	var text bytes.Buffer
	err := logs.Read(context.Background(), h.log(id).Path, logs.Query{Tail: -1}, func(e logs.Entry) error {
		if e.Stream == s {
			text.Write(e.Line)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return text.String()
}

// patience bounds what a test waits for: a machine may be slow and busy, but what takes longer hangs.
const patience = 2 * time.Minute

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

type option func(*task.CreateTaskRequest, *specs.Spec)

func tty(r *task.CreateTaskRequest, s *specs.Spec) {
	r.Terminal, r.Stderr, s.Process.Terminal = true, "", true
}

func stdin(address string) option {
	return func(r *task.CreateTaskRequest, _ *specs.Spec) { r.Stdin = address }
}

func hostPIDs(_ *task.CreateTaskRequest, s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }

func (h *host) create(id, script string, options ...option) {
	h.t.Helper()
	if _, err := h.Task.Create(h.t.Context(), h.request(id, script, options...)); err != nil {
		h.t.Fatal(err)
	}
}

// request makes a bundle and what creates its container.
func (h *host) request(id, script string, options ...option) *task.CreateTaskRequest {
	h.t.Helper()
	bundle := filepath.Join(h.dir, "bundle-"+id)
	spec := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "/", Readonly: true},
		Process: &specs.Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Cwd: "/"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: parent() + "/" + filepath.Base(h.dir) + "-" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}},
		},
	}
	out := h.log(id).URI()
	r := &task.CreateTaskRequest{ID: id, Bundle: bundle, Stdout: out, Stderr: out, Rootfs: []*types.Mount{{Type: "bind", Source: "/", Options: []string{"rbind", "ro"}}}}
	for _, o := range options {
		o(r, spec)
	}
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.Mkdir(bundle, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (h *host) start(id string) {
	h.t.Helper()
	if _, err := h.Task.Start(h.t.Context(), &task.StartRequest{ID: id}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) run(id, script string, options ...option) {
	h.t.Helper()
	h.create(id, script, options...)
	h.start(id)
}

func (h *host) wait(id, execID string) int {
	h.t.Helper()
	r, err := h.Task.Wait(h.t.Context(), &task.WaitRequest{ID: id, ExecID: execID})
	if err != nil {
		h.t.Fatal(err)
	}
	if at := r.ExitedAt.AsTime(); at.After(time.Now()) || at.Before(time.Now().Add(-time.Minute)) {
		h.t.Errorf("it exited at %v", at)
	}
	return int(r.ExitStatus)
}

func (h *host) delete(id, execID string) {
	h.t.Helper()
	if _, err := h.Task.Delete(h.t.Context(), &task.DeleteRequest{ID: id, ExecID: execID}); err != nil {
		h.t.Error(err)
	}
}

func (h *host) attach(r client.AttachRequest) io.ReadWriteCloser {
	h.t.Helper()
	c, err := h.Attach(h.t.Context(), r)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *host) exec(id, execID, script string, terminal bool) error {
	return h.execTo("attach:", id, execID, script, terminal)
}

// execShell prepares a shell that runs a script.
func (h *host) execShell(id, execID, script string) error {
	return h.execArgs("attach:", id, execID, []string{"/bin/sh", "-c", script}, false)
}

// execTo prepares a process whose outputs have an address.
func (h *host) execTo(output, id, execID, script string, terminal bool) error {
	return h.execArgs(output, id, execID, strings.Fields(script), terminal)
}

func (h *host) execArgs(output, id, execID string, args []string, terminal bool) error {
	value, err := json.Marshal(&specs.Process{Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Cwd: "/"})
	if err != nil {
		return err
	}
	_, err = h.Task.Exec(h.t.Context(), &task.ExecProcessRequest{
		ID: id, ExecID: execID, Terminal: terminal, Stdin: "attach:?once", Stdout: output, Stderr: output, Spec: &anypb.Any{Value: value},
	})
	return errgrpc.ToNative(err)
}
