package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// exec runs another process of the container to its end and returns what it printed.
func (b *bundle) exec(t testing.TB, c *Container, change func(*specs.Process)) (string, unix.WaitStatus, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	process := *b.spec.Process
	process.Args = []string{"probe"}
	change(&process)
	x, err := c.Exec(t.Context(), &process, Stdio{Stdout: w, Stderr: w})
	if cerr := w.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	if err != nil {
		return "", 0, err
	}
	var text bytes.Buffer
	if _, err := text.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	status, err := spawn.Reap(x.Pidfd)
	if err = errors.Join(err, x.Pidfd.Close()); err != nil {
		t.Fatal(err)
	}
	return text.String(), status, nil
}

// end deletes a running container.
func (b *bundle) end(t testing.TB, c *Container, p *Process) {
	t.Helper()
	err := c.Delete(t.Context(), true)
	_, reapErr := spawn.Reap(p.Pidfd)
	if err = errors.Join(err, reapErr, p.Pidfd.Close()); err != nil {
		t.Error(err)
	}
}

// runs is what a process of the container sees: its first one, and one of exec.
func (b *bundle) runs(t *testing.T, options ...func(*CreateOptions)) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	decode := func(name, text string) {
		var seen map[string]any
		if err := json.Unmarshal([]byte(text), &seen); err != nil {
			t.Fatalf("%s: %v: %s", name, err, text)
		}
		for _, line := range strings.Split(fmt.Sprint(seen["status"]), "\n") {
			if name, value, found := strings.Cut(line, ":\t"); found {
				seen[name] = value
			}
		}
		out[name] = seen
	}
	text, code := b.output(t, options...)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, text)
	}
	decode("first", text)
	asked := b.spec.Process
	b.spec.Process = new(specs.Process)
	*b.spec.Process = *asked
	b.spec.Process.Args = []string{"probe", "sleep"}
	c, p, r := b.start(t, options...)
	defer r.Close()
	defer b.end(t, c, p)
	b.spec.Process = asked
	text, status, err := b.exec(t, c, func(*specs.Process) {})
	if err != nil || status != 0 {
		t.Fatalf("exec: status %v: %v: %s", status, err, text)
	}
	decode("exec", text)
	return out
}

// TestAttributes: what config.json asks of a process, the first process and one of exec have.
func TestAttributes(t *testing.T) {
	int1, umask := 1, uint32(0o77)
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   map[string]any
	}{
		"batch": {
			func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7} },
			map[string]any{"scheduler": "3 nice 7 priority 0"},
		},
		"other": {
			func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: -5} },
			map[string]any{"scheduler": "0 nice -5 priority 0"},
		},
		"idle": {
			func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedIdle} },
			map[string]any{"scheduler": "5 nice 0 priority 0"},
		},
		"best effort": {func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}, map[string]any{"ioprio": "2 6"}},
		"idle I/O": {func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE} }, map[string]any{"ioprio": "3 0"}},
		"real time I/O": {func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_RT, Priority: 1}
		}, map[string]any{"ioprio": "1 1"}},
		"32 bit": {func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} }, map[string]any{"personality": "8"}},
		"64 bit": {func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux} }, map[string]any{"personality": "0"}},
		"bind memory": {
			func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"} },
			map[string]any{"mempolicy": "0x2 1 0"},
		},
		"interleave memory": {func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolInterleave, Nodes: "0-0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
		}, map[string]any{"mempolicy": "0x8003 1 0"}},
		"local memory":   {func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal} }, map[string]any{"mempolicy": "0x4 0 0"}},
		"default memory": {func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolDefault} }, map[string]any{"mempolicy": "0x0 0 0"}},
		"umask":          {func(s *specs.Spec) { s.Process.User.Umask = &umask }, map[string]any{"Umask": "0077"}},
		"no umask":       {func(*specs.Spec) {}, map[string]any{"Umask": "0022", "NoNewPrivs": "0"}},
		"groups":         {func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{5, 6, 4000000000} }, map[string]any{"groups": "[5 6 4e+09]"}},
		"oom":            {func(s *specs.Spec) { s.Process.OOMScoreAdj = &int1 }, map[string]any{"oom_score_adj": "1\n"}},
		"no new privs":   {func(s *specs.Spec) { s.Process.NoNewPrivileges = true }, map[string]any{"NoNewPrivs": "1"}},
		"rlimits": {func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 500, Hard: 600}, {Type: "RLIMIT_CORE"}}
		}, map[string]any{"rlimit_nproc": "500 600", "rlimit_core": "0 0"}},
		"ambient": {func(s *specs.Spec) {
			c := []string{"CAP_KILL"}
			s.Process.User.UID = 9
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c, Inheritable: c, Ambient: c}
		}, map[string]any{"CapInh": "0000000000000020", "CapPrm": "0000000000000020", "CapEff": "0000000000000020", "CapAmb": "0000000000000020"}},
		// CVE-2022-29162 and its kin: a user who is not root has no capability but ambient ones.
		"not root": {
			func(s *specs.Spec) { s.Process.User.UID = 1000 },
			map[string]any{"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapAmb": "0000000000000000", "CapBnd": "0000000000002021"},
		},
		"no capabilities":  {func(s *specs.Spec) { s.Process.Capabilities = nil }, map[string]any{"CapEff": "0000000000000000", "CapBnd": "0000000000000000"}},
		"directory":        {func(s *specs.Spec) { s.Process.Cwd = "/made/by/../runtime" }, map[string]any{"cwd": "/made/runtime"}},
		"closed directory": {func(s *specs.Spec) { s.Process.User.UID, s.Process.Cwd = 1000, "/closed/inner" }, map[string]any{"Uid": "1000\t1000\t1000\t1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t)
			if err := os.MkdirAll(filepath.Join(b.dir, "rootfs/closed/inner"), 0o700); err != nil {
				t.Fatal(err)
			}
			c.change(b.spec)
			for who, seen := range b.runs(t) {
				for name, want := range c.want {
					if fmt.Sprint(seen[name]) != want {
						t.Errorf("%s: %s is %v, want %v", who, name, seen[name], want)
					}
				}
			}
		})
	}
}

