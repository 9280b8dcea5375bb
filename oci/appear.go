package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/seccomp"
	"gantry/spawn"
)

// A process that comes into a pid namespace in which others are is seen by them, and one of them that has CAP_SYS_PTRACE
// does with it what it likes: reads files by /proc/PID/root, takes descriptors, joins namespaces by /proc/PID/ns, writes to
// its memory. So the process that a plan makes does all else first, outside of that namespace, as the container's own:
// namespaces, root, descriptors, user, capabilities, filter. Only then it makes its successor inside, which has nothing left
// to do but to execute the program. See docs/decisions/013.

// joinPIDs makes a pid namespace, given by a descriptor of it or by a process's, that of the process's children.
func (b *builder) joinPIDs(pids spawn.FD) {
	b.add("join pid namespace "+pids.Name+", for the successor", unix.SYS_SETNS, spawn.Desc(pids), spawn.Flags(unix.CLONE_NEWPID, "CLONE_NEWPID"))
}

// keep notes the descriptors that a created container keeps while it waits, and hides a user's process: from here on,
// nothing is taken out of it.
func (b *builder) keep(fifo spawn.FD, preserve []*os.File) {
	if os.Geteuid() != 0 && !b.visible {
		b.hide()
	}
	b.keepPreserved(preserve)
	b.kept = append(b.kept, fifo)
	if b.ending != nil {
		b.kept = append(b.kept, *b.ending)
	}
}

// keepPreserved notes the descriptors that the caller passes on.
func (b *builder) keepPreserved(list []*os.File) {
	const first = 3
	for i, f := range list {
		if f != nil {
			b.kept = append(b.kept, spawn.FD{Num: first + i, Name: fmt.Sprint(first + i)})
		}
	}
}

// closeRest closes what the plan borrowed of the host, mounts and namespaces, which a created container would hold for as
// long as it waits, and others would find in a process that they see.
func (b *builder) closeRest() {
	only := b.kept
	if only == nil {
		only = []spawn.FD{}
	}
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "close what is the host's", Only: only})
}

// confineAndAppear gives up the rights that the container has not, and lets the process appear in a pid namespace in which
// others are. Where the filter refuses what that takes, it can come only then.
func (b *builder) confineAndAppear(caps *capabilitySets) error {
	program, err := b.filter()
	if err != nil {
		return err
	}
	if b.shared && program != nil && b.momentOf(program) == withPrivilege && !b.allowsAppearing(program) {
		if err := b.appear(); err != nil {
			return err
		}
	}
	if err := b.seccomp(withPrivilege); err != nil {
		return err
	}
	b.capabilities(caps)
	if err := b.seccomp(beforeSight); err != nil {
		return err
	}
	if b.shared && !b.appeared {
		return b.appear()
	}
	return nil
}

func (b *builder) succeed() {
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "make the process in the pid namespace", Succeed: true})
}

// appear makes the successor. It has its predecessor's attributes but for some, which it begins with anew.
func (b *builder) appear() error {
	p := b.spec.Process
	b.appeared = true
	limit, lifted := processLimit(p.Rlimits), false
	if limit != nil { // the two are more processes of the user than the program will be
		none := &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		b.byParent("lift RLIMIT_NPROC for the successor", func(child *spawn.Process) error {
			err := unix.Prlimit(child.Pid, unix.RLIMIT_NPROC, none, nil)
			lifted = err == nil
			if errors.Is(err, unix.EPERM) { // without CAP_SYS_RESOURCE; the limit may be enough
				err = nil
			}
			return err
		})
	}
	b.succeed()
	if p.Terminal {
		b.controlTerminal()
	} else {
		b.beginSession()
	}
	if limit != nil {
		b.at("process.rlimits")
		b.byParent(fmt.Sprintf("limit RLIMIT_NPROC to %s, %s", amount(limit.Cur), amount(limit.Max)), func(child *spawn.Process) error {
			if !lifted {
				return nil
			}
			return unix.Prlimit(child.Pid, unix.RLIMIT_NPROC, limit, nil)
		})
		b.at("")
	}
	b.plan.Steps = append(b.plan.Steps, b.afterwards...)
	return b.scheduler(p.Scheduler)
}

// processLimit is RLIMIT_NPROC; nil if it is not set.
func processLimit(list []specs.POSIXRlimit) *unix.Rlimit {
	for _, r := range list {
		if r.Type == "RLIMIT_NPROC" {
			return &unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		}
	}
	return nil
}

// allowsAppearing reports whether a filter lets through what is called from where it is installed to the execve.
func (b *builder) allowsAppearing(program *seccomp.Program) bool {
	calls := []struct {
		number uintptr
		args   []uint64
	}{
		{unix.SYS_CLONE, []uint64{unix.CLONE_PARENT}},
		{unix.SYS_READ, nil},
		{unix.SYS_WRITE, nil},
		{unix.SYS_CLOSE, nil},
		{unix.SYS_PPOLL, nil},
		{unix.SYS_SETSID, nil},
		{unix.SYS_IOCTL, []uint64{0, unix.TIOCSCTTY}},
		{unix.SYS_FACCESSAT, nil},
		{unix.SYS_GETPID, nil},
		{unix.SYS_OPENAT2, nil},
		{unix.SYS_FCHDIR, nil},
		{unix.SYS_EXECVE, nil},
		{unix.SYS_EXIT_GROUP, nil},
	}
	for _, c := range calls {
		if !program.Allows(c.number, c.args...) {
			return false
		}
	}
	return true
}

// isInProc tells a path that means something else to a process which is not in the container's pid namespace.
func isInProc(path string) bool {
	path = filepath.Clean("/" + path)
	return path == "/proc" || strings.HasPrefix(path, "/proc/")
}
