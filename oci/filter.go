package oci

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/plainjson"
	"gantry/oci/seccomp"
	"gantry/rawfile"
	"gantry/spawn"
)

// filter compiles linux.seccomp; nil if it asks for nothing.
func (b *builder) filter() (*seccomp.Program, error) {
	profile := b.spec.Linux.Seccomp
	if profile == nil || profile.DefaultAction == "" && len(profile.Syscalls) == 0 {
		return nil, nil
	}
	if profile.ListenerMetadata != "" && profile.ListenerPath == "" {
		return nil, errors.New("config.json: linux.seccomp.listenerMetadata is set, but not linux.seccomp.listenerPath")
	}
	program, err := seccomp.Compile(profile)
	if err != nil {
		return nil, fmt.Errorf("config.json: linux.seccomp: %w", err)
	}
	if program.Notifies() && profile.ListenerPath == "" {
		return nil, errors.New("config.json: linux.seccomp.listenerPath must be set for SCMP_ACT_NOTIFY")
	}
	if program.Notifies() && len(profile.Flags) > 0 && !b.dry {
		_, supported := seccomp.Flags()
		if err := checkFlags(profile.Flags, supported); err != nil {
			return nil, err
		}
	}
	return program, nil
}

// checkFlags names a flag that the kernel lacks: WAIT_KILLABLE_RECV came with Linux 5.19, and matters with an agent only.
func checkFlags(flags []specs.LinuxSeccompFlag, supported []string) error {
	const late = specs.LinuxSeccompFlagWaitKillableRecv
	if slices.Contains(flags, late) && !slices.Contains(supported, string(late)) {
		return fmt.Errorf("config.json: linux.seccomp.flags: this kernel lacks %s: leave it out, or use Linux 5.19 or newer", late)
	}
	return nil
}

// moment is where in a plan the filter may be installed.
type moment int

const (
	withPrivilege moment = iota // before capabilities go: without no_new_privs a filter needs CAP_SYS_ADMIN
	beforeSight                 // before others in the pid namespace see the process
	beforeStart                 // as long as somebody is there to take the listener
	beforeExecve                // so that the profile need not allow the runtime's own calls
)

func (b *builder) momentOf(program *seccomp.Program) moment {
	switch {
	case !b.spec.Process.NoNewPrivileges:
		return withPrivilege
	case b.shared && b.allowsAppearing(program):
		return beforeSight
	case program.Notifies():
		return beforeStart
	}
	return beforeExecve
}

// seccomp installs the filter if this is its moment; see seccomp(2).
func (b *builder) seccomp(now moment) error {
	program, err := b.filter()
	if program == nil || err != nil || b.momentOf(program) != now {
		return err
	}
	slog.Debug(fmt.Sprintf("seccomp filter flags: %d", program.Flags))
	const setModeFilter = 1
	s := b.add("filter system calls", unix.SYS_SECCOMP, spawn.Flags(setModeFilter, "SECCOMP_SET_MODE_FILTER"), spawn.Int(int(program.Flags)), spawn.Filter(program.Filter))
	if !program.Notifies() {
		if path := b.spec.Linux.Seccomp.ListenerPath; path != "" {
			slog.Warn("linux.seccomp.listenerPath is not used: no rule has the action SCMP_ACT_NOTIFY", "listenerPath", path)
		}
		return nil
	}
	s.Result = slotListener
	const pass = "hand the filter's listener to its agent"
	if b.shared && !b.appeared { // whose process comes later
		b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "take the filter's listener", Pass: slotListener, Sync: b.takeListener})
		b.afterwards = append(b.afterwards, spawn.Step{Name: pass, Sync: b.passListener})
	} else {
		b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: pass, Pass: slotListener, Sync: func(child *spawn.Process) error {
			return errors.Join(b.takeListener(child), b.passListener(child))
		}})
	}
	b.add("close the listener", unix.SYS_CLOSE, spawn.Of(slotListener))
	return nil
}

func (b *builder) takeListener(child *spawn.Process) error {
	fd, err := unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
	if err != nil {
		return fmt.Errorf("take the listener: %w", err)
	}
	b.listener = os.NewFile(uintptr(fd), "listener")
	return nil
}

// passListener sends the new filter's listener to the agent. What the process calls from now on, the agent answers.
func (b *builder) passListener(child *spawn.Process) error {
	if b.listener == nil {
		return nil // it has not been taken, which is an error already
	}
	profile := b.spec.Linux.Seccomp
	state := b.state
	if state.Pid == 0 { // the container's first process
		state.Pid = child.Pid
	}
	text, err := plainjson.Marshal(&specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: child.Pid, Metadata: profile.ListenerMetadata, State: state,
	})
	if err == nil {
		err = sendTo(profile.ListenerPath, text, b.listener)
	}
	_ = b.listener.Close() // the agent has its own
	b.listener = nil
	return err
}

// sendTo sends a message with a descriptor over a connection of its own ("The Container Process State").
func sendTo(path string, message []byte, f *os.File) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(socket)
	if err := rawfile.Retry(func() error { return unix.Connect(socket, &unix.SockaddrUnix{Name: path}) }); err != nil {
		return fmt.Errorf("failed to connect with seccomp agent %s: %w", path, err) // as runc says it
	}
	rights := unix.UnixRights(int(f.Fd()))
	for len(message) > 0 {
		n, err := unix.SendmsgN(socket, message, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("send to the seccomp agent %s: %w", path, err)
		}
		message, rights = message[n:], nil
	}
	return nil
}
