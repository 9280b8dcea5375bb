// Package seccomp compiles the runtime specification's linux.seccomp into a classic BPF program, without libseccomp.
package seccomp

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate sh -c "go run ./gen > zcalls.go.tmp && mv zcalls.go.tmp zcalls.go"

// Program is a compiled filter, to be given to seccomp(2).
type Program struct {
	Filter []unix.SockFilter
	// Flags are SECCOMP_FILTER_FLAG_…; with NEW_LISTENER the call's result is the notify descriptor.
	Flags uint
}

// Notifies tells that the filter asks an agent.
func (p *Program) Notifies() bool { return p.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 }

// These bound the memory of the cache: past the number everything is forgotten and compiled anew, and longer profiles,
// which are several times the usual ones, are not kept.
const (
	maxCached  = 64
	maxContent = 64 << 10
)

var cache struct {
	sync.Mutex
	programs map[string]*Program // by the profile's content
}

// Compile compiles a profile for the architectures that it names (the native one always, then the compat ones).
// Unknown system calls are passed over, as libseccomp does; unknown actions, architectures or operators are errors.
// The same profile is compiled once: results are cached by content and must not be modified.
//
// Of several rules for a call the first that matches decides. The conditions of a rule must all hold, unless two
// name the same argument: then one is enough (runc). A call of an architecture that is not compiled kills the process.
// A call newer than every call that the profile names returns ENOSYS where the default action would refuse it, so
// that programs fall back to what they did before the call existed.
func Compile(profile *specs.LinuxSeccomp) (*Program, error) {
	if profile == nil {
		return nil, errors.New("compile a seccomp profile: there is none")
	}
	key := content(profile)
	cache.Lock()
	known := cache.programs[key]
	cache.Unlock()
	if known != nil {
		return known, nil
	}
	m, err := native()
	if err != nil {
		return nil, fmt.Errorf("compile the seccomp profile: %w", err)
	}
	program, err := compileFor(m, profile)
	if err != nil {
		return nil, fmt.Errorf("compile the seccomp profile: %w", err)
	}
	if len(key) > maxContent {
		return program, nil
	}
	cache.Lock()
	defer cache.Unlock()
	if cache.programs == nil || len(cache.programs) >= maxCached {
		cache.programs = map[string]*Program{}
	}
	cache.programs[key] = program
	return program, nil
}

// compileFor compiles for a machine that need not be this one.
func compileFor(m machine, profile *specs.LinuxSeccomp) (*Program, error) {
	p, err := parse(profile)
	if err != nil {
		return nil, err
	}
	abis, err := m.selected(profile.Architectures)
	if err != nil {
		return nil, err
	}
	flags, err := p.flags(profile.Flags)
	if err != nil {
		return nil, err
	}
	code, err := assemble(abis, p)
	if err != nil {
		return nil, err
	}
	return &Program{Filter: code, Flags: flags}, nil
}

const allArguments = 6

// condition is one comparison of a 64-bit argument.
type condition struct {
	index       uint
	op          specs.LinuxSeccompOperator
	value, mask uint64
}

// rule is an action taken if all conditions hold.
type rule struct {
	action     uint32
	conditions []condition
}

// named are the rules that one entry of a profile makes for each of its names.
type named struct {
	names []string
	rules []rule
}

// parsed is a profile without anything of a particular architecture.
type parsed struct {
	byDefault uint32
	entries   []named
	notifies  bool
}

func parse(profile *specs.LinuxSeccomp) (*parsed, error) {
	byDefault, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("default action: %w", err)
	}
	if byDefault == unix.SECCOMP_RET_USER_NOTIF {
		return nil, fmt.Errorf("default action: %s is for single system calls only", profile.DefaultAction)
	}
	p := &parsed{byDefault: byDefault, entries: make([]named, 0, len(profile.Syscalls))}
	for i, call := range profile.Syscalls {
		entry, err := p.entry(call)
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		p.entries = append(p.entries, entry)
	}
	return p, nil
}

