package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/cgroup"
)

// managed is whether systemd manages this machine. In that of make test-vm-systemd it must.
func managed(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/private"); err != nil && os.Getenv("GANTRY_TEST_SYSTEMD") == "" {
		t.Skip("this machine is not managed by systemd: make test-vm-systemd is for that")
	}
}

func ptr[T any](v T) *T { return &v }

// unitProperties are what the runtimes must agree on. (Between the extremes, older runtimes turn shares into other weights.)
var unitProperties = []string{
	"Slice", "ControlGroup", "Delegate", "DefaultDependencies", "CPUAccounting", "MemoryAccounting", "TasksAccounting", "MemoryMax", "MemoryLow",
	"MemorySwapMax", "MemoryHigh", "MemoryLimit", "TasksMax", "CPUWeight", "CPUShares", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "AllowedCPUs", "AllowedMemoryNodes",
	"DevicePolicy", "DeviceAllow", "TimeoutStopUSec",
}

// shown is what systemd says of a unit; ctl is the command that asks, if it is not for the system's.
func shown(t *testing.T, properties, unit string, ctl ...string) string {
	t.Helper()
	if len(ctl) == 0 {
		ctl = []string{"systemctl"}
	}
	argv := append(ctl[:len(ctl):len(ctl)], "show", "--property="+properties, unit)
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// unitShown has devices in a fixed order, and a number for what older runtimes call by name.
func unitShown(t *testing.T, unit string, ctl ...string) map[string]string {
	t.Helper()
	out := shown(t, strings.Join(unitProperties, ","), unit, ctl...)
	values, numbers := map[string][]string{}, strings.NewReplacer("char-pts ", "char-136 ", "block-loop ", "block-7 ")
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "DeviceAllow" && value == "/dev/char/10:200 rwm" {
			continue // /dev/net/tun, which runc allows everybody before 1.2
		}
		values[name] = append(values[name], numbers.Replace(value))
	}
	result := map[string]string{}
	for name, list := range values {
		slices.Sort(list)
		result[name] = strings.Join(list, ", ")
	}
	return result
}

func unitState(t *testing.T, unit string, ctl ...string) string {
	t.Helper()
	return strings.Join(strings.Fields(shown(t, "LoadState,ActiveState", unit, ctl...)), " ")
}

// TestSystemdCgroup has each runtime go through a container's life in a scope of systemd's, and compares what systemd says.
func TestSystemdCgroup(t *testing.T) {
	managed(t)
	mode, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string][]map[string]string{}
	each(t, func(u under, id string) {
		dir := bundle(u.t, "exec sleep 1000")
		rewrite(u.t, dir, func(s *specs.Spec) {
			s.Linux.CgroupsPath = "gantrytest-a.slice:pre:" + id
			s.Annotations = map[string]string{"org.systemd.property.TimeoutStopSec": "uint64 77"}
			s.Linux.Resources = &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20)), Reservation: ptr(int64(16 << 20))},
				CPU:    &specs.LinuxCPU{Shares: ptr(uint64(262144)), Quota: ptr(int64(20_000)), Period: ptr(uint64(50_000)), Cpus: "0", Mems: "0"},
				Pids:   &specs.LinuxPids{Limit: ptr(int64(50))},
				Devices: []specs.LinuxDeviceCgroup{
					{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rw"}, {Allow: true, Type: "b", Major: ptr(int64(7)), Access: "r"},
				},
			}
		})
		unit, path := "pre-"+id+".scope", "/gantrytest.slice/gantrytest-a.slice/pre-"+id+".scope"
		note := func(when string) {
			u.t.Helper()
			shown := unitShown(u.t, unit)
			if shown["ControlGroup"] != path {
				u.t.Errorf("%s: the unit's cgroup is %q, want %s", when, shown["ControlGroup"], path)
			}
			seen[when] = append(seen[when], shown)
		}
		u.want(0, "--systemd-cgroup", "create", "-b", dir, id)
		u.state(id, specs.StateCreated)
		note("created")
		u.want(0, "--systemd-cgroup", "start", id)
		if out, _ := u.want(0, "--systemd-cgroup", "ps", "-f", "json", id); strings.Count(out, ",") != 0 {
			u.t.Errorf("processes: %s", out)
		}
		u.want(0, "--systemd-cgroup", "exec", id, "/bin/true")
		inside(u, id, path, mode)
		u.want(0, "--systemd-cgroup", "pause", id)
		u.state(id, "paused")
		u.want(0, "--systemd-cgroup", "resume", id)
		u.want(0, "--systemd-cgroup", "update", "--memory", "80M", "--memory-swap", "-1", "--pids-limit", "60", "--cpu-quota", "30000", "--cpu-share", "2", id)
		note("updated")
		if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
			u.t.Fatalf("%v: %s", err, out)
		}
		note("reloaded")
		u.want(0, "exec", id, "/bin/sh", "-c", ": < /dev/null")
		group, err := cgroup.Open(path)
		if err != nil {
			u.t.Fatal(err)
		}
		if s, err := group.Stats(); err != nil || s.Memory.Limit != 80<<20 || s.Pids.Limit != 60 {
			u.t.Errorf("after the reload: %+v, %v", s, err)
		}
		u.want(0, "--systemd-cgroup", "kill", id, "KILL")
		awaitState(u, id, specs.StateStopped)
		u.want(0, "--systemd-cgroup", "delete", id)
		gone(u, unit, path)
	})
	agree(t, seen)
	if len(seen) != 3 || len(slices.Collect(maps.Values(seen))[0]) != 2 {
		t.Error("there was no runc to compare with")
	}
}

