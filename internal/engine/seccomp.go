package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxProfile bounds a seccomp profile that a client sends, in bytes.
const maxProfile = 1 << 20

// nativeArch is this build's architecture in the words of seccomp profiles, for conditions and for the filter.
var nativeArch = map[string]struct {
	condition string
	filter    specs.Arch
}{
	"amd64": {"amd64", specs.ArchX86_64},
	"arm64": {"arm64", specs.ArchAARCH64},
}

var defaultProfile = sync.OnceValue(seccomp.DefaultProfile)

// parseProfile reads a profile in docker's JSON form, as --security-opt seccomp=FILE sends it.
func parseProfile(text string) (*seccomp.Seccomp, error) {
	if len(text) > maxProfile {
		return nil, refuse("seccomp profile of %d bytes: more than %d", len(text), maxProfile)
	}
	var p seccomp.Seccomp
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, refuse("Decoding seccomp profile failed: %v", err)
	}
	if len(p.Architectures) != 0 && len(p.ArchMap) != 0 {
		return nil, refuse("seccomp profile: both architectures and archMap are given")
	}
	for i, s := range p.Syscalls {
		if s == nil {
			return nil, refuse("seccomp profile: syscalls[%d] is null", i)
		}
		//lint:ignore SA1019 profiles of old have it
		if s.Name != "" && len(s.Names) != 0 {
			return nil, refuse("seccomp profile: syscalls[%d] has both name and names", i)
		}
	}
	return &p, nil
}

// resolveProfile reduces a docker profile, whose rules have conditions, to the runtime specification's form for a
// container with these capabilities on this machine.
func resolveProfile(p *seccomp.Seccomp, caps []string) *specs.LinuxSeccomp {
	out := p.LinuxSeccomp
	out.Syscalls = nil
	native := nativeArch[runtime.GOARCH]
	for _, m := range p.ArchMap {
		if m.Arch == native.filter {
			out.Architectures = append([]specs.Arch{m.Arch}, m.SubArches...)
		}
	}
	for _, s := range p.Syscalls {
		if s.Excludes != nil && excluded(s.Excludes, native.condition, caps) {
			continue
		}
		if s.Includes != nil && !included(s.Includes, native.condition, caps) {
			continue
		}
		rule := s.LinuxSyscall
		//lint:ignore SA1019 profiles of old have it
		if s.Name != "" {
			//lint:ignore SA1019 profiles of old have it
			rule.Names = []string{s.Name}
		}
		out.Syscalls = append(out.Syscalls, rule)
	}
	return &out
}

// included: every condition must hold.
func included(f *seccomp.Filter, arch string, caps []string) bool {
	if len(f.Arches) > 0 && !slices.Contains(f.Arches, arch) {
		return false
	}
	for _, c := range f.Caps {
		if !slices.Contains(caps, c) {
			return false
		}
	}
	return f.MinKernel == nil || !kernelBefore(f.MinKernel)
}

// excluded: one condition is enough.
func excluded(f *seccomp.Filter, arch string, caps []string) bool {
	if slices.Contains(f.Arches, arch) {
		return true
	}
	for _, c := range f.Caps {
		if slices.Contains(caps, c) {
			return true
		}
	}
	return f.MinKernel != nil && !kernelBefore(f.MinKernel)
}

// kernelVersion is the running kernel's version and major revision, from uname(2).
var kernelVersion = sync.OnceValue(func() seccomp.KernelVersion {
	var v seccomp.KernelVersion
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		// A release that does not parse leaves 0.0, which no minimum admits: the strict side.
		_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &v.Kernel, &v.Major)
	}
	return v
})

func kernelBefore(least *seccomp.KernelVersion) bool {
	have := kernelVersion()
	return have.Kernel < least.Kernel || have.Kernel == least.Kernel && have.Major < least.Major
}

// security is what --security-opt and --privileged decide.
type security struct {
	seccomp         *specs.LinuxSeccomp // nil: unconfined
	noNewPrivileges bool
	unmasked        bool // systempaths=unconfined
}

// parseSecurity understands docker's security options. A seccomp profile comes as JSON text, not as a path: the
// client reads the file. Options for security modules that the kernel does not run are errors, never ignored.
func parseSecurity(opts []string, privileged bool, caps []string) (security, error) {
	s := security{unmasked: privileged}
	profile := defaultProfile()
	if privileged {
		profile = nil // unless one is asked for
	}
	for _, opt := range opts {
		key, value, found := strings.Cut(opt, "=")
		if !found {
			key, value, _ = strings.Cut(opt, ":")
		}
		switch {
		case opt == "no-new-privileges" || key == "no-new-privileges" && value == "true":
			s.noNewPrivileges = true
		case key == "no-new-privileges" && value == "false":
			s.noNewPrivileges = false
		case unmasks(opt):
			s.unmasked = true
		case key == "seccomp" && value == "unconfined":
			profile = nil
		case key == "seccomp" && value == "builtin":
			profile = defaultProfile()
		case key == "seccomp":
			p, err := parseProfile(value)
			if err != nil {
				return s, err
			}
			profile = p
		case key == "apparmor" && (value == "unconfined" || value == "") || key == "label" && value == "disable":
			// What an engine without these modules does anyway.
		case key == "apparmor" && !exists("/sys/kernel/security/apparmor"), key == "label" && !exists("/sys/fs/selinux/enforce"):
			return s, refuse("security option %q: the kernel does not run this security module", opt)
		default:
			return s, refuse("invalid --security-opt: %q", opt)
		}
	}
	if profile != nil {
		s.seccomp = resolveProfile(profile, caps)
	}
	return s, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
