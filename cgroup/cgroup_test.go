package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func ptr[T any](v T) *T { return &v }

// testGroup creates a group of its own for a test.
func testGroup(t *testing.T, res *specs.LinuxResources) *Group {
	t.Helper()
	parent := fmt.Sprintf("/gantry-cgroup-test-%d", os.Getpid())
	g, err := Create(parent+"/"+strings.ReplaceAll(t.Name(), "/", "_"), res)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		above := &Group{path: parent, host: g.host}
		if err := errors.Join(g.Delete(), above.Delete()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// sleeper starts a process inside a group.
func sleeper(t *testing.T, g *Group) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for _, dir := range g.Paths() {
		if err := write(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	return cmd
}

func content(t *testing.T, g *Group, controller, file string) string {
	t.Helper()
	dir, ok := g.Paths()[controller]
	if !ok {
		dir = g.Paths()[""]
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func v1(t *testing.T) bool {
	t.Helper()
	mode, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	return mode != V2
}

func TestLimitsReachTheKernel(t *testing.T) {
	g := testGroup(t, &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(128 << 20))},
		CPU:     &specs.LinuxCPU{Quota: ptr(int64(50_000)), Period: ptr(uint64(100_000)), Shares: ptr(uint64(512)), Cpus: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(50))},
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rwm"}},
	})
	want := []struct{ controller, file, value string }{
		{"memory", "memory.limit_in_bytes", "67108864"},
		{"memory", "memory.memsw.limit_in_bytes", "134217728"},
		{"cpu", "cpu.cfs_quota_us", "50000"},
		{"cpu", "cpu.shares", "512"},
		{"cpuset", "cpuset.cpus", "0"},
		{"pids", "pids.max", "50"},
		{"devices", "devices.list", "c 1:3 rwm"},
	}
	if !v1(t) {
		want = []struct{ controller, file, value string }{
			{"", "memory.max", "67108864"},
			{"", "memory.swap.max", "67108864"},
			{"", "cpu.max", "50000 100000"},
			{"", "cpuset.cpus", "0"},
			{"", "pids.max", "50"},
		}
	}
	for _, w := range want {
		if got := content(t, g, w.controller, w.file); got != w.value {
			t.Errorf("%s: %q, want %q", w.file, got, w.value)
		}
	}
	// Both limits grow and shrink, in whichever order the kernel wants.
	for _, size := range []int64{256 << 20, 32 << 20} {
		if err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &size, Swap: ptr(2 * size)}}); err != nil {
			t.Error(err)
		}
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Limit != 32<<20 || s.Pids.Limit != 50 {
		t.Errorf("statistics: memory limit %d, pids limit %d", s.Memory.Limit, s.Pids.Limit)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	path := fmt.Sprintf("/gantry-cgroup-fail-%d", os.Getpid())
	for name, res := range map[string]*specs.LinuxResources{
		"no such processor": {CPU: &specs.LinuxCPU{Cpus: "4000"}},
		"bad device":        {Devices: []specs.LinuxDeviceCgroup{{Type: "x", Access: "rwm"}}},
		"bad access":        {Devices: []specs.LinuxDeviceCgroup{{Type: "c", Access: "q"}}},
		"huge pages":        {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3KB", Limit: 1}}},
	} {
		if _, err := Create(path, res); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := Open(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it left the group: %v", name, err)
		}
	}
	for _, bad := range []string{"", "/", "relative", "/x/.."} {
		if _, err := Create(bad, nil); err == nil {
			t.Errorf("path %q: no error", bad)
		}
	}
}

// A busy group in one hierarchy: what create made in the others is taken back, the busy one stays.
func TestBusyGroupLeavesNothingNew(t *testing.T) {
	g := testGroup(t, nil)
	cmd := sleeper(t, g)
	trees := g.host.trees()
	last := trees[len(trees)-1]
	for _, tree := range trees[:len(trees)-1] {
		if err := write(filepath.Join(tree.mount, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		if err := removeTree(filepath.Join(tree.mount, g.path)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := create(g.host, g.path, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("a busy group: %v", err)
	}
	for _, tree := range trees[:len(trees)-1] {
		if _, err := os.Stat(filepath.Join(tree.mount, g.path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: left behind: %v", tree.mount, err)
		}
	}
	if _, err := os.Stat(filepath.Join(last.mount, g.path)); err != nil {
		t.Errorf("the busy group is gone: %v", err)
	}
	_ = cmd.Process.Kill() // so that the group can be deleted; waited for by sleeper
	_, _ = cmd.Process.Wait()
}

func TestOpenRefusesTheRoot(t *testing.T) {
	for _, path := range []string{"", "/", "relative", "/x/.."} {
		if _, err := Open(path); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestMemoryWithoutLimitAgain(t *testing.T) {
	g := testGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))}})
	if err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}); err != nil {
		t.Fatal(err)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Limit != math.MaxUint64 {
		t.Errorf("limit %d", s.Memory.Limit)
	}
}

func TestCheckBeforeUpdate(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		tree := hierarchy{mount: t.TempDir(), controllers: []string{"memory"}, v2: v2}
		h, usage, limit := &host{v1: []hierarchy{tree}}, "memory.usage_in_bytes", "memory.limit_in_bytes"
		if v2 {
			h, usage, limit = &host{unified: &tree}, "memory.current", "memory.max"
		}
		for file, value := range map[string]string{usage: "1000000\n", limit: ""} {
			if err := os.WriteFile(filepath.Join(tree.mount, file), []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		g := &Group{path: "/", host: h}
		for want, fails := range map[int64]bool{999_999: true, 1_000_000: false} {
			err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &want, CheckBeforeUpdate: ptr(true)}})
			if errors.Is(err, unix.EBUSY) != fails || (err != nil) != fails {
				t.Errorf("v2 %v, limit %d: %v", v2, want, err)
			}
		}
	}
}

