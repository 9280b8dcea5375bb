package seccomp

import (
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Actions are those that a profile may name.
func Actions() []string {
	return texts([]specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActLog, specs.ActNotify, specs.ActTrace, specs.ActTrap,
	})
}

// Operators are those by which a profile may compare arguments.
func Operators() []string {
	return texts([]specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan, specs.OpMaskedEqual, specs.OpNotEqual,
	})
}

// Architectures are those that a profile may name.
func Architectures() []string { return texts(foreign) }

var filterFlags = map[specs.LinuxSeccompFlag]uint{
	specs.LinuxSeccompFlagLog: unix.SECCOMP_FILTER_FLAG_LOG, specs.LinuxSeccompFlagSpecAllow: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	specs.LinuxSeccompFlagWaitKillableRecv: unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

// Flags are those that a profile may name: known ones, and of these the ones that this kernel has.
func Flags() (known, supported []string) {
	for _, name := range []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv} {
		known = append(known, string(name))
		if kernelHas(filterFlags[name]) {
			supported = append(supported, string(name))
		}
	}
	return known, supported
}

// kernelHas asks for a filter at no address: a kernel that knows the flags looks for it (EFAULT), another refuses them.
func kernelHas(flags uint) bool {
	if flags == unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV { // which goes with a listener only
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	const setModeFilter = 1
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, uintptr(flags), uintptr(unsafe.Pointer(nil)))
	return errno == unix.EFAULT
}

func texts[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return out
}
