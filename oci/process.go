package oci

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// identity makes the process who it shall be: limits, user, capabilities, directory. The order is the kernel's: what
// needs a privilege comes before it goes.
func (b *builder) identity(p *specs.Process) error {
	if err := b.checkMapped(p.User); err != nil {
		return err
	}
	b.takeLabels()
	b.closeRest()
	b.at("process.rlimits")
	if err := b.rlimits(p.Rlimits); err != nil {
		return err
	}
	b.at("")
	if err := b.scheduling(p); err != nil {
		return err
	}
	caps := parseCapabilities(p.Capabilities)
	if p.NoNewPrivileges {
		b.add("give up new privileges", unix.SYS_PRCTL, spawn.Flags(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), spawn.Int(1), spawn.Int(0), spawn.Int(0), spawn.Int(0))
	}
	umask := 0o022
	if p.User.Umask != nil {
		umask = int(*p.User.Umask)
	}
	b.add(fmt.Sprintf("set umask %#o", umask), unix.SYS_UMASK, spawn.Flags(uint64(umask), fmt.Sprintf("%#o", umask)))
	b.boundingSet(caps)
	b.at("process.user")
	b.user(p.User)
	b.at("")
	b.stayVisible()
	late := b.shared && isInProc(p.Cwd)
	if !late {
		b.enterDirectory(p.Cwd)
	}
	if err := b.confineAndAppear(caps); err != nil {
		return err
	}
	if late {
		b.enterDirectory(p.Cwd)
	}
	return nil
}

// makeDirectory makes the working directory, which an image need not have, as far as that is possible. It comes before
// the root, and what config.json mounts, become read-only.
func (b *builder) makeDirectory(cwd string) {
	parts := strings.FieldsFunc(cwd, func(r rune) bool { return r == '/' })
	b.add("look for "+cwd, unix.SYS_FACCESSAT, spawn.Int(unix.AT_FDCWD), spawn.Str(cwd), spawn.Int(unix.F_OK))
	look := &b.plan.Steps[len(b.plan.Steps)-1]
	look.Skip, look.Ignore = 3*len(parts), []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP}
	above := "/"
	for _, part := range parts {
		b.resolve("open directory "+above, above, unix.O_PATH|unix.O_DIRECTORY).Ignore = []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP}
		// After a directory that could not be opened, the slot has a closed descriptor.
		b.add("make directory "+filepath.Join(above, part), unix.SYS_MKDIRAT, spawn.Of(slotScratch), spawn.Str(part), spawn.Flags(0o755, "0755")).
			Ignore = []unix.Errno{unix.EEXIST, unix.EROFS, unix.ENOENT, unix.EACCES, unix.EPERM, unix.EBADF}
		b.add("close "+above, unix.SYS_CLOSE, spawn.Of(slotScratch)).Ignore = []unix.Errno{unix.EBADF}
		above = above + "/" + part
	}
}

// enterDirectory is done as the user, who alone may reach a directory of another machine, with capabilities, which
// may reach one that is closed to the user.
func (b *builder) enterDirectory(cwd string) {
	b.resolve(fmt.Sprintf("chdir to cwd (%q) set in config.json failed", cwd), cwd, unix.O_PATH|unix.O_DIRECTORY)
	b.add("go to "+cwd, unix.SYS_FCHDIR, spawn.Of(slotScratch))
	b.release(cwd)
}

// validateUser refuses the one number that is none: the kernel takes it for "as it is", which is root.
func validateUser(u specs.User) error {
	const none = math.MaxUint32
	switch {
	case u.UID == none:
		return fmt.Errorf("config.json: process.user.uid %d is not a user", u.UID)
	case u.GID == none:
		return fmt.Errorf("config.json: process.user.gid %d is not a group", u.GID)
	case slices.Contains(u.AdditionalGids, none):
		return fmt.Errorf("config.json: process.user.additionalGids: %d is not a group", uint32(none))
	}
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
	if uid != 0 {
		kept := b.keptCapabilities()
		b.setCapabilities("raise the kept capabilities", &capabilitySets{effective: kept, permitted: kept}, capabilityText(kept))
	}
}

// capabilitySets are bit masks by capability number.
type capabilitySets struct{ bounding, effective, permitted, inheritable, ambient uint64 }