// Parents that exist already may not have given their controllers on.
func TestV2DelegatesFromExistingParents(t *testing.T) {
	tree := hierarchy{mount: t.TempDir(), controllers: []string{"memory", "pids"}, v2: true}
	control := filepath.Join(tree.mount, "cgroup.subtree_control")
	if err := os.WriteFile(control, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if existed, err := tree.make("/a"); existed || err != nil {
		t.Fatal(existed, err)
	}
	if text, err := os.ReadFile(control); err != nil || string(text) != "+memory +pids" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestProcessesFreezeAndKill(t *testing.T) {
	g := testGroup(t, nil)
	cmd := sleeper(t, g)
	if _, err := create(g.host, g.path, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("a group with processes was taken over: %v", err)
	}
	if pids, err := g.Procs(true); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Fatalf("processes %v, %v", pids, err)
	}
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		t.Errorf("frozen: %v, %v", frozen, err)
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	state, err := cmd.Process.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if ws, ok := state.Sys().(interface{ Signal() unix.Signal }); ok && ws.Signal() != unix.SIGKILL {
		t.Errorf("it ended by %v", ws.Signal())
	}
}

func TestOOMKillsAreCounted(t *testing.T) {
	g := testGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}})
	cmd := exec.Command("sh", "-c", "read go; head -c 200m /dev/zero | tail -c 200m >/dev/null")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range g.Paths() {
		if err := write(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it got 200 MiB under a limit of 16")
	}
	if n, err := g.OOMKills(); err != nil || n == 0 {
		t.Errorf("OOM kills: %d, %v", n, err)
	}
}

func TestEntryIsOpenAndClosed(t *testing.T) {
	g := testGroup(t, nil)
	e, err := g.Entry()
	if err != nil {
		t.Fatal(err)
	}
	if v1(t) && len(e.Tasks) != len(g.host.v1) {
		t.Errorf("%d tasks files for %d hierarchies", len(e.Tasks), len(g.host.v1))
	}
	e.Close()
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	if err := g.Delete(); err != nil {
		t.Errorf("the second time: %v", err)
	}
	if _, err := g.Entry(); err == nil {
		t.Error("a deleted group has an entry")
	}
}

