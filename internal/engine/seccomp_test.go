package engine

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func allows(p *specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool {
		return s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, name)
	})
}

func TestDefaultProfileFollowsCapabilities(t *testing.T) {
	plain := resolveProfile(defaultProfile(), defaultCapabilities)
	admin := resolveProfile(defaultProfile(), append(slices.Clone(defaultCapabilities), "CAP_SYS_ADMIN"))
	if plain.DefaultAction != specs.ActErrno || len(plain.Architectures) < 2 {
		t.Errorf("default action %s, architectures %v", plain.DefaultAction, plain.Architectures)
	}
	for _, name := range []string{"read", "execve", "clone3"} {
		if name != "clone3" && !allows(plain, name) {
			t.Errorf("%s is not allowed", name)
		}
	}
	if allows(plain, "mount") {
		t.Error("mount is allowed without CAP_SYS_ADMIN")
	}
	if !allows(admin, "mount") {
		t.Error("mount is not allowed with CAP_SYS_ADMIN")
	}
}

func TestParseSecurity(t *testing.T) {
	for name, tc := range map[string]struct {
		opts       []string
		privileged bool
		confined   bool
		nnp        bool
		unmasked   bool
	}{
		"default":             {confined: true},
		"privileged":          {privileged: true, unmasked: true},
		"privileged, profile": {opts: []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`}, privileged: true, unmasked: true, confined: true},
		"unconfined":          {opts: []string{"seccomp=unconfined"}},
		"old colon form":      {opts: []string{"seccomp:unconfined"}},
		"no new privileges":   {opts: []string{"no-new-privileges"}, confined: true, nnp: true},
		"no new privileges 2": {opts: []string{"no-new-privileges=true"}, confined: true, nnp: true},
		"switched off":        {opts: []string{"no-new-privileges:false"}, confined: true},
		"system paths":        {opts: []string{"systempaths=unconfined"}, confined: true, unmasked: true},
		"own profile":         {opts: []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`}, confined: true},
		"modules off":         {opts: []string{"apparmor=unconfined", "label=disable"}, confined: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parseSecurity(tc.opts, tc.privileged, defaultCapabilities)
			if err != nil {
				t.Fatal(err)
			}
			if (s.seccomp != nil) != tc.confined || s.noNewPrivileges != tc.nnp || s.unmasked != tc.unmasked {
				t.Errorf("got seccomp %v, no-new-privileges %v, unmasked %v", s.seccomp != nil, s.noNewPrivileges, s.unmasked)
			}
		})
	}
	for _, bad := range []string{
		"", "x=y", "seccomp={", "seccomp=", "no-new-privileges=maybe", `seccomp={"syscalls":[null]}`,
		`seccomp={"syscalls":[{"name":"a","names":["b"]}]}`,
	} {
		if _, err := parseSecurity([]string{bad}, false, nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: got %v, want an invalid argument", bad, err)
		}
	}
}
