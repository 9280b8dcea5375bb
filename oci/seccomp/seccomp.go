// Package seccomp compiles the runtime specification's linux.seccomp into a classic BPF program, without libseccomp.
package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Program is a compiled filter, to be given to seccomp(2).
type Program struct {
	Filter []unix.SockFilter
	// Flags are SECCOMP_FILTER_FLAG_…; with NEW_LISTENER the call's result is the notify descriptor.
	Flags uint
}

// Compile compiles a profile for the architectures that it names (the native one always, then the compat ones).
// Unknown system calls are passed over, as libseccomp does; unknown actions, architectures or operators are errors.
// The same profile is compiled once: results are cached by content and must not be modified.
func Compile(profile *specs.LinuxSeccomp) (*Program, error) { panic("contract") }
