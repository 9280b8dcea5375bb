package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// onPersonality is a profile with one rule.
func onPersonality(action specs.LinuxSeccompAction, args ...specs.LinuxSeccompArg) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"personality"}, Action: action, Args: args}},
	}
}

func errnoOf(p *specs.LinuxSeccomp, errno uint) *specs.LinuxSeccomp {
	p.Syscalls[0].ErrnoRet = &errno
	return p
}

// TestFilterActions: what becomes of a call under each action, with and without no_new_privs, in the first process
// and in one of exec.
func TestFilterActions(t *testing.T) {
	const query = "0xffffffff"
	first := func(op specs.LinuxSeccompOperator, value, two uint64) *specs.LinuxSeccomp {
		return onPersonality(specs.ActErrno, specs.LinuxSeccompArg{Op: op, Value: value, ValueTwo: two})
	}
	for name, c := range map[string]struct {
		profile  *specs.LinuxSeccomp
		argument string
		want     string // of the output
		signal   unix.Signal
	}{
		"allow":            {onPersonality(specs.ActAllow), query, "0\n", 0},
		"log":              {onPersonality(specs.ActLog), query, "0\n", 0},
		"errno":            {onPersonality(specs.ActErrno), query, "1\n", 0},
		"errno 100":        {errnoOf(onPersonality(specs.ActErrno), 100), query, "100\n", 0},
		"trace":            {onPersonality(specs.ActTrace), query, "38\n", 0}, // without a tracer
		"kill":             {onPersonality(specs.ActKill), query, "thread killed\n", 0},
		"kill thread":      {onPersonality(specs.ActKillThread), query, "thread killed\n", 0},
		"kill process":     {onPersonality(specs.ActKillProcess), query, "", unix.SIGSYS},
		"trap":             {onPersonality(specs.ActTrap), query, "SIGSYS: bad system call", 0},
		"equal":            {first(specs.OpEqualTo, 8, 0), "8", "1\n", 0},
		"not equal":        {first(specs.OpNotEqual, 8, 0), "8", "0\n", 0},
		"less":             {first(specs.OpLessThan, 9, 0), "8", "1\n", 0},
		"less or equal":    {first(specs.OpLessEqual, 7, 0), "8", "0\n", 0},
		"greater":          {first(specs.OpGreaterThan, 8, 0), "8", "0\n", 0},
		"greater, equal":   {first(specs.OpGreaterEqual, 8, 0), "8", "1\n", 0},
		"masked":           {first(specs.OpMaskedEqual, 0xc, 8), "8", "1\n", 0},
		"masked, not":      {first(specs.OpMaskedEqual, 0xc, 4), "8", "0\n", 0},
		"default errno":    {&specs.LinuxSeccomp{}, query, "0\n", 0}, // nothing asked for
		"all flags":        {withFlags(specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, "SECCOMP_FILTER_FLAG_TSYNC"), query, "1\n", 0},
		"ignored listener": {withListener(onPersonality(specs.ActErrno), "/no/such"), query, "1\n", 0},
	} {
		for _, nnp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", name, nnp), func(t *testing.T) {
				b := newBundle(t, "sleep")
				b.spec.Process.NoNewPrivileges, b.spec.Linux.Seccomp = nnp, c.profile
				b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}}
				container, p, r := b.start(t)
				defer r.Close()
				defer b.end(t, container, p)
				text, status, err := b.exec(t, container, func(p *specs.Process) { p.Args = []string{"probe", "personality", c.argument} })
				if err != nil || !strings.HasPrefix(text, c.want) || status.Signaled() != (c.signal != 0) || c.signal != 0 && status.Signal() != c.signal {
					t.Errorf("%q, status %v, %v; want %q, signal %v", text, status, err, c.want, c.signal)
				}
				status2, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
				if want := map[bool]string{true: "Seccomp:\t0", false: "Seccomp:\t2"}[c.profile.DefaultAction == ""]; err != nil || !strings.Contains(string(status2), want) {
					t.Errorf("the first process: no %q (%v)", want, err)
				}
			})
		}
	}
}