// parseCapabilities warns of names that this kernel has not: as everywhere, they are passed over.
func parseCapabilities(c *specs.LinuxCapabilities) *capabilitySets {
	if c == nil {
		c = &specs.LinuxCapabilities{}
	}
	s := &capabilitySets{}
	var unknown []string
	for _, set := range []struct {
		names []string
		mask  *uint64
	}{{c.Bounding, &s.bounding}, {c.Effective, &s.effective}, {c.Permitted, &s.permitted}, {c.Inheritable, &s.inheritable}, {c.Ambient, &s.ambient}} {
		for _, name := range set.names {
			i := slices.Index(capabilityNames, name)
			if i < 0 || i > lastCapability() {
				unknown = append(unknown, name)
				continue
			}
			*set.mask |= 1 << i
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		slog.Warn("ignoring unknown or unavailable capabilities", "names", slices.Compact(unknown))
	}
	if lost := s.ambient &^ (s.permitted & s.inheritable); lost != 0 {
		warn("can't raise ambient capability " + capabilityText(lost) + ": not both permitted and inheritable")
	}
	return s
}

// warn is slog.Warn without a look for the caller's place in the source, which nobody shows.
func warn(message string) {
	if h := slog.Default().Handler(); h.Enabled(context.Background(), slog.LevelWarn) {
		_ = h.Handle(context.Background(), slog.NewRecord(time.Now(), slog.LevelWarn, message, 0)) // as slog.Warn
	}
}

// boundingSet drops what the process and its children shall never get.
func (b *builder) boundingSet(s *capabilitySets) {
	names := make([]byte, 0, 2048) // all in one: they are many
	var ends [64]int
	for i, name := range Capabilities() {
		names = append(append(append(names, "drop "...), name...), " for good"...)
		ends[i+1] = len(names)
	}
	text := string(names)
	for i := range Capabilities() {
		if s.bounding&(1<<i) == 0 {
			b.add(text[ends[i]:ends[i+1]], unix.SYS_PRCTL, spawn.Flags(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), spawn.Flags(uint64(i), capabilityNames[i]))
		}
	}
}

// keptCapabilities are those that the process has until they are set: this program's, or all of a user namespace.
func (b *builder) keptCapabilities() uint64 {
	if b.inUserNamespace() {
		return ^(^uint64(0) << (lastCapability() + 1))
	}
	return ownCapabilities()
}

var ownCapabilities = sync.OnceValue(func() uint64 {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return 0
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
})

func (b *builder) setCapabilities(name string, s *capabilitySets, text string) {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{}
	for half := range data {
		shift := 32 * half
		data[half] = unix.CapUserData{Effective: uint32(s.effective >> shift), Permitted: uint32(s.permitted >> shift), Inheritable: uint32(s.inheritable >> shift)}
	}
	b.add(name, unix.SYS_CAPSET, spawn.Bytes(bytesOf(header), "{v3}"), spawn.Bytes(bytesOf(data), "{"+text+"}"))
}

func (b *builder) capabilities(s *capabilitySets) {
	b.setCapabilities("set capabilities", s, capabilityText(s.effective))
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
			return fmt.Errorf("config.json: process.rlimits: unknown rlimit %q", r.Type)
		case seen[r.Type]:
			return fmt.Errorf("config.json: process.rlimits: %s is set twice", r.Type)
		case r.Soft > r.Hard:
			return fmt.Errorf("config.json: process.rlimits: %s: soft limit %s is above the hard limit %s", r.Type, amount(r.Soft), amount(r.Hard))
		}
		seen[r.Type] = true
		name, limit := fmt.Sprintf("limit %s to %s, %s", r.Type, amount(r.Soft), amount(r.Hard)), &unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		if b.inUserNamespace() { // its root may not raise limits
			b.byParent(name, func(child *spawn.Process) error { return unix.Prlimit(child.Pid, number, limit, nil) })
			continue
		}
		b.add(name, unix.SYS_PRLIMIT64, spawn.Int(0), spawn.Flags(uint64(number), r.Type),
			spawn.Bytes(bytesOf(limit), fmt.Sprintf("{%s, %s}", amount(r.Soft), amount(r.Hard))), spawn.Nil())
	}
	return nil
}

// byParent adds a step that the runtime makes for the process, with rights that the process has not.
func (b *builder) byParent(name string, f func(child *spawn.Process) error) {
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: name, Sync: f})
}

func amount(n uint64) string {
	if n == math.MaxUint64 {
		return "unlimited"
	}
	return fmt.Sprint(n)
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
		s := check(fmt.Sprintf("exec: %q", list[0]), list[0])
		if p.User.UID != 0 && p.Capabilities != nil && slices.Contains(p.Capabilities.Effective, "CAP_DAC_OVERRIDE") {
			s.Ignore = []unix.Errno{unix.EACCES} // access(2) leaves the capability out of account
		}
		b.refuseDirectory(list[0])
		return nil
	}
	for i, path := range list {
		s := check("look for "+path, path)
		s.Ignore, s.Skip = []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP}, len(list)-i
	}
	b.fail(fmt.Sprintf("exec: %q: executable file not found in $PATH", p.Args[0]))
	return nil
}

// refuseDirectory fails as execve would, which gives EACCES for a directory.
func (b *builder) refuseDirectory(path string) {
	s := b.add("is "+path+" a directory", unix.SYS_FACCESSAT, spawn.Int(unix.AT_FDCWD), spawn.Str(strings.TrimSuffix(path, "/")+"/."), spawn.Int(unix.F_OK))
	s.Skip, s.Ignore = 1, []unix.Errno{unix.ENOTDIR, unix.ENOENT, unix.EACCES, unix.ELOOP}
	b.add("no: go on", unix.SYS_GETPID).Skip = 1
	b.add(fmt.Sprintf("exec: %q: is a directory", path), unix.SYS_EXECVE, spawn.Str(path), spawn.Nil(), spawn.Nil())
}

// execute replaces the process by the program.
func (b *builder) execute(p *specs.Process) error {
	if err := b.seccomp(beforeExecve); err != nil {
		return err
	}
	argv, env := spawn.Strs(p.Args), spawn.Strs(p.Env)
	list := b.candidates(p)
	for i, path := range list {
		s := b.add("exec "+path, unix.SYS_EXECVE, spawn.Str(path), argv, env)
		s.Exit, s.Complain = exitNotExecuted, true
		if i < len(list)-1 {
			s.Ignore = []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP}
		}
	}
	return nil
}

// exitNotExecuted is runc's exit status for a program that was there, and could not be executed all the same.
const exitNotExecuted = 1
