package shim_test

import (
	"context"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/shim/client"
)

// TestOOMIsToldAtOnce: those who watch hear of a child that is killed for want of memory while its container runs, and so
// does somebody who comes later.
func TestOOMIsToldAtOnce(t *testing.T) {
	h := newHost(t)
	limit := int64(16 << 20)
	h.create("c", "sleep 1000", func(_ *task.CreateTaskRequest, s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/zero", Type: "bind", Source: "/dev/zero", Options: []string{"bind"}})
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	})
	h.start("c")
	watch := func() <-chan client.OOM {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		told := make(chan client.OOM, 100)
		go func() { _ = h.WatchOOM(ctx, func(o client.OOM) { told <- o }) }()
		return told
	}
	first := watch()
	if err := h.execShell("c", "e", "tail /dev/zero"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: "e"}); err != nil {
		t.Fatal(err)
	}
	if status := h.ends("c", "e"); status != 137 {
		t.Errorf("status %d", status)
	}
	connect, err := h.Task.Connect(t.Context(), &task.ConnectRequest{ID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	for name, told := range map[string]<-chan client.OOM{"one that watched": first, "one that comes later": watch()} {
		if o := <-told; o.ID != "c" || o.Count < 1 || o.Pid != int(connect.TaskPid) {
			t.Errorf("%s is told %+v", name, o)
		}
	}
}
