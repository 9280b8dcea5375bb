package oci

import (
	"errors"
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/seccomp"
	"gantry/spawn"
)

// procOfOthers mounts the proc file system of a pid namespace that the process does not become a part of until the end. The
// parent makes it.
func (b *builder) procOfOthers(m specs.Mount, o mountOptions) error {
	fd := spawn.FD{Name: "proc"}
	if !b.dry {
		options := o.data
		if m.Source != "" { // what mountinfo shows
			options = append([]string{"source=" + m.Source}, options...)
		}
		num, err := b.makeProc(b.joined[specs.PIDNamespace], options)
		if err != nil {
			return fmt.Errorf("mount proc on %s: %w", m.Destination, err)
		}
		fd = b.fd(num, "proc")
		if err := b.bindAttributes(num, m, o); err != nil {
			return fmt.Errorf("mount proc on %s: %w", m.Destination, err)
		}
	}
	b.target(m.Destination, true, unix.RESOLVE_NO_SYMLINKS)
	b.moveMount("mount proc on "+m.Destination, spawn.Desc(fd), spawn.Of(slotScratch))
	b.release(m.Destination)
	return nil
}

// makeProc makes a detached proc file system of a pid namespace.
func (b *builder) makeProc(pids spawn.FD, options []string) (int, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	if err := setPIDNamespace(fs, pids.Num); errors.Is(err, unix.EINVAL) { // a kernel before 6.17
		_ = unix.Close(fs)
		fs, err = b.procFromInside(pids)
		if err != nil {
			return -1, err
		}
	} else if err != nil {
		_ = unix.Close(fs)
		return -1, fmt.Errorf("take pid namespace %s: %w", pids.Name, err)
	}
	defer unix.Close(fs)
	for _, option := range options {
		key, value, hasValue := strings.Cut(option, "=")
		if hasValue {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s: %w", option, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("create: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return fd, nil
}

var setPIDNamespace = func(fs, pids int) error { return unix.FsconfigSetFd(fs, "pidns", pids) }

// procFromInside has a process of the pid namespace open the file system's context. Others see the process, and one with
// CAP_SYS_PTRACE can take it over: it is in namespaces of its own, whose only file system is empty, and a filter lets it do
// nothing but what it is there for.
func (b *builder) procFromInside(pids spawn.FD) (context int, err error) {
	filter, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActKillProcess, Syscalls: []specs.LinuxSyscall{{
		Names: []string{"clone", "fsopen", "read", "write", "ppoll", "exit_group"}, Action: specs.ActAllow,
	}}})
	if err != nil {
		return -1, err
	}
	h := &builder{id: b.id, spec: b.spec, shared: true}
	h.plan.Namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if err := h.joinCgroup(b.entry); err != nil {
		return -1, err
	}
	h.add("make a cgroup namespace", unix.SYS_UNSHARE, spawn.Flags(unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"))
	h.hide()
	h.joinPIDs(pids)
	h.add("keep mounts from spreading", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("/"), spawn.Nil(), spawn.Flags(unix.MS_PRIVATE|unix.MS_REC, "MS_PRIVATE|MS_REC"), spawn.Nil())
	point := attachPoint()
	h.mountOn(point, "mount an empty file system", "tmpfs", "tmpfs", unix.MS_RDONLY, []string{"MS_RDONLY"}, "")
	h.add("go there", unix.SYS_CHDIR, spawn.Str(point))
	h.add("make it the root", unix.SYS_PIVOT_ROOT, spawn.Str("."), spawn.Str("."))
	h.add("let go of the old root", unix.SYS_UMOUNT2, spawn.Str("."), spawn.Flags(unix.MNT_DETACH, "MNT_DETACH"))
	h.add("go to /", unix.SYS_CHDIR, spawn.Str("/"))
	for fd := range 3 {
		h.add("close a stream", unix.SYS_CLOSE, spawn.Int(fd)).Ignore = []unix.Errno{unix.EBADF}
	}
	h.closeRest()
	h.add("filter system calls", unix.SYS_SECCOMP, spawn.Int(1), spawn.Int(0), spawn.Filter(filter.Filter))
	h.succeed()
	h.add("open the context of a proc file system", unix.SYS_FSOPEN, spawn.Str("proc"), spawn.Flags(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).Result = slotScratch
	h.plan.Steps = append(h.plan.Steps, spawn.Step{Name: "hand it over", Pass: slotScratch, Sync: func(child *spawn.Process) (err error) {
		context, err = unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		return err
	}})
	if err := runHelper(&h.plan); err != nil {
		return -1, fmt.Errorf("in pid namespace %s: %w", pids.Name, err)
	}
	return context, nil
}