// giveRealTime makes a cgroup below which others can have real time, in µs of a second.
func giveRealTime(t *testing.T, path string, runtime int64) {
	t.Helper()
	below, err := cgroup.Create(path+"/below", &specs.LinuxResources{})
	if err != nil {
		t.Fatal(err)
	}
	parent, err := cgroup.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(below.Delete(), parent.Delete()); err != nil {
			t.Error(err)
		}
	})
	if err := parent.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: &runtime}}); err != nil {
		t.Fatal(err)
	}
}

// TestRealTimeSchedulers looks at the waiting process: threads of such a program cannot just be made.
// TestMemoryPolicyOfNewerKernels: what the kernel lacks (weighted interleaving came with 6.9) is refused, and the error names it.
func TestMemoryPolicyOfNewerKernels(t *testing.T) {
	b := newBundle(t)
	b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolWeightedInterleave, Nodes: "0"}
	c, p, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
	if err == nil {
		b.end(t, c, p)
		return
	}
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "set the memory policy to "+string(specs.MpolWeightedInterleave)) {
		t.Error(err)
	}
}

func TestRealTimeSchedulers(t *testing.T) {
	for _, c := range []struct {
		scheduler specs.Scheduler
		want      unix.SchedAttr
	}{
		{
			specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1e6, Deadline: 2e7, Period: 1e8, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}},
			unix.SchedAttr{Policy: unix.SCHED_DEADLINE, Runtime: 1e6, Deadline: 2e7, Period: 1e8, Flags: unix.SCHED_FLAG_RESET_ON_FORK},
		},
		{specs.Scheduler{Policy: specs.SchedFIFO, Priority: 3}, unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 3}},
		{specs.Scheduler{Policy: specs.SchedRR, Priority: 99}, unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 99}},
	} {
		b := newBundle(t)
		b.spec.Process.Scheduler = &c.scheduler
		if mode, err := cgroup.Detect(); err != nil || mode != cgroup.V2 { // where a new group has no real time
			b.spec.Linux.CgroupsPath = fmt.Sprintf("/gantry-oci-test-rt-%d/group", os.Getpid())
			giveRealTime(t, filepath.Dir(b.spec.Linux.CgroupsPath), 100000) // for groups that are going, too
			b.spec.Linux.Resources.CPU = &specs.LinuxCPU{RealtimeRuntime: &[]int64{10000}[0]}
		}
		container, p, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
		if err != nil {
			t.Fatal(err)
		}
		got, err := unix.SchedGetAttr(p.Pid, 0)
		b.end(t, container, p)
		c.want.Size = got.Size
		if got.Util_min, got.Util_max = 0, 0; err != nil || *got != c.want {
			t.Errorf("%+v: %+v, want %+v (%v)", c.scheduler, got, c.want, err)
		}
	}
}

