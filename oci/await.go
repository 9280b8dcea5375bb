package oci

import (
	"fmt"
	"slices"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// endSignals are those by which somebody asks a process to end.
var endSignals = sigset(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)

// sigset is a set of signals as the kernel takes it; see rt_sigprocmask(2).
func sigset(signals ...unix.Signal) (set uint64) {
	for _, s := range signals {
		set |= 1 << (s - 1)
	}
	return set
}

// heedSignals prepares a created container to end when it is told to. The first process of a pid namespace would not: the
// kernel drops what has no handler, but not what is blocked. Where a filter of system calls that does not allow the wait is
// in force by then, only SIGKILL ends it. The descriptor is at least free.
func (b *builder) heedSignals(free int) error {
	program, err := b.filter()
	if err != nil || !b.isNew(specs.PIDNamespace) {
		return err
	}
	if program != nil && (!b.spec.Process.NoNewPrivileges || program.Notifies()) && !allowsWait(b.spec.Linux.Seccomp) {
		return nil
	}
	b.ending = &spawn.FD{Name: "signals"}
	if !b.dry {
		set := unix.Sigset_t{}
		set.Val[0] = endSignals
		num, err := unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
		if err != nil {
			return fmt.Errorf("make a descriptor for signals: %w", err)
		}
		*b.ending = b.fd(num, "signals")
		if num < free {
			if num, err = unix.FcntlInt(uintptr(num), unix.F_DUPFD_CLOEXEC, free); err != nil {
				return fmt.Errorf("move a descriptor: %w", err)
			}
			*b.ending = b.fd(num, "signals")
		}
	}
	b.signalMask("keep signals for the wait", unix.SIG_BLOCK, "SIG_BLOCK", endSignals)
	return nil
}

// allowsWait reports whether a filter lets through what awaitStart calls, whatever the arguments.
func allowsWait(profile *specs.LinuxSeccomp) bool {
	for _, call := range []string{"ppoll", "read", "rt_sigprocmask", "exit_group"} {
		allowed := profile.DefaultAction == specs.ActAllow
		for _, rule := range profile.Syscalls {
			if !slices.Contains(rule.Names, call) {
				continue
			}
			if allowed = rule.Action == specs.ActAllow && (len(rule.Args) == 0 || allowed); !allowed {
				break
			}
		}
		if !allowed {
			return false
		}
	}
	return true
}

func (b *builder) signalMask(name string, how uint64, shown string, set uint64) {
	const size = 8
	b.add(name, unix.SYS_RT_SIGPROCMASK, spawn.Flags(how, shown), spawn.Bytes(bytesOf(&set), b.show(func() string { return fmt.Sprintf("{%#x}", set) })), spawn.Nil(), spawn.Int(size))
}

// awaitStart is where create ends and start begins: the process waits for a byte in a FIFO that it holds open itself, so
// that nobody blocks on it who should not; or for a signal to end.
func (b *builder) awaitStart(fifo spawn.FD) {
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "created", Ready: true})
	if b.ending != nil {
		const signalInfo = int(unsafe.Sizeof(unix.SignalfdSiginfo{}))
		polled := []unix.PollFd{{Fd: int32(fifo.Num), Events: unix.POLLIN}, {Fd: int32(b.ending.Num), Events: unix.POLLIN}}
		b.add("wait for start, or for a signal", unix.SYS_PPOLL, spawn.Bytes(bytesOfList(polled), "{exec.fifo, signals}"), spawn.Int(len(polled)), spawn.Nil(), spawn.Nil(), spawn.Int(0))
		s := b.add("look for a signal", unix.SYS_READ, spawn.Desc(*b.ending), spawn.Bytes(make([]byte, signalInfo), "buffer"), spawn.Int(signalInfo))
		s.Ignore, s.Else = []unix.Errno{unix.EAGAIN}, 1
		b.add("end", unix.SYS_EXIT_GROUP, spawn.Int(128+int(unix.SIGTERM)))
	}
	b.add("wait for start", unix.SYS_READ, spawn.Desc(fifo), spawn.Bytes(make([]byte, 1), "buffer"), spawn.Int(1))
	if b.ending != nil {
		b.signalMask("heed signals as before", unix.SIG_UNBLOCK, "SIG_UNBLOCK", endSignals)
	}
}

// bytesOfList is the memory of structures that a system call reads, and may write.
func bytesOfList[T any](list []T) []byte {
	var out []byte
	for i := range list {
		out = append(out, bytesOf(&list[i])...)
	}
	return out
}
