package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// managed is whether a systemd of this user is there. In the machine of make test-vm-systemd it must be.
func managed(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/private"); err != nil && os.Getenv("GANTRY_TEST_SYSTEMD") == "" {
		t.Skip("this machine is not managed by systemd: make test-vm-systemd is for that")
	}
}

func v2(t *testing.T) bool {
	t.Helper()
	h, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	return h.mode() == V2
}

// systemctl has the manager of the scope do something.
func systemctl(t *testing.T, s Scope, args ...string) {
	t.Helper()
	if s.User {
		args = append([]string{"--user"}, args...)
	}
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		t.Fatalf("systemctl %v: %v: %s", args, err, out)
	}
}

// outside starts a process for a scope to begin with.
func outside(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestScope(t *testing.T) {
	managed(t)
	s := Scope{Unit: fmt.Sprintf("gantry-test-%d.scope", os.Getpid()), User: os.Geteuid() != 0}
	res := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(50))},
	}
	if !s.User { // a user's manager may give on fewer controllers
		s.Slice = "gantry-test.slice"
		res.CPU = &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(33_000)), Period: ptr(uint64(50_000)), Cpus: "0"}
		res.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}} // unknown to systemd
		res.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(int64(1)), Access: "rwm"}}
	}
	cmd := outside(t)
	if s.User && !v2(t) {
		if _, err := s.Start(t.Context(), cmd.Process.Pid, nil, nil); err == nil || !strings.Contains(err.Error(), "cgroup v2 alone") {
			t.Errorf("a user's manager on v1: %v", err)
		}
		return
	}
	g, err := s.Start(t.Context(), cmd.Process.Pid, res, map[string]string{propertyPrefix + "TimeoutStopSec": "uint64 123", "other": "x"})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, pids string) {
		t.Helper()
		if !v2(t) {
			if stats, err := g.Stats(); err != nil || stats.Memory.Limit != 64<<20 || stats.Memory.SwapLimit != 96<<20 || fmt.Sprint(stats.Pids.Limit) != pids {
				t.Errorf("%s: %+v, %v", when, stats, err)
			}
			return
		}
		want := map[string]string{"memory.max": "67108864", "memory.swap.max": "33554432", "pids.max": pids}
		if !s.User {
			want["cpu.max"], want["cpuset.cpus"], want["hugetlb.2MB.max"], want["cpu.weight"] = "33000 50000", "0", "4194304", fmt.Sprint(weight(512))
		}
		for file, value := range want {
			if got := content(t, g, "", file); got != value {
				t.Errorf("%s: %s is %q, want %q", when, file, got, value)
			}
		}
	}
	check("started", "50")
	systemctl(t, s, "daemon-reload")
	if s.User || !v2(t) {
		check("reloaded", "50")
	} else {
		filtered(t, g)
	}
	if _, err := s.Start(t.Context(), cmd.Process.Pid, nil, nil); err == nil {
		t.Error("the same unit was started twice")
	}
	if err := s.Set(t.Context(), g, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(60))}}); err != nil {
		t.Fatal(err)
	}
	check("updated", "60")
	systemctl(t, s, "daemon-reload")
	check("reloaded again", "60")
	other := outside(t)
	if v2(t) { // on v1 systemd knows a few hierarchies alone
		if err := s.Attach(t.Context(), other.Process.Pid, ""); err != nil {
			t.Error(err)
		}
		if pids, err := g.Procs(true); err != nil || !slices.Contains(pids, other.Process.Pid) {
			t.Errorf("%d is not in the scope: %v, %v", other.Process.Pid, pids, err)
		}
	}
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := cmd.Process.Wait(); err != nil {
		t.Error(err)
	}
	if err := g.Delete(); err != nil { // of what systemd does not know on v1
		t.Error(err)
	}
	if _, err := Open(g.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scope's group is still there: %v", err)
	}
}