func (p *parsed) entry(call specs.LinuxSyscall) (named, error) {
	act, err := action(call.Action, call.ErrnoRet)
	if err != nil {
		return named{}, err
	}
	if len(call.Names) == 0 || slices.Contains(call.Names, "") {
		return named{}, errors.New("a name is missing")
	}
	if act == unix.SECCOMP_RET_USER_NOTIF {
		p.notifies = true
		if slices.Contains(call.Names, "write") {
			return named{}, fmt.Errorf("%s cannot be used for the write syscall, by which the listener is handed over", call.Action)
		}
	}
	all := make([]condition, 0, len(call.Args))
	var seen [allArguments]bool
	anyOf := false
	for _, arg := range call.Args {
		c, err := compare(arg)
		if err != nil {
			return named{}, err
		}
		anyOf = anyOf || seen[c.index]
		seen[c.index] = true
		all = append(all, c)
	}
	if !anyOf {
		return named{call.Names, []rule{{act, all}}}, nil
	}
	rules := make([]rule, len(all))
	for i := range all {
		rules[i] = rule{act, all[i : i+1]}
	}
	return named{call.Names, rules}, nil
}

func compare(arg specs.LinuxSeccompArg) (condition, error) {
	if arg.Index >= allArguments {
		return condition{}, fmt.Errorf("argument %d: a system call has %d, counted from 0", arg.Index, allArguments)
	}
	c := condition{index: arg.Index, op: arg.Op, value: arg.Value, mask: ^uint64(0)}
	switch arg.Op {
	case specs.OpMaskedEqual: // the mask comes first
		c.mask, c.value = arg.Value, arg.Value&arg.ValueTwo
	case specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterEqual, specs.OpGreaterThan:
	default:
		return condition{}, fmt.Errorf("argument %d: unknown operator %q", arg.Index, arg.Op)
	}
	return c, nil
}

const (
	maxErrno = 4095 // MAX_ERRNO: the kernel cuts SECCOMP_RET_ERRNO's data to it
	maxData  = unix.SECCOMP_RET_DATA
)

// action translates an action into a filter's return value; EPERM is the errno if none is given.
func action(name specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data, bound := uint(unix.EPERM), uint(0)
	if errno != nil {
		data = *errno
	}
	var act uint32
	switch name {
	case specs.ActErrno:
		act, bound = unix.SECCOMP_RET_ERRNO, maxErrno
	case specs.ActTrace:
		act, bound = unix.SECCOMP_RET_TRACE, maxData
	case specs.ActAllow:
		act = unix.SECCOMP_RET_ALLOW
	case specs.ActKill, specs.ActKillThread:
		act = unix.SECCOMP_RET_KILL_THREAD
	case specs.ActKillProcess:
		act = unix.SECCOMP_RET_KILL_PROCESS
	case specs.ActTrap:
		act = unix.SECCOMP_RET_TRAP
	case specs.ActLog:
		act = unix.SECCOMP_RET_LOG
	case specs.ActNotify:
		act = unix.SECCOMP_RET_USER_NOTIF
	default:
		return 0, fmt.Errorf("unknown action %q", name)
	}
	switch {
	case bound == 0 && errno != nil:
		return 0, fmt.Errorf("%s has no errno", name)
	case bound == 0:
		return act, nil
	case data > bound:
		return 0, fmt.Errorf("%s: errno %d is larger than %d", name, data, bound)
	}
	return act | uint32(data), nil
}

// permits reports whether the call is made in the end: tracers answer for themselves.
func permits(action uint32) bool {
	switch action & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return true
	}
	return false
}

// flagTsync is named by profiles, not by the specification's package.
const flagTsync specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

// flags translates names. TSYNC is accepted and left out: the process that loads the filter has a single thread, and
// together with a listener it would change the call's result. WAIT_KILLABLE_RECV exists with a listener only.
func (p *parsed) flags(names []specs.LinuxSeccompFlag) (uint, error) {
	var flags uint
	if p.notifies {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	if names == nil { // as runc has it: mitigations of speculation are not for whoever has a filter
		flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for _, name := range names {
		switch name {
		case flagTsync:
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if p.notifies {
				flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
			}
		default:
			return 0, fmt.Errorf("unknown flag %q", name)
		}
	}
	return flags, nil
}
