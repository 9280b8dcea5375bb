package oci

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/seccomp"
	"gantry/spawn"
)

// identity makes the process who it shall be: limits, user, capabilities, directory. The order is the kernel's: what
// needs a privilege comes before it goes.
func (b *builder) identity(p *specs.Process) error {
	if err := b.rlimits(p.Rlimits); err != nil {
		return err
	}
	if err := b.ioPriority(p.IOPriority); err != nil {
		return err
	}
	if p.Scheduler != nil || p.ExecCPUAffinity != nil {
		return fmt.Errorf("config.json: process.scheduler and process.execCPUAffinity are not supported")
	}
	caps, err := parseCapabilities(p.Capabilities)
	if err != nil {
		return err
	}
	if p.NoNewPrivileges {
		b.add("give up new privileges", unix.SYS_PRCTL, spawn.Flags(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), spawn.Int(1), spawn.Int(0), spawn.Int(0), spawn.Int(0))
	} else if err := b.seccomp(p); err != nil { // without no_new_privs a filter needs CAP_SYS_ADMIN
		return err
	}
	umask := 0o022
	if p.User.Umask != nil {
		umask = int(*p.User.Umask)
	}
	b.add(fmt.Sprintf("set umask %#o", umask), unix.SYS_UMASK, spawn.Flags(uint64(umask), fmt.Sprintf("%#o", umask)))
	b.boundingSet(caps)
	b.user(p.User)
	b.capabilities(caps)
	b.resolve("open directory "+p.Cwd, p.Cwd, unix.O_PATH|unix.O_DIRECTORY)
	b.add("go to "+p.Cwd, unix.SYS_FCHDIR, spawn.Of(slotScratch))
	b.release(p.Cwd)
	return nil
}

// user changes to the user, keeping capabilities until they are set.
func (b *builder) user(u specs.User) {
	b.add("keep capabilities over the change of user", unix.SYS_PRCTL, spawn.Flags(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), spawn.Int(1), spawn.Int(0), spawn.Int(0), spawn.Int(0))
	groups := u.AdditionalGids
	step := b.add(fmt.Sprintf("set groups %v", groups), unix.SYS_SETGROUPS, spawn.Int(len(groups)), spawn.Bytes(words(groups), fmt.Sprint(groups)))
	if len(groups) == 0 { // a user namespace may have denied setgroups
		step.Ignore = []unix.Errno{unix.EPERM}
	}
	uid, gid := int(u.UID), int(u.GID)
	b.add(fmt.Sprintf("become group %d", gid), unix.SYS_SETRESGID, spawn.Int(gid), spawn.Int(gid), spawn.Int(gid))
	b.add(fmt.Sprintf("become user %d", uid), unix.SYS_SETRESUID, spawn.Int(uid), spawn.Int(uid), spawn.Int(uid))
	b.add("keep capabilities no longer", unix.SYS_PRCTL, spawn.Flags(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), spawn.Int(0), spawn.Int(0), spawn.Int(0), spawn.Int(0))
}

// capabilitySets are bit masks by capability number.
type capabilitySets struct{ bounding, effective, permitted, inheritable, ambient uint64 }

func parseCapabilities(c *specs.LinuxCapabilities) (*capabilitySets, error) {
	if c == nil {
		c = &specs.LinuxCapabilities{}
	}
	s := &capabilitySets{}
	for _, set := range []struct {
		names []string
		mask  *uint64
	}{{c.Bounding, &s.bounding}, {c.Effective, &s.effective}, {c.Permitted, &s.permitted}, {c.Inheritable, &s.inheritable}, {c.Ambient, &s.ambient}} {
		for _, name := range set.names {
			i := slices.Index(capabilityNames, name)
			if i < 0 {
				return nil, fmt.Errorf("config.json: unknown capability %q", name)
			}
			*set.mask |= 1 << i
		}
	}
	known := ^(^uint64(0) << (lastCapability() + 1))
	for _, mask := range []*uint64{&s.bounding, &s.effective, &s.permitted, &s.inheritable, &s.ambient} {
		*mask &= known
	}
	return s, nil
}

// boundingSet drops what the process and its children shall never get.
func (b *builder) boundingSet(s *capabilitySets) {
	for i := range lastCapability() + 1 {
		if s.bounding&(1<<i) == 0 {
			b.add("drop "+capabilityNames[i]+" for good", unix.SYS_PRCTL, spawn.Flags(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), spawn.Flags(uint64(i), capabilityNames[i]), spawn.Int(0), spawn.Int(0), spawn.Int(0))
		}
	}
}

func (b *builder) capabilities(s *capabilitySets) {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{}
	for half := range data {
		shift := 32 * half
		data[half] = unix.CapUserData{Effective: uint32(s.effective >> shift), Permitted: uint32(s.permitted >> shift), Inheritable: uint32(s.inheritable >> shift)}
	}
	b.add("set capabilities", unix.SYS_CAPSET, spawn.Bytes(bytesOf(header), "{v3}"), spawn.Bytes(bytesOf(data), "{"+capabilityText(s.effective)+"}"))
	b.add("clear ambient capabilities", unix.SYS_PRCTL, spawn.Flags(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), spawn.Flags(unix.PR_CAP_AMBIENT_CLEAR_ALL, "PR_CAP_AMBIENT_CLEAR_ALL"), spawn.Int(0), spawn.Int(0), spawn.Int(0))
	for i, name := range capabilityNames {
		if s.ambient&(1<<i) != 0 {
			b.add("raise ambient "+name, unix.SYS_PRCTL, spawn.Flags(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), spawn.Flags(unix.PR_CAP_AMBIENT_RAISE, "PR_CAP_AMBIENT_RAISE"), spawn.Flags(uint64(i), name), spawn.Int(0), spawn.Int(0)).
				Ignore = []unix.Errno{unix.EPERM}
		}
	}
}

