package shim_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	eventservice "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
)

type eventSink chan *types.Envelope

func (s eventSink) Forward(_ context.Context, r *eventservice.ForwardRequest) (*emptypb.Empty, error) {
	s <- r.Envelope
	return &emptypb.Empty{}, nil
}

// Events reach a listener that comes only after them, in order.
func TestEvents(t *testing.T) {
	h := newHost(t)
	h.end() // another one, with events
	h.options.Events = h.dir + "/events.sock"
	h.connect(true)
	h.run("c", "exit 4")
	h.wait("c", "")
	h.delete("c", "")

	seen := make(eventSink, 100)
	rpc, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventservice.RegisterTTRPCEventsService(rpc, seen)
	l, err := net.Listen("unix", h.options.Events)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = rpc.Serve(context.Background(), l) }()
	t.Cleanup(func() { _ = rpc.Close() })
	want := []string{"/tasks/create TaskCreate", "/tasks/start TaskStart", "/tasks/exit TaskExit", "/tasks/delete TaskDelete"}
	var got []string
	for len(got) < len(want) {
		e := <-seen
		if e.Namespace != "test" {
			t.Errorf("namespace %q", e.Namespace)
		}
		got = append(got, e.Topic+" "+strings.TrimPrefix(e.Event.TypeUrl, "containerd.events."))
	}
	// A program may end before its start is told.
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("events %q", got)
	}
}

// As containerd gives them: FIFOs that the client holds.
func TestFIFOs(t *testing.T) {
	h := newHost(t)
	path := func(name string) string { return filepath.Join(h.dir, name) }
	for _, name := range []string{"in", "out"} {
		if err := unix.Mkfifo(path(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.OpenFile(path("out"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	h.create("c", "cat; echo end", func(r *task.CreateTaskRequest, _ *specs.Spec) {
		r.Stdin, r.Stdout, r.Stderr = path("in"), path("out"), ""
	})
	in, err := os.OpenFile(path("in"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	h.start("c")
	send(t, in, "hello\n")
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if status := h.wait("c", ""); status != 0 {
		t.Errorf("status %d", status)
	}
	got := make([]byte, len("hello\nend\n"))
	if _, err := io.ReadFull(out, got); err != nil || string(got) != "hello\nend\n" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A process whose parent ends, in a container without a pid namespace, becomes the supervisor's child and is reaped.
func TestOrphans(t *testing.T) {
	h := newHost(t)
	h.run("c", "(sleep 100 & echo $!); sleep 100", hostPIDs)
	var pid int
	eventually(t, "the orphan's process id is logged", func() bool {
		_, err := fmt.Sscan(h.logged("c", logs.Stdout), &pid)
		return err == nil
	})
	eventually(t, "the supervisor is the orphan's parent", func() bool { return parentOf(pid) == h.Pid })
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the supervisor has waited for the orphan", func() bool { return parentOf(pid) != h.Pid })
}

func parentOf(pid int) (ppid int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "PPid:")
	_, _ = fmt.Sscan(rest, &ppid)
	return ppid
}

// Every byte of much output reaches a client, however slowly it reads, and the log.
func TestSlowClient(t *testing.T) {
	h := newHost(t)
	h.create("c", "seq 200000")
	c := h.attach(client.AttachRequest{ID: "c", Stdout: true})
	gone := h.attach(client.AttachRequest{ID: "c", Stdout: true})
	h.start("c")
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // the socket is full by now
	all, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	h.wait("c", "")
	var want strings.Builder
	for i := range 200000 {
		fmt.Fprintln(&want, i+1)
	}
	if got := unframe(t, all, logs.Stdout); got != want.String() {
		t.Errorf("the client got %d bytes of %d", len(got), want.Len())
	}
	if got := h.logged("c", logs.Stdout); got != want.String() {
		t.Errorf("the log has %d bytes of %d", len(got), want.Len())
	}
}

// A supervisor that ends takes nothing from its successor.
func TestSuccession(t *testing.T) {
	h := newHost(t)
	for range 5 {
		if _, err := h.Task.Shutdown(t.Context(), &task.ShutdownRequest{}); err != nil {
			t.Fatal(err)
		}
		<-h.Closed()
		h.connect(true)
		h.run("c", "exit 1")
		h.wait("c", "")
		if exit, err := h.Exit(t.Context(), "c", ""); err != nil || exit.Status != 1 {
			t.Fatalf("exit %+v, %v", exit, err)
		}
		h.delete("c", "")
		if err := os.RemoveAll(h.dir + "/bundle-c"); err != nil {
			t.Fatal(err)
		}
	}
}