// agree compares what systemd said of the runtimes' units, by moments.
func agree(t *testing.T, seen map[string][]map[string]string, but ...string) {
	t.Helper()
	for when, shown := range seen {
		for _, name := range unitProperties {
			if slices.Contains(but, name) {
				continue
			}
			for _, other := range shown[1:] {
				mine, theirs := shown[0][name], other[name]
				if name != "ControlGroup" && mine != theirs {
					t.Errorf("%s: %s is %q, under runc %q", when, name, mine, theirs)
				}
			}
		}
	}
}

// inside checks where a process of exec is, by the host's word: the container sees its own cgroup as the root.
func inside(u under, id, path string, mode cgroup.Mode) {
	u.t.Helper()
	file := filepath.Join(u.t.TempDir(), "pid")
	u.want(0, "--systemd-cgroup", "exec", "-d", "--pid-file", file, id, "/bin/sleep", "1000")
	pid, err := os.ReadFile(file)
	if err != nil {
		u.t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/" + string(pid) + "/cgroup")
	if err != nil {
		u.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if mode == cgroup.V2 || !strings.Contains(line, "misc") && !strings.Contains(line, "rdma") && !strings.HasPrefix(line, "0:") { // older runtimes know no such controller
			if !strings.HasSuffix(line, ":"+path+"\n") {
				u.t.Errorf("a process of exec is in %s", line)
			}
		}
	}
}

func awaitState(u under, id string, want specs.ContainerState) {
	u.t.Helper()
	for range 1000 {
		if out, _ := u.want(0, "state", id); strings.Contains(out, fmt.Sprintf("%q", want)) {
			return
		}
	}
	u.t.Fatalf("it is not %s", want)
}

func gone(u under, unit, path string, ctl ...string) {
	u.t.Helper()
	if state := unitState(u.t, unit, ctl...); state != "LoadState=not-found ActiveState=inactive" {
		u.t.Errorf("%s is left: %s", unit, state)
	}
	if _, err := cgroup.Open(path); !errors.Is(err, os.ErrNotExist) {
		u.t.Errorf("cgroup %s is left: %v", path, err)
	}
}

// TestSystemdDefaults: without linux.cgroupsPath, and with the smallest limit of processes.
func TestSystemdDefaults(t *testing.T) {
	managed(t)
	each(t, func(u under, id string) {
		dir := bundle(u.t, "exec sleep 1000")
		rewrite(u.t, dir, func(s *specs.Spec) {
			s.Linux.CgroupsPath = ""
			s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(40))}}
			if filepath.Base(u.program) != "runc" { // whose own threads are more, and are in there
				s.Linux.Resources.Pids.Limit = ptr(int64(1))
			}
		})
		unit, path := "runc-"+id+".scope", "/system.slice/runc-"+id+".scope"
		u.want(0, "--systemd-cgroup", "create", "-b", dir, id)
		if shown := unitShown(u.t, unit); shown["ControlGroup"] != path || shown["Slice"] != "system.slice" {
			u.t.Errorf("%v", shown)
		}
		if shown := unitShown(u.t, unit); filepath.Base(u.program) != "runc" && shown["TasksMax"] != "1" {
			u.t.Errorf("TasksMax is %s", shown["TasksMax"])
		}
		u.want(1, "--systemd-cgroup", "create", "-b", dir, id)
		u.want(0, "delete", "--force", id)
		gone(u, unit, path)
	})
}

