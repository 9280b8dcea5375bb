package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A period that would, with the old quota, exceed the parent's share is set together with a quota that fits.
func TestPeriodAndQuotaFitTogether(t *testing.T) {
	parent, err := Create(fmt.Sprintf("/gantry-cgroup-pod-%d", os.Getpid()), &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Quota: ptr(int64(50_000)), Period: ptr(uint64(100_000))},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := parent.Delete(); err != nil {
			t.Error(err)
		}
	})
	g, err := Create(filepath.Join(parent.path, "child"), &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Quota: ptr(int64(30_000)), Period: ptr(uint64(100_000))},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Delete(); err != nil {
			t.Error(err)
		}
	})
	if err := g.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(3_000)), Period: ptr(uint64(10_000))}}); err != nil {
		t.Fatal(err)
	}
	file, want := "cpu.cfs_period_us", "10000"
	if !v1(t) {
		file, want = "cpu.max", "3000 10000"
	}
	if got := content(t, g, "cpu", file); got != want {
		t.Errorf("%s: %q, want %q", file, got, want)
	}
	if !v1(t) {
		return // only v1 compares with the parent
	}
	if err := g.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(1_000))}}); err == nil {
		t.Error("three times the processor within a parent that has half of it")
	}
}

func TestDeviceAccessWithLetterA(t *testing.T) {
	major, minor := int64(1), int64(11)
	rule := func(access string) *specs.LinuxResources {
		return &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &major, Minor: &minor, Access: access}}}
	}
	g := testGroup(t, rule("rwa"))
	if v1(t) {
		if got := content(t, g, "devices", "devices.list"); got != "c 1:11 rw" {
			t.Errorf("devices.list: %q, want c 1:11 rw", got)
		}
	}
	if err := g.Set(rule("a")); err == nil {
		t.Error("a rule for no access at all")
	}
}

// TestNoRealtimeLeft: v1 gives a group no more realtime than its parent has, and the error says whose that is.
func TestNoRealtimeLeft(t *testing.T) {
	g := testGroup(t, nil)
	file := filepath.Join(filepath.Dir(g.host.dir("cpu", g.path)), "cpu.rt_runtime_us")
	if _, err := os.Stat(file); err != nil {
		t.Skipf("this kernel limits no realtime scheduling by cgroup v1: %v", err)
	}
	runtime := int64(10000)
	err := g.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: &runtime}})
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(fmt.Sprint(err), "give "+file+" more first") {
		t.Errorf("%v, want one that names %s", err, file)
	}
	if err := write(file, "20000"); err != nil {
		t.Fatal(err)
	}
	if err := g.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: &runtime}}); err != nil {
		t.Error(err)
	}
}
