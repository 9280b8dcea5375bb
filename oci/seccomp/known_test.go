package seccomp

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestKnown compiles a profile with everything that is said to be known.
func TestKnown(t *testing.T) {
	known, supported := Flags()
	if !slices.Contains(supported, string(specs.LinuxSeccompFlagLog)) { // in every kernel since 4.14
		t.Errorf("supported flags: %v of %v", supported, known)
	}
	if kernelHas(1 << 30) {
		t.Error("a flag that no kernel has is supported")
	}
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for _, f := range known {
		profile.Flags = append(profile.Flags, specs.LinuxSeccompFlag(f))
	}
	for _, a := range Architectures() {
		profile.Architectures = append(profile.Architectures, specs.Arch(a))
	}
	for _, a := range Actions() {
		profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: []string{"mkdir"}, Action: specs.LinuxSeccompAction(a)})
	}
	for _, o := range Operators() {
		arg := specs.LinuxSeccompArg{Index: 1, Value: 3, ValueTwo: 1, Op: specs.LinuxSeccompOperator(o)}
		profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: []string{"kill"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{arg}})
	}
	if _, err := Compile(profile); err != nil {
		t.Error(err)
	}
}