func TestDeleteTakesGroupsBelow(t *testing.T) {
	g := testGroup(t, nil)
	for _, dir := range g.Paths() {
		if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(g.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestDeviceFilter attaches the v2 program to a group of the unified tree, which takes it without any controller.
func TestDeviceFilter(t *testing.T) {
	h, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	if h.unified == nil {
		t.Fatal("no cgroup v2 tree is mounted")
	}
	dir := filepath.Join(h.unified.mount, fmt.Sprintf("gantry-devices-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := removeTree(dir); err != nil {
			t.Error(err)
		}
	}()
	null := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rw"}
	for _, c := range []struct {
		name      string
		rules     []specs.LinuxDeviceCgroup
		null, zip bool // may /dev/null, /dev/zero be read
	}{
		{"null alone", []specs.LinuxDeviceCgroup{{Access: "rwm"}, null}, true, false},
		{"everything", []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, true, true},
		{"nothing", []specs.LinuxDeviceCgroup{{Access: "rwm"}}, false, false},
		{"all but zero", []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, {Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(5)), Access: "r"}}, true, false},
	} {
		if err := attachDevices(dir, c.rules); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		script := "echo $$ > " + dir + "/cgroup.procs; (: < /dev/null) 2>&- && echo null; (: < /dev/zero) 2>&- && echo zero; exit 0"
		out, err := exec.Command("sh", "-c", script).Output()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := strings.Contains(string(out), "null"); got != c.null {
			t.Errorf("%s: null can be read: %v", c.name, got)
		}
		if got := strings.Contains(string(out), "zero"); got != c.zip {
			t.Errorf("%s: zero can be read: %v", c.name, got)
		}
	}
}

func TestReadHost(t *testing.T) {
	controllers := func(string) ([]byte, error) { return []byte("cpuset cpu io memory pids\n"), nil }
	for _, c := range []struct {
		name, mountinfo string
		mode            Mode
		memory          string
	}{
		{"v2", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", V2, "/sys/fs/cgroup/x"},
		{"hybrid", "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n31 23 0:27 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n", Hybrid, "/sys/fs/cgroup/memory/x"},
		{"v1", "31 23 0:27 / /c/memory rw - cgroup cgroup rw,memory\n32 23 0:28 / /c/again rw - cgroup cgroup rw,memory\n33 23 0:29 / /c/systemd rw - cgroup cgroup rw,xattr,name=systemd\n", V1, "/c/memory/x"},
	} {
		h, err := readHost(strings.NewReader(c.mountinfo), controllers)
		if err != nil {
			t.Fatal(err)
		}
		if h.mode() != c.mode || h.dir("memory", "/x") != c.memory {
			t.Errorf("%s: mode %d, memory in %q", c.name, h.mode(), h.dir("memory", "/x"))
		}
	}
	if _, err := readHost(strings.NewReader("1 2 0:3 / / rw - ext4 /dev/sda rw\n"), controllers); err == nil {
		t.Error("no hierarchy, no error")
	}
}

// TestV2Settings checks the translation to v2 without a v2 host.
func TestV2Settings(t *testing.T) {
	list, err := settingsV2(&specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150)), Reservation: ptr(int64(-1))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(-1)), Period: ptr(uint64(5000)), Mems: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(-1))},
		BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle(8, 0, 99)}},
		Unified: map[string]string{"memory.high": "80"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		got = append(got, s.file+"="+s.value)
	}
	want := "memory.swap.max=50 memory.max=100 memory.low=max cpu.weight=100 cpu.max=max 5000 cpuset.mems=0 pids.max=max io.max=8:0 rbps=99 memory.high=80"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	for name, res := range map[string]*specs.LinuxResources{
		"swap below memory": {Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(50))}},
		"swap alone":        {Memory: &specs.LinuxMemory{Swap: ptr(int64(50))}},
		"realtime":          {CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))}},
		"class":             {Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}},
		"path in unified":   {Unified: map[string]string{"../x": "1"}},
		"kernel TCP memory": {Memory: &specs.LinuxMemory{KernelTCP: ptr(int64(1))}},
	} {
		if _, err := settingsV2(res); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func throttle(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

func BenchmarkCreateDelete(b *testing.B) {
	path := fmt.Sprintf("/gantry-cgroup-bench-%d", os.Getpid())
	parent, err := Create(path, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := parent.Delete(); err != nil {
			b.Error(err)
		}
	}()
	for i := range b.N {
		g, err := Create(fmt.Sprintf("%s/%d", path, i), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(9))}})
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Delete(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestParentsOfOthers: docker and podman make the group above a container's, and on v1 leave its cpuset empty.
func TestParentsOfOthers(t *testing.T) {
	h, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/gantry-others-test-%d", os.Getpid())
	for _, tree := range h.trees() {
		dir := filepath.Join(tree.mount, parent)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := removeTree(dir); err != nil {
				t.Error(err)
			}
		})
	}
	g, err := Create(parent+"/child", nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if pids, err := g.Procs(true); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("processes: %v, %v; want %d", pids, err, cmd.Process.Pid)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