func withFlags(flags ...specs.LinuxSeccompFlag) *specs.LinuxSeccomp {
	p := onPersonality(specs.ActErrno)
	p.Flags = flags
	return p
}

func withListener(p *specs.LinuxSeccomp, path string) *specs.LinuxSeccomp {
	p.ListenerPath, p.ListenerMetadata = path, "meta"
	return p
}

// TestFilterIsRefused names what is wrong.
func TestFilterIsRefused(t *testing.T) {
	notify := func() *specs.LinuxSeccomp { return onPersonality(specs.ActNotify) }
	write := withListener(notify(), "/no/such")
	write.Syscalls[0].Names = []string{"mkdir", "write"}
	metadata := onPersonality(specs.ActErrno)
	metadata.ListenerMetadata = "x"
	byDefault := withListener(notify(), "/no/such")
	byDefault.DefaultAction = specs.ActNotify
	for want, profile := range map[string]*specs.LinuxSeccomp{
		"linux.seccomp.listenerPath must be set":                      notify(),
		"SCMP_ACT_NOTIFY cannot be used for the write syscall":        write,
		"linux.seccomp.listenerMetadata is set":                       metadata,
		"SCMP_ACT_NOTIFY is for single system calls":                  byDefault,
		"failed to connect with seccomp agent /no/such: no such file": withListener(notify(), "/no/such"),
		"failed to connect with seccomp agent @gantry-no-such":        withListener(notify(), "@gantry-no-such"),
		"SCMP_ACT_ALLOW has no errno":                                 errnoOf(onPersonality(specs.ActAllow), 1),
		`unknown action "SCMP_ACT_X"`:                                 onPersonality("SCMP_ACT_X"),
		`unknown flag "X"`:                                            withFlags("X"),
	} {
		for _, nnp := range []bool{false, true} {
			b := newBundle(t)
			b.spec.Process.NoNewPrivileges, b.spec.Linux.Seccomp = nnp, profile
			if _, _, err := b.lib.Create(t.Context(), "bad", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no_new_privs %v: %v, want %q", nnp, err, want)
			}
		}
	}
}

// seccompNotif and seccompNotifResp are struct seccomp_notif and seccomp_notif_resp; see seccomp_unotify(2).
type seccompNotif struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type seccompNotifResp struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// agent serves a listener socket: every call of personality(8) returns errno 123, all others go on.
type agent struct {
	path   string
	states chan specs.ContainerProcessState
	socket *net.UnixListener
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{path, make(chan specs.ContainerProcessState, 8), socket}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := socket.AcceptUnix()
			if err != nil {
				return
			}
			if err := a.take(conn); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
	return a
}

// take receives one state and its descriptor, to the connection's end.
func (a *agent) take(conn *net.UnixConn) error {
	defer conn.Close()
	var text []byte
	listener := -1
	buf, rights := make([]byte, 4096), make([]byte, 256)
	for {
		n, m, _, _, err := conn.ReadMsgUnix(buf, rights)
		if n == 0 || err != nil {
			break
		}
		text = append(text, buf[:n]...)
		messages, err := unix.ParseSocketControlMessage(rights[:m])
		if err != nil {
			return err
		}
		for i := range messages {
			fds, err := unix.ParseUnixRights(&messages[i])
			if err != nil || len(fds) != 1 || listener >= 0 {
				return fmt.Errorf("descriptors %v (%w)", fds, err)
			}
			listener = fds[0]
		}
	}
	var state specs.ContainerProcessState
	if err := json.Unmarshal(text, &state); err != nil || listener < 0 {
		return fmt.Errorf("%w, listener %d: %.100s", err, listener, text)
	}
	go answer(listener)
	a.states <- state
	return nil
}

