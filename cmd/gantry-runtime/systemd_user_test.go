package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/cgroup"
)

// The user of the machine of make test-vm-systemd, whose systemd runs without a session.
const (
	userID  = 1000
	userRun = "/run/user/1000"
	userTop = "/user.slice/user-1000.slice/user@1000.service"
)

// userctl is systemctl for that user's manager.
func userctl(args ...string) []string {
	id := fmt.Sprint(userID)
	return append([]string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "env", "XDG_RUNTIME_DIR=" + userRun, "systemctl", "--user"}, args...)
}

// TestSystemdUser: an ordinary user's container is in a scope of the user's own systemd, with its limits, as with runc.
func TestSystemdUser(t *testing.T) {
	managed(t)
	if mode, err := cgroup.Detect(); err != nil || mode != cgroup.V2 {
		rootlessAs(t, userID, userID, userRun, "true", func(u under, id, dir string) {
			if _, errs := u.want(1, "--systemd-cgroup", "run", "-b", dir, id); !strings.Contains(errs, "v2") {
				u.t.Errorf("on v1: %v, %s", err, errs)
			}
		})
		return
	}
	seen := map[string][]map[string]string{}
	rootlessAs(t, userID, userID, userRun, "exec sleep 1000", func(u under, id, dir string) {
		change(u.t, dir, func(s *specs.Spec) {
			s.Linux.CgroupsPath = "gantrytest-b.slice:pre:" + id
			s.Annotations = map[string]string{"org.systemd.property.TimeoutStopSec": "uint64 77"}
			s.Linux.Resources = &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20)), Reservation: ptr(int64(16 << 20))},
				CPU:    &specs.LinuxCPU{Quota: ptr(int64(20_000)), Period: ptr(uint64(50_000))},
				Pids:   &specs.LinuxPids{Limit: ptr(int64(50))},
			}
		})
		unit := "pre-" + id + ".scope"
		path := userTop + "/gantrytest.slice/gantrytest-b.slice/" + unit
		note := func(when string) {
			u.t.Helper()
			shown := unitShown(u.t, unit, userctl()...)
			if shown["ControlGroup"] != path {
				u.t.Errorf("%s: the unit's cgroup is %q, want %s", when, shown["ControlGroup"], path)
			}
			seen[when] = append(seen[when], shown)
		}
		u.want(0, "--systemd-cgroup", "create", "-b", dir, id)
		pid := u.state(id, specs.StateCreated).Pid
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err != nil || string(text) != "0::"+path+"\n" {
			u.t.Errorf("the first process is in %s, %v", text, err)
		}
		note("created")
		u.want(0, "--systemd-cgroup", "start", id)
		settle(u, id)
		if out, _ := u.want(0, "--systemd-cgroup", "ps", "-f", "json", id); strings.TrimSpace(out) != fmt.Sprintf("[%d]", pid) {
			u.t.Errorf("processes: %s", out)
		}
		if filepath.Base(u.program) != "runc" { // which leaves a process of exec outside, if it comes from outside
			file := filepath.Join(dir, "pid")
			u.want(0, "--systemd-cgroup", "exec", "-d", "--pid-file", file, id, "/bin/sleep", "1000")
			other, err := os.ReadFile(file)
			if err != nil {
				u.t.Fatal(err)
			}
			if text, err := os.ReadFile("/proc/" + string(other) + "/cgroup"); err != nil || string(text) != "0::"+path+"\n" {
				u.t.Errorf("a process of exec is in %s, %v", text, err)
			}
		}
		u.want(0, "--systemd-cgroup", "pause", id)
		u.state(id, "paused")
		u.want(0, "--systemd-cgroup", "resume", id)
		u.want(0, "--systemd-cgroup", "update", "--memory", "80M", "--memory-swap", "-1", "--pids-limit", "60", "--cpu-quota", "30000", id)
		note("updated")
		reload := userctl("daemon-reload")
		if out, err := exec.Command(reload[0], reload[1:]...).CombinedOutput(); err != nil {
			u.t.Fatalf("%v: %s", err, out)
		}
		note("reloaded")
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
		gone(u, unit, path, userctl()...)
	})
	agree(t, seen, "DevicePolicy", "DeviceAllow") // runc asks for them, but a user's systemd cannot filter devices
	if len(seen) != 3 || len(seen["created"]) != 2 {
		t.Error("there was no runc to compare with")
	}
}

// TestSystemdUserEnds: a container without linux.cgroupsPath ends by itself, by force, and before it begins.
func TestSystemdUserEnds(t *testing.T) {
	managed(t)
	if mode, err := cgroup.Detect(); err != nil || mode != cgroup.V2 {
		t.Skipf("a user's systemd manages cgroups with v2 alone: %v", err)
	}
	rootlessAs(t, userID, userID, userRun, "cat /proc/self/cgroup; exit 7", func(u under, id, dir string) {
		unit := "runc-" + id + ".scope"
		ended := func() { u.t.Helper(); gone(u, unit, userTop+"/user.slice/"+unit, userctl()...) }
		if out, errs := u.want(7, "--systemd-cgroup", "run", "-b", dir, id); out != "0::/\n" {
			u.t.Errorf("its cgroup: %q: %s", out, errs)
		}
		ended()
		u.want(0, "--systemd-cgroup", "create", "-b", dir, id)
		if shown := unitShown(u.t, unit, userctl()...); shown["Slice"] != "user.slice" || shown["ControlGroup"] != userTop+"/user.slice/"+unit {
			u.t.Errorf("%v", shown)
		}
		u.want(0, "delete", "--force", id)
		ended()
		change(u.t, dir, func(s *specs.Spec) { s.Process.Args = []string{"/bin/nonexistent"} })
		u.do("--systemd-cgroup", "run", "-b", dir, id)
		ended()
	})
}