// filtered checks that a group has one device filter of ours.
func filtered(t *testing.T, g *Group) {
	t.Helper()
	f, err := os.Open(g.Paths()[""])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if list, err := deviceFilters(f); err != nil || len(list) == 0 {
		t.Errorf("device filters %v, %v", list, err)
	}
}

func TestFailedScopeLeavesNothing(t *testing.T) {
	managed(t)
	s := Scope{Unit: fmt.Sprintf("gantry-fail-%d.scope", os.Getpid()), User: os.Geteuid() != 0}
	for name, res := range map[string]*specs.LinuxResources{
		"no range":     {CPU: &specs.LinuxCPU{Cpus: "3-1"}},
		"unknown file": {Unified: map[string]string{"memory.nonsense": "1"}},
	} {
		cmd := outside(t)
		if _, err := s.Start(t.Context(), cmd.Process.Pid, res, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		path, err := pathOf(cmd.Process.Pid, v2(t))
		if err == nil && filepath.Base(path) == s.Unit {
			t.Errorf("%s: the scope is still there", name)
		}
	}
}

func TestScopeOf(t *testing.T) {
	for _, c := range []struct {
		path string
		user bool
		want Scope
		at   string
	}{
		{"machine.slice:docker:4f5e", false, Scope{Slice: "machine.slice", Unit: "docker-4f5e.scope"}, "/machine.slice/docker-4f5e.scope"},
		{"::x", false, Scope{Slice: "system.slice", Unit: "-x.scope"}, "/system.slice/-x.scope"}, // as runc has it
		{"-.slice:a:b", false, Scope{Slice: "-.slice", Unit: "a-b.scope"}, "/a-b.scope"},
		{"a-b-c.slice:p:n", true, Scope{Slice: "a-b-c.slice", Unit: "p-n.scope", User: true}, "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"},
		{"", false, Scope{Slice: "system.slice", Unit: "runc-id.scope"}, "/system.slice/runc-id.scope"},
		{"", true, Scope{Slice: "user.slice", Unit: "runc-id.scope", User: true}, "/user.slice/runc-id.scope"},
	} {
		if got, err := ScopeOf(c.path, "id", c.user); err != nil || got != c.want || got.Path() != c.at {
			t.Errorf("%q: %+v at %s, %v", c.path, got, got.Path(), err)
		}
	}
	for _, bad := range []string{"a", "/a", "a:b", "a:b:c", "a.slice:b:", "a.slice:b:c:d", "a/b.slice:c:d", "a.slice:..:/x", "-a.slice:b:c", "a--b.slice:c:d", "a.slice:b:c.slice"} {
		if got, err := ScopeOf(bad, "id", false); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestBitmap(t *testing.T) {
	for list, want := range map[string][]byte{"0": {1}, "0-3,8": {15, 1}, "17": {0, 0, 2}} {
		if got, err := bitmap(list); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	for _, bad := range []string{"", "a", "3-1", "1-", "99999", "-1"} {
		if got, err := bitmap(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func FuzzDBusMessage(f *testing.F) {
	f.Add([]byte("\x03\x01s\x00\x0a\x00\x00\x00JobRemoved\x00"))
	f.Add([]byte{5, 1, 'u', 0, 7, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, header []byte) {
		var m dbusMessage
		_ = m.parse(header) // whatever it says, without a panic
	})
}

func TestDBusHeader(t *testing.T) {
	var m dbusMessage
	if err := m.parse([]byte("\x03\x01s\x00\x0a\x00\x00\x00JobRemoved\x00\x00\x00\x00\x00\x00\x05\x01u\x00\x07\x00\x00\x00")); err != nil || m.member != "JobRemoved" || m.replyTo != 7 {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []string{"\x03", "\x03\x01s", "\x03\x01s\x00\xff\xff\xff\xffx", "\x03\x01x\x00\x00\x00\x00\x00"} {
		if err := m.parse([]byte(bad)); !errors.Is(err, errDBus) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