func capabilityText(mask uint64) string {
	var names []string
	for i, name := range capabilityNames {
		if mask&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// resources are the names of rlimits; see getrlimit(2).
var rlimitNumbers = map[string]int{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5, "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7,
	"RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10, "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

func (b *builder) rlimits(list []specs.POSIXRlimit) error {
	seen := map[string]bool{}
	for _, r := range list {
		number, known := rlimitNumbers[r.Type]
		switch {
		case !known:
			return fmt.Errorf("config.json: unknown rlimit %q", r.Type)
		case seen[r.Type]:
			return fmt.Errorf("config.json: rlimit %s is set twice", r.Type)
		}
		seen[r.Type] = true
		limit := &unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		b.add(fmt.Sprintf("limit %s to %s, %s", r.Type, amount(r.Soft), amount(r.Hard)), unix.SYS_PRLIMIT64, spawn.Int(0), spawn.Flags(uint64(number), r.Type),
			spawn.Bytes(bytesOf(limit), fmt.Sprintf("{%s, %s}", amount(r.Soft), amount(r.Hard))), spawn.Nil())
	}
	return nil
}

func amount(n uint64) string {
	if n == math.MaxUint64 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// ioPriority: see ioprio_set(2).
func (b *builder) ioPriority(p *specs.LinuxIOPriority) error {
	if p == nil {
		return nil
	}
	class, known := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[p.Class]
	if !known || p.Priority < 0 || p.Priority > 7 {
		return fmt.Errorf("config.json: process.ioPriority: class %q and priority %d; want a known class and 0 to 7", p.Class, p.Priority)
	}
	const thisProcess, classShift = 1, 13
	b.add("set the I/O priority", unix.SYS_IOPRIO_SET, spawn.Int(thisProcess), spawn.Int(0), spawn.Int(class<<classShift|p.Priority))
	return nil
}

// seccomp installs the filter; see seccomp(2).
func (b *builder) seccomp(p *specs.Process) error {
	profile := b.spec.Linux.Seccomp
	if profile == nil {
		return nil
	}
	if profile.ListenerPath != "" {
		return fmt.Errorf("config.json: linux.seccomp.listenerPath: notifying an agent is not supported")
	}
	program, err := seccomp.Compile(profile)
	if err != nil {
		return fmt.Errorf("config.json: linux.seccomp: %w", err)
	}
	const setModeFilter = 1
	b.add("filter system calls", unix.SYS_SECCOMP, spawn.Flags(setModeFilter, "SECCOMP_SET_MODE_FILTER"), spawn.Int(int(program.Flags)), spawn.Filter(program.Filter))
	return nil
}

// candidates are the paths that a program's name may stand for: itself, or in each directory of PATH.
func (b *builder) candidates(p *specs.Process) []string {
	name := p.Args[0]
	if b.program != "" {
		name = b.program
	}
	if strings.Contains(name, "/") {
		return []string{name}
	}
	list := []string{}
	for _, entry := range p.Env {
		path, found := strings.CutPrefix(entry, "PATH=")
		if !found {
			continue
		}
		list = list[:0] // the last PATH counts
		for dir := range strings.SplitSeq(path, ":") {
			if dir == "" {
				dir = "."
			}
			list = append(list, filepath.Join(dir, name))
		}
	}
	return list
}

// checkProgram fails, before create returns, if the program is not there or may not be executed.
func (b *builder) checkProgram(p *specs.Process) error {
	list := b.candidates(p)
	check := func(name, path string) *spawn.Step {
		// Not faccessat2: profiles of old do not allow it, and real and effective ids are the same here.
		return b.add(name, unix.SYS_FACCESSAT, spawn.Int(unix.AT_FDCWD), spawn.Str(path), spawn.Flags(unix.X_OK, "X_OK"))
	}
	if b.program != "" || strings.Contains(p.Args[0], "/") {
		check(fmt.Sprintf("exec: %q", list[0]), list[0])
		return nil
	}
	for i, path := range list {
		s := check("look for "+path, path)
		s.Ignore, s.Skip = []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP}, len(list)-i
	}
	b.fail(fmt.Sprintf("exec: %q: executable file not found in $PATH", p.Args[0]))
	return nil
}

// execute replaces the process by the program. With no_new_privs the filter comes last, so that it need not allow our own steps.
func (b *builder) execute(p *specs.Process) error {
	if p.NoNewPrivileges {
		if err := b.seccomp(p); err != nil {
			return err
		}
	}
	argv, env := spawn.Strs(p.Args), spawn.Strs(p.Env)
	list := b.candidates(p)
	for i, path := range list {
		s := b.add(fmt.Sprintf("exec: %q", path), unix.SYS_EXECVE, spawn.Str(path), argv, env)
		s.Exit = exitNotExecutable
		if i < len(list)-1 {
			s.Ignore = []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP}
		} else if len(list) > 1 {
			s.Exit = exitNotFound
		}
	}
	return nil
}

// What a shell returns for a program that cannot be executed, or is not there.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)