// answer serves a filter's listener until its last process is gone.
func answer(listener int) {
	defer unix.Close(listener)
	const receive, send, goOn, wrong = 0xc0502100, 0xc0182101, 1, 123
	for {
		poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n seccompNotif
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), receive, uintptr(unsafe.Pointer(&n))); errno != 0 {
			if errno == unix.ENOENT || errno == unix.EINTR {
				continue
			}
			return
		}
		resp := seccompNotifResp{id: n.id, flags: goOn}
		if n.number == unix.SYS_PERSONALITY && n.args[0] == 8 {
			resp = seccompNotifResp{id: n.id, errno: -wrong}
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), send, uintptr(unsafe.Pointer(&resp)))
	}
}

// A flag that the kernel lacks is named.
func TestFilterFlagsOfNewerKernels(t *testing.T) {
	all := []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagWaitKillableRecv}
	if err := checkFlags(all, []string{string(all[0]), string(all[1])}); err != nil {
		t.Error(err)
	}
	if err := checkFlags(all[:1], []string{string(all[0])}); err != nil {
		t.Error(err)
	}
	if err := checkFlags(all, []string{string(all[0])}); err == nil || !strings.Contains(err.Error(), "lacks SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV") {
		t.Errorf("an older kernel: %v", err)
	}
}

// TestFilterAsksItsAgent: the agent gets the state and the listener of the first process, of a hook and of exec, and its answers
// are what the calls return; also of those that the runtime itself makes.
func TestFilterAsksItsAgent(t *testing.T) {
	for _, nnp := range []bool{false, true} {
		for _, names := range [][]string{{"personality"}, {"personality", "execve", "openat", "read", "close", "fcntl"}} {
			t.Run(fmt.Sprintf("%v/%d", nnp, len(names)), func(t *testing.T) {
				a := newAgent(t)
				b := newBundle(t, "sleep")
				b.spec.Annotations = map[string]string{"a": strings.Repeat("long ", 100000)}
				b.spec.Process.NoNewPrivileges = nnp
				b.spec.Linux.Seccomp = withListener(onPersonality(specs.ActNotify), a.path)
				b.spec.Linux.Seccomp.Syscalls[0].Names = names
				b.spec.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}
				b.setHook("startContainer", specs.Hook{Path: "/bin/probe", Args: []string{"probe", "exit", "0"}})
				c, p, r := b.start(t)
				defer r.Close()
				defer b.end(t, c, p)
				for argument, want := range map[string]string{"8": "123\n", "0": "0\n"} {
					text, _, err := b.exec(t, c, func(p *specs.Process) { p.Args = []string{"probe", "personality", argument} })
					if err != nil || text != want {
						t.Errorf("personality(%s): %q, %v; want %q", argument, text, err, want)
					}
				}
				for i, want := range []specs.ContainerState{specs.StateCreating, specs.StateCreated, specs.StateRunning, specs.StateRunning} {
					s := <-a.states
					first := s.Pid == p.Pid
					if s.Version != specs.Version || len(s.Fds) != 1 || s.Fds[0] != "seccompFd" || s.Metadata != "meta" || first != (i == 0) || s.Pid < 2 {
						t.Errorf("%d: %+.200v", i, s)
					}
					if s.State.ID != "probe" || s.State.Status != want || s.State.Pid != p.Pid || s.State.Bundle != b.dir || len(s.State.Annotations["a"]) != 500000 {
						t.Errorf("%d: state %+.200v", i, s.State)
					}
				}
			})
		}
	}
}

// TestFilterWithoutAgent: when the agent is gone calls return ENOSYS, they do not hang.
func TestFilterWithoutAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := newBundle(t, "personality", "8")
	b.spec.Linux.Seccomp = withListener(onPersonality(specs.ActNotify), path)
	c, p, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay(), Stdio: Stdio{Stdout: w}})
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	defer b.end(t, c, p)
	// Nobody has accepted the connection: the listener goes with it.
	if err := errors.Join(socket.Close(), c.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != "38\n" {
		t.Errorf("%q, %v", text, err)
	}
}
