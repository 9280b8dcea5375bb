package runtime

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const gantryShim = "io.containerd.gantry.v1"

// findShim makes daemons find containerd-shim-gantry-v1.
var findShim = sync.OnceValue(func() error { return os.Setenv("PATH", built+":"+os.Getenv("PATH")) })

// TestShimMetrics: containerd's metrics of a container are the same under Gantry's shim as under runc's, for ctr and for
// Prometheus.
func TestShimMetrics(t *testing.T) {
	if err := findShim(); err != nil {
		t.Fatal(err)
	}
	const address = "127.0.0.1:11338"
	p := startContainerd(t, "runc", "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[metrics]\naddress = \""+address+"\"\n")
	root := p.rootfs()
	shims := map[string]string{"under-runc": "io.containerd.runc.v2", "under-gantry": gantryShim}
	for id, shim := range shims {
		p.want(0, "", "run", "-d", "--runtime", shim, "--memory-limit", "67108864", "--rootfs", root, id, "/bin/sleep", "1000")
	}
	defer func() {
		for id := range shims {
			p.want(0, "", "tasks", "rm", "-f", id)
			p.want(0, "", "containers", "rm", id)
		}
	}()
	var names [2][]string
	for i, id := range []string{"under-runc", "under-gantry"} {
		for line := range strings.Lines(p.want(0, "67108864", "tasks", "metrics", id)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[1] != "0" && fields[0] != id {
				names[i] = append(names[i], fields[0])
			}
		}
	}
	if len(names[0]) < 5 || !slices.Equal(names[0], names[1]) {
		t.Errorf("ctr tasks metrics: runc's shim has %q,\nGantry's %q", names[0], names[1])
	}

	metrics := func(id string) (names []string) {
		answer, err := http.Get("http://" + address + "/v1/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?m)^(container_\w+){container_id="`+id+`"`).FindAllSubmatch(text, -1) {
			if name := string(match[1]); !slices.Contains(names, name) && !strings.Contains(name, "blkio") { // whoever has read from a disk
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	var got, want []string
	for end := time.Now().Add(patience); len(want) == 0 || len(got) == 0; time.Sleep(100 * time.Millisecond) { // a task is monitored a moment after its start
		if got, want = metrics("under-gantry"), metrics("under-runc"); time.Now().After(end) {
			break
		}
	}
	if len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("Prometheus: runc's shim has %q,\nGantry's %q", want, got)
	}
}

// TestShimKubelet: Kubernetes runs pods under Gantry's shim, and gets their statistics.
func TestShimKubelet(t *testing.T) {
	if err := findShim(); err != nil {
		t.Fatal(err)
	}
	k := startCRI(t, "runc")
	for _, handler := range []string{"runc", "gantry"} {
		k.handler = handler
		pod, config := k.pod(handler, nil)
		id := k.container(pod, config, handler, "exec sleep 1000", func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 })
		k.exec(id, 0, "inside", "echo inside")
		stats := must(k.ContainerStats(k.context(), &cri.ContainerStatsRequest{ContainerId: id}))(t).Stats
		if stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 || stats.GetMemory().GetUsageBytes().GetValue() == 0 {
			t.Errorf("%s: statistics %v", handler, stats)
		}
		if available := stats.GetMemory().GetAvailableBytes().GetValue(); available == 0 || available >= 64<<20 {
			t.Errorf("%s: %d bytes are available", handler, available)
		}
		list := must(k.ListContainerStats(k.context(), &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: pod}}))(t).Stats
		if len(list) != 1 || list[0].GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("%s: statistics of the pod: %v", handler, list)
		}
		sandbox := must(k.PodSandboxStats(k.context(), &cri.PodSandboxStatsRequest{PodSandboxId: pod}))(t).Stats
		if sandbox.GetLinux().GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			t.Errorf("%s: statistics of the sandbox: %v", handler, sandbox)
		}
		k.remove(pod)
	}
}