// TestBadAttributes names the field at fault, before anything is made.
func TestBadAttributes(t *testing.T) {
	for want, change := range map[string]func(*specs.Spec){
		"process.scheduler.policy must be set":         func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} },
		`process.scheduler.policy: unknown policy "X"`: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "X"} },
		"process.scheduler.nice 20":                    func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 20} },
		"process.scheduler.priority 1":                 func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Priority: 1} },
		"process.scheduler.runtime":                    func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Period: 1} },
		`process.scheduler.flags: unknown flag "X"`: func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Flags: []specs.LinuxSchedulerFlag{"X"}}
		},
		"set the scheduler to SCHED_ISO: invalid argument": func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedISO} },
		`process.ioPriority.class: unknown class "X"`:      func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "X"} },
		"process.ioPriority.priority 8": func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		},
		`linux.personality.domain: unknown domain "X"`:            func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "X"} },
		`linux.memoryPolicy.mode: invalid memory policy mode "X"`: func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "X"} },
		`linux.memoryPolicy.flags: invalid memory policy flag "X"`: func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{"X"}}
		},
		"linux.memoryPolicy.nodes: MPOL_BIND needs some": func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind} },
		`linux.memoryPolicy.nodes "0": MPOL_LOCAL: mode requires 0 nodes but got 1`: func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal, Nodes: "0"}
		},
		`linux.memoryPolicy.nodes: invalid memory policy nodes: "1-0": 1-0 is no range`: func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "1-0"}
		},
		"set the memory policy to MPOL_BIND: invalid": func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "1000"}
		},
		`process.execCPUAffinity.initial: "x"`:                                func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "x"} },
		`process.execCPUAffinity.final: "0-9223372036854775807"`:              func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0-9223372036854775807"} },
		`process.execCPUAffinity.final: "0-99999": 99999 is too large`:        func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0-99999"} },
		`process.rlimits: unknown rlimit "RLIMIT_FUN"`:                        func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}} },
		"process.rlimits: RLIMIT_CPU: soft limit 2 is above the hard limit 1": func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} },
		"process.rlimits: RLIMIT_CPU is set twice": func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 1, Hard: 1}, {Type: "RLIMIT_CPU", Soft: 1, Hard: 1}}
		},
		"linux.intelRdt: no resctrl file system is mounted":                 func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} },
		`process.apparmorProfile "docker-default": AppArmor is not enabled`: func(s *specs.Spec) { s.Process.ApparmorProfile = "docker-default" },
		`process.selinuxLabel "a:b:c:d": SELinux is not enabled`:            func(s *specs.Spec) { s.Process.SelinuxLabel = "a:b:c:d" },
		`linux.mountLabel "a:b:c:d": SELinux is not enabled`:                func(s *specs.Spec) { s.Linux.MountLabel = "a:b:c:d" },
	} {
		t.Run(want, func(t *testing.T) {
			b := newBundle(t)
			change(b.spec)
			_, _, err := b.lib.Create(t.Context(), "bad", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestEveryRlimit sets them all, one lower than the runtime's own.
func TestEveryRlimit(t *testing.T) {
	for name, number := range rlimitNumbers {
		var own unix.Rlimit
		if err := unix.Prlimit(0, number, nil, &own); err != nil {
			t.Fatal(err)
		}
		b := newBundle(t, "cat", "/proc/self/limits")
		want := own.Max &^ 1 // a page or so less changes nothing for the probe
		b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: name, Soft: want, Hard: want}}
		if text, code := b.output(t); code != 0 || text == "" {
			t.Errorf("%s: exit code %d: %s", name, code, text)
		}
	}
}

// TestUnknownCapabilities are passed over with a warning.
func TestUnknownCapabilities(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	b := newBundle(t)
	c := []string{"CAP_KILL", "CAP_FLY", "kill"}
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c, Ambient: []string{"CAP_KILL"}}
	if r := b.report(t); r.field("CapEff") != "0000000000000020" || r.field("CapAmb") != "0000000000000000" {
		t.Errorf("effective %s, ambient %s", r.field("CapEff"), r.field("CapAmb"))
	}
	for _, want := range []string{"ignoring unknown or unavailable capabilities", "CAP_FLY", "kill", "ambient"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %s", want, log.String())
		}
	}
}

