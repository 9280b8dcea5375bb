package shim_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"gantry/cgroup"
	"gantry/internal/logs"
)

// stats asks for a container's statistics; limits that are not set are 0.
func (h *host) stats(id string) (cpu, memory, memoryLimit, pids, pidsLimit uint64) {
	h.t.Helper()
	r, err := h.Task.Stats(h.t.Context(), &task.StatsRequest{ID: id})
	if err != nil {
		h.t.Fatal(errgrpc.ToNative(err))
	}
	mode, err := cgroup.Detect()
	if err != nil {
		h.t.Fatal(err)
	}
	const v1, v2 = "io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics"
	want := map[bool]string{true: v2, false: v1}[mode == cgroup.V2]
	if r.GetStats().GetTypeUrl() != want {
		h.t.Fatalf("statistics of the type %q, want %q", r.GetStats().GetTypeUrl(), want)
	}
	if want == v2 {
		var m stats2.Metrics
		if err := proto.Unmarshal(r.Stats.Value, &m); err != nil {
			h.t.Fatal(err)
		}
		if pidsLimit = m.GetPids().GetLimit(); pidsLimit == math.MaxUint64 {
			pidsLimit = 0
		}
		return m.GetCPU().GetUsageUsec(), m.GetMemory().GetUsage(), m.GetMemory().GetUsageLimit(), m.GetPids().GetCurrent(), pidsLimit
	}
	var m stats1.Metrics
	if err := proto.Unmarshal(r.Stats.Value, &m); err != nil {
		h.t.Fatal(err)
	}
	return m.GetCPU().GetUsage().GetTotal(), m.GetMemory().GetUsage().GetUsage(), m.GetMemory().GetUsage().GetLimit(), m.GetPids().GetCurrent(), m.GetPids().GetLimit()
}

func TestStats(t *testing.T) {
	h := newHost(t)
	if _, err := h.Task.Stats(t.Context(), &task.StatsRequest{ID: "none"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("of no container: %v", err)
	}
	const memory, pids = 64 << 20, 33
	h.run("c", "sleep 1000 & exec sleep 1000", func(_ *task.CreateTaskRequest, s *specs.Spec) {
		limit, most := int64(memory), int64(pids)
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &most}}
	})
	eventually(t, "two processes are counted", func() bool {
		cpu, used, limit, now, most := h.stats("c")
		if cpu == 0 || used == 0 || used > memory || limit != memory || most != pids {
			t.Fatalf("cpu %d, memory %d of %d, processes %d of %d", cpu, used, limit, now, most)
		}
		return now == 2
	})
}

// runc are options of containerd-shim-runc-v2.
func runc(o *runcoptions.Options) option {
	return func(r *task.CreateTaskRequest, _ *specs.Spec) {
		value, err := proto.Marshal(o)
		if err != nil {
			panic(err)
		}
		r.Options = &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: value}
	}
}

// owner is who a container's stream belongs to, as the container sees it.
const owner = `stat -L -c %u:%g /proc/self/fd/1`

// TestOptionsOfStreams: io_uid and io_gid are the owner of outputs, also of executions, and under the next supervisor. (The
// process's user, which is root here, gets the uid in the end, as with runc; the group stays.)
func TestOptionsOfStreams(t *testing.T) {
	h := newHost(t)
	h.run("c", owner+"; exec sleep 1000", runc(&runcoptions.Options{IoUid: 7, IoGid: 8}))
	eventually(t, "the container says who owns its output", func() bool { return h.logged("c", logs.Stdout) != "" })
	if got := h.logged("c", logs.Stdout); got != "0:8\n" {
		t.Errorf("the container's output belongs to %s", got)
	}
	if err := unix.Kill(h.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Closed()
	h.connect(true)
	log := h.log("exec")
	if err := h.execTo(log.URI(), "c", "e", owner, false); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: "e"}); err != nil {
		t.Fatal(err)
	}
	if code := h.wait("c", "e"); code != 0 || h.logged("exec", logs.Stdout) != "0:8\n" {
		t.Errorf("the execution ended with %d, its output belongs to %s", code, h.logged("exec", logs.Stdout))
	}
}

// TestOptionShimCgroup: the supervisor moves to the cgroup that it is told, which must be one and be there.
func TestOptionShimCgroup(t *testing.T) {
	h := newHost(t)
	path := fmt.Sprintf("%s/%s-supervisor", parent(), filepath.Base(h.dir))
	create := func(id, path string) error {
		r := h.request(id, "exec sleep 1000", runc(&runcoptions.Options{ShimCgroup: path}))
		_, err := h.Task.Create(t.Context(), r)
		return errgrpc.ToNative(err)
	}
	if err := create("early", path); !errdefs.IsInvalidArgument(err) || !strings.Contains(fmt.Sprint(err), "there is no cgroup "+path) {
		t.Errorf("a cgroup that is not there: %v", err)
	}
	if _, err := cgroup.Create(path, nil); err != nil { // removed with its parent
		t.Fatal(err)
	}
	connected, err := h.Task.Connect(t.Context(), &task.ConnectRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if err := create(id, path); err != nil {
			t.Fatal(err)
		}
	}
	h.create("any", "exec sleep 1000")
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", connected.ShimPid)); err != nil || strings.Count(string(text), ":"+path+"\n") != strings.Count(string(text), "\n") {
		t.Errorf("the supervisor is in %s, %v", text, err)
	}
	state, err := h.Task.State(t.Context(), &task.StateRequest{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", state.Pid)); err != nil || strings.Contains(string(text), "-supervisor") {
		t.Errorf("the container is in %s, %v", text, err)
	}
	if err := create("c", parent()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(fmt.Sprint(err), path) {
		t.Errorf("another cgroup: %v", err)
	}
}

// TestOptionsThatCannotBe: nothing is left of a container whose options this shim cannot heed.
func TestOptionsThatCannotBe(t *testing.T) {
	h := newHost(t)
	_, err := h.Task.Create(t.Context(), h.request("c", "exit 0", runc(&runcoptions.Options{BinaryName: "crun", NoPivotRoot: true})))
	if err = errgrpc.ToNative(err); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "option binary_name") {
		t.Errorf("create: %v", err)
	}
	if _, err := h.Task.State(t.Context(), &task.StateRequest{ID: "c"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("state: %v", err)
	}
}
