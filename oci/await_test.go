package oci

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// A created container, the first process of its namespace, ends when it is told to, past the runtime; what it executes
// gets its signals as ever.
func TestCreatedContainerHeedsSignals(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		newBundle(t, "sleep").endCreated(t, sig)
	}
	b := newBundle(t)
	if got := b.report(t).field("SigBlk"); got != "0000000000000000" {
		t.Errorf("the program has blocked signals: %s", got)
	}
}

// endCreated creates the container and ends it by a signal.
func (b *bundle) endCreated(t *testing.T, sig unix.Signal) {
	t.Helper()
	c, p, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.PidfdSendSignal(int(p.Pidfd.Fd()), sig, nil, 0); err != nil {
		t.Fatal(err)
	}
	poll := []unix.PollFd{{Fd: int32(p.Pidfd.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 10_000); n != 1 {
		t.Errorf("%v: it waits on (%v)", sig, err)
		_ = c.Kill(unix.SIGKILL, false)
	}
	if ws, err := spawn.Reap(p.Pidfd); err != nil || ws.ExitStatus() != 128+int(unix.SIGTERM) {
		t.Errorf("%v: it ended by %v, %d (%v)", sig, ws.Signal(), ws.ExitStatus(), err)
	}
	if err := c.Start(t.Context()); err == nil {
		t.Error("it was started after its end")
	}
	if err := c.Delete(t.Context(), false); err != nil {
		t.Error(err)
	}
}

func TestFilterAllowsWait(t *testing.T) {
	calls := []string{"ppoll", "read", "rt_sigprocmask", "exit_group"}
	rule := func(action specs.LinuxSeccompAction, names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: action}
	}
	withArgs := rule(specs.ActAllow, calls...)
	withArgs.Args = []specs.LinuxSeccompArg{{Op: specs.OpEqualTo}}
	for name, c := range map[string]struct {
		profile specs.LinuxSeccomp
		want    bool
	}{
		"everything":             {specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, true},
		"nothing":                {specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, false},
		"what is needed":         {specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, calls...)}}, true},
		"not all":                {specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, calls[1:]...)}}, false},
		"all but one":            {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{rule(specs.ActKillProcess, "ppoll")}}, false},
		"with certain arguments": {specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{withArgs}}, false},
	} {
		if got := allowsWait(&c.profile); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// With a filter that is in force while the container waits, signals end it if the filter allows the wait for them, and
// its program is executed in either case.
func TestWaitUnderFilter(t *testing.T) {
	for _, allows := range []bool{true, false} {
		b := newBundle(t)
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
		b.spec.Linux.Seccomp.Syscalls = []specs.LinuxSyscall{{Names: []string{"ptrace"}, Action: specs.ActKillProcess}}
		if !allows {
			b.spec.Linux.Seccomp.Syscalls[0].Names = []string{"ppoll"}
		}
		if r := b.report(t); r.field("Seccomp") != "2" {
			t.Errorf("ppoll allowed %v: Seccomp is %s", allows, r.field("Seccomp"))
		}
		if allows {
			b.endCreated(t, unix.SIGTERM)
		}
	}
}