// TestKeyring: a container has a keyring of its own, which its other processes join, unless it shall have none.
func TestKeyring(t *testing.T) {
	own := map[string]string{}
	cmd := exec.Command(probe)
	text, err := cmd.Output()
	var seen map[string]any
	if err = errors.Join(err, json.Unmarshal(text, &seen)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keyring", "keyringID"} {
		own[name] = fmt.Sprint(seen[name])
	}
	b := newBundle(t)
	for who, seen := range b.runs(t) {
		if text := fmt.Sprint(seen["keyring"]); !strings.HasSuffix(text, ";_ses.probe") || !strings.Contains(text, "3f1b0000") || seen["keyringID"] == own["keyringID"] {
			t.Errorf("%s: keyring %q, ours is %q", who, text, own)
		}
	}
	for who, seen := range b.runs(t, func(o *CreateOptions) { o.NoNewKeyring = true }) {
		if seen["keyringID"] != own["keyringID"] || strings.HasSuffix(fmt.Sprint(seen["keyring"]), ";_ses.probe") {
			t.Errorf("%s: keyring %q, ours is %q", who, seen["keyring"], own)
		}
	}
	for name, prepare := range map[string]func(*bundle){"host's users": func(*bundle) {}, "own users": mapped(t)} {
		s, p, r := newSleeper(t, prepare)
		ids := map[string]bool{}
		for range 2 {
			text, _, err := s.exec(t, s.container, func(*specs.Process) {})
			if err != nil {
				t.Fatal(err)
			}
			var seen map[string]any
			if err := json.Unmarshal([]byte(text), &seen); err != nil {
				t.Fatal(err)
			}
			ids[fmt.Sprint(seen["keyringID"])] = true
		}
		if len(ids) != 1 {
			t.Errorf("%s: two processes of exec have the keyrings %v", name, slices.Collect(maps.Keys(ids)))
		}
		s.end(t, s.container, p)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// sleeper is a bundle with its running container.
type sleeper struct {
	*bundle
	container *Container
}

// newSleeper starts a container that waits, with the bundle changed.
func newSleeper(t testing.TB, change ...func(*bundle)) (*sleeper, *Process, *os.File) {
	t.Helper()
	b := newBundle(t, "sleep")
	for _, f := range change {
		f(b)
	}
	c, p, r := b.start(t)
	return &sleeper{b, c}, p, r
}

// TestExecAffinity: process.execCPUAffinity is where exec begins and where it goes on; without it a process runs where
// its cgroup may, wherever the runtime was confined to.
func TestExecAffinity(t *testing.T) {
	s, p, r := newSleeper(t)
	defer r.Close()
	defer s.end(t, s.container, p)
	all := func() string {
		text, err := os.ReadFile("/sys/devices/system/cpu/online")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}()
	if all == "0" {
		t.Log("there is one CPU only: every affinity is the same")
	}
	kept := "0"
	if oldKernel(t) && cgroupMode() == cgroup.V2 {
		kept = all // before Linux 6.2, who joins another cpuset is given all of it
	}
	for _, c := range []struct {
		affinity *specs.CPUAffinity
		want     string
	}{
		{nil, all},
		{&specs.CPUAffinity{Initial: "0"}, kept},
		{&specs.CPUAffinity{Final: "0"}, "0"},
		{&specs.CPUAffinity{Initial: "0", Final: all}, all},
	} {
		text, _, err := s.exec(t, s.container, func(p *specs.Process) { p.ExecCPUAffinity = c.affinity })
		if err != nil {
			t.Fatal(err)
		}
		var r report
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.field("Cpus_allowed_list") != c.want {
			t.Errorf("%+v: it runs on %s, want %s (%v)", c.affinity, r.field("Cpus_allowed_list"), c.want, err)
		}
	}
	for _, bad := range []*specs.CPUAffinity{{Initial: "8000"}, {Final: "8000"}} {
		if _, _, err := s.exec(t, s.container, func(p *specs.Process) { p.ExecCPUAffinity = bad }); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestAttributesInUserNamespace: those that the root of a user namespace may not set are set all the same.
func TestAttributesInUserNamespace(t *testing.T) {
	b := newBundle(t)
	mapped(t)(b)
	adj := 33
	p := b.spec.Process
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 500, Hard: 600}, {Type: "RLIMIT_CORE"}}
	p.OOMScoreAdj, p.Scheduler, p.NoNewPrivileges = &adj, &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}, true
	p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 5}
	b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000000}}
	var here unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &here); err != nil {
		t.Fatal(err)
	}
	for who, seen := range b.runs(t) {
		for name, want := range map[string]string{
			"rlimit_nproc": "500 600", "rlimit_core": "0 0", "oom_score_adj": "33\n", "scheduler": "3 nice 3 priority 0", "ioprio": "2 5",
			"mempolicy": "0x2 1 0", "NoNewPrivs": "1", "Uid": "0\t0\t0\t0",
		} {
			if got := fmt.Sprint(seen[name]); got != want {
				t.Errorf("%s: %s is %q, want %q", who, name, got, want)
			}
		}
		if up, ok := seen["boottime"].(float64); !ok || up < float64(here.Sec)+1e9 {
			t.Errorf("%s: %v s since the boot, %d here", who, seen["boottime"], here.Sec)
		}
		if text := fmt.Sprint(seen["keyring"]); !strings.HasSuffix(text, ";_ses.probe") || !strings.Contains(text, "3f1b0000") {
			t.Errorf("%s: keyring %q", who, text)
		}
	}
}