// TestSystemdErrors: what is wrong is named, and nothing is left.
func TestSystemdErrors(t *testing.T) {
	managed(t)
	for name, change := range map[string]func(*specs.Spec){
		"cgroupsPath to be of format":    func(s *specs.Spec) { s.Linux.CgroupsPath = "/plain" },
		"annotation org.systemd":         func(s *specs.Spec) { s.Annotations = map[string]string{"org.systemd.property.A1": "1"} },
		"NoSuchProperty":                 func(s *specs.Spec) { s.Annotations = map[string]string{"org.systemd.property.NoSuchProperty": "1"} },
		"linux.resources.cpu.cpus|cpu.c": func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "9-1"}} },
		"/bin/nonexistent":               func(s *specs.Spec) { s.Process.Args = []string{"/bin/nonexistent"} },
	} {
		u, id := own(t)
		dir := bundle(t, "exit 0")
		rewrite(t, dir, change)
		_, errs := u.want(1, "--systemd-cgroup", "run", "-b", dir, id)
		if !slices.ContainsFunc(strings.Split(name, "|"), func(word string) bool { return strings.Contains(errs, word) }) {
			t.Errorf("%s: %s", name, errs)
		}
		gone(u, "runc-"+id+".scope", "/system.slice/runc-"+id+".scope")
		if entries, err := os.ReadDir(u.root); err != nil || len(entries) > 0 {
			t.Errorf("%s: %v is left, %v", name, entries, err)
		}
	}
}

// TestSystemdRestore: a restored container is in a scope again, of which criu's process was the first.
func TestSystemdRestore(t *testing.T) {
	managed(t)
	subjects(t, "", func(s *specs.Spec) { s.Linux.CgroupsPath = "" }, func(c *subject) {
		unit, path := "runc-"+c.id+".scope", "/system.slice/runc-"+c.id+".scope"
		if errs, err := c.streams("--systemd-cgroup", "run", "-d", "-b", c.dir, c.id); err != nil {
			c.t.Fatalf("run: %v: %s", err, errs)
		}
		c.want(0, "--systemd-cgroup", "checkpoint", "--image-path", c.images, c.id)
		if errs, err := c.streams("--systemd-cgroup", "restore", "-d", "-b", c.dir, "--image-path", c.images, c.id); err != nil {
			c.t.Fatalf("restore: %v: %s", err, errs)
		}
		c.state(c.id, specs.StateRunning)
		if shown := unitShown(c.t, unit); shown["ControlGroup"] != path {
			c.t.Errorf("%v", shown)
		}
		if out, _ := c.want(0, "ps", "-f", "json", c.id); strings.Count(out, ",") != 0 || strings.TrimSpace(out) == "[]" {
			c.t.Errorf("processes: %s", out)
		}
		c.want(0, "delete", "--force", c.id)
		gone(c.under, unit, path)
	})
}

// TestNoSystemd: where nobody answers that is said, and nothing is left.
func TestNoSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		t.Skip("this machine is managed by systemd")
	}
	u, id := own(t)
	dir := bundle(t, "exit 0")
	_, errs := u.want(1, "--systemd-cgroup", "run", "-b", dir, id)
	if !strings.Contains(errs, "runc-"+id+".scope: systemd does not answer: connect to /run/dbus/system_bus_socket: ") {
		t.Error(errs)
	}
	if entries, err := os.ReadDir(u.root); err != nil || len(entries) > 0 {
		t.Errorf("%v is left, %v", entries, err)
	}
}
