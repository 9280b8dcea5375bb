package oci

import (
	"errors"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// mountHolder is a process that does nothing but hold the container's user namespace, and a mount namespace that belongs
// to it. A user has no right to copy mounts; processes that join the two have, and hand the copies over.
type mountHolder struct {
	process *spawn.Process
	gate    *os.File // whose end ends the process, also if this program is killed
}

// holdUserNamespace makes the container's new user namespace ahead, if this program is a user's: the container joins it.
// One that is there is held too, with another mount namespace of it.
func (b *builder) holdUserNamespace() error {
	if _, listed := b.has(specs.UserNamespace); os.Geteuid() == 0 || !listed {
		return nil
	}
	gate, wait, err := newGate()
	if err != nil {
		return err
	}
	defer func() { _ = wait.Close() }()
	holder := &builder{spec: b.spec}
	defer holder.close()
	if err := holder.enterUserNamespace(); err != nil {
		return errors.Join(err, gate.Close())
	}
	holder.plan.Steps = append(holder.plan.Steps, spawn.Step{Name: "begin", Ready: true})
	holder.addWait(wait)
	process, err := spawn.Start(&holder.plan)
	if err != nil {
		return errors.Join(fmt.Errorf("make the user namespace: %w", holder.blame(err)), gate.Close())
	}
	b.mounter = &mountHolder{process: process, gate: gate}
	b.visible = b.isNew(specs.PIDNamespace)
	b.spec = joining(b.spec, fmt.Sprintf("/proc/%d/ns/user", process.Pid))
	return nil
}

// enterUserNamespace makes the container's user namespace, or joins it, and makes a mount namespace of it.
func (b *builder) enterUserNamespace() error {
	ns, _ := b.has(specs.UserNamespace)
	if ns.Path == "" {
		b.plan.Namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
		return b.mapIDs()
	}
	joined, err := b.openNamespaces()
	if err != nil {
		return err
	}
	fd := joined[specs.UserNamespace]
	if err := b.checkMaps(fd); err != nil {
		return err
	}
	b.at("linux.namespaces")
	b.add("join user namespace "+fd.Name, unix.SYS_SETNS, spawn.Desc(fd), spawn.Flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	b.becomeRoot()
	b.at("")
	b.add("make a mount namespace", unix.SYS_UNSHARE, spawn.Flags(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	return nil
}

// joining is the configuration with a user namespace that is there.
func joining(spec *specs.Spec, path string) *specs.Spec {
	out, linux := *spec, *spec.Linux
	linux.Namespaces = slices.Clone(linux.Namespaces)
	for i := range linux.Namespaces {
		if linux.Namespaces[i].Type == specs.UserNamespace {
			linux.Namespaces[i].Path = path
		}
	}
	out.Linux = &linux
	return &out
}

// newGate is a pipe: who reads from it waits until the gate is closed.
func newGate() (gate, wait *os.File, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	return os.NewFile(uintptr(pipe[1]), "gate"), os.NewFile(uintptr(pipe[0]), "gate"), nil
}

// addWait lets the process do nothing until the gate is closed, and end.
func (b *builder) addWait(wait *os.File) {
	b.add("wait", unix.SYS_READ, spawn.Desc(spawn.FD{Num: int(wait.Fd()), Name: "gate"}), spawn.Bytes(make([]byte, 1), "buffer"), spawn.Int(1))
	b.add("end", unix.SYS_EXIT_GROUP, spawn.Int(0))
}

// end lets the process go. What was made by its leave stays.
func (h *mountHolder) end() error {
	return endHeld(h.process, h.gate)
}

// endHeld opens the gate of a process that waits at it.
func endHeld(process *spawn.Process, gate *os.File) error {
	err := errors.Join(gate.Close(), unix.PidfdSendSignal(int(process.Pidfd.Fd()), unix.SIGKILL, nil, 0))
	_, waitErr := process.Wait()
	return errors.Join(err, waitErr, process.Close(), process.CloseStatus())
}

// inside begins a plan in the two namespaces.
func (h *mountHolder) inside() *spawn.Plan {
	p := &spawn.Plan{}
	fd := spawn.FD{Num: int(h.process.Pidfd.Fd()), Name: "the holder"}
	p.Add("join the namespaces of the holder", unix.SYS_SETNS, spawn.Desc(fd), spawn.Flags(unix.CLONE_NEWUSER|unix.CLONE_NEWNS, "CLONE_NEWUSER|CLONE_NEWNS"))
	return p
}

// cloneTree is the function of the same name, inside.
func (h *mountHolder) cloneTree(path string, flags uint) (num int, err error) {
	p := h.inside()
	p.Add("clone the mount of "+path, unix.SYS_OPEN_TREE, spawn.Int(unix.AT_FDCWD), spawn.Str(path), spawn.Int(int(flags))).Result = slotTree
	p.Steps = append(p.Steps, spawn.Step{Name: "hand it over", Pass: slotTree, Sync: func(child *spawn.Process) (err error) {
		num, err = unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		return err
	}})
	var failed *spawn.StepError
	if err := runHelper(p); errors.As(err, &failed) {
		return -1, failed.Err // the caller names the path
	} else if err != nil {
		return -1, err
	}
	return num, nil
}

// setAttributes is the function of the same name, inside.
func (h *mountHolder) setAttributes(fd int, flags uint, attr *unix.MountAttr) error {
	p := h.inside()
	mount := spawn.FD{Num: fd, Name: "the copy"}
	p.Add("set attributes", unix.SYS_MOUNT_SETATTR, spawn.Desc(mount), spawn.Str(""), spawn.Int(int(flags)), spawn.Bytes(bytesOf(attr), ""), spawn.Int(unix.MOUNT_ATTR_SIZE_VER0))
	return runHelper(p)
}
