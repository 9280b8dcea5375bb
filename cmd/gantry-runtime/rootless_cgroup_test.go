package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/cgroup"
)

// A user's container cannot write to the host's cgroups, in the host's cgroup namespace or its own: what is mounted
// read-only is so in each hierarchy, over a bind of the host's /sys, too (CVE-2023-25809). That the user may not either way
// would be another error.
func TestRootlessCgroupMount(t *testing.T) {
	const script = `cd /sys/fs/cgroup; for d in . *; do
	[ -h $d ] || [ ! -e $d/cgroup.procs ] || { echo tried; mkdir $d/made 2>&1; rmdir $d/made 2>/dev/null; }; done`
	rootless(t, script, func(u under, id, dir string) {
		for _, own := range []bool{false, true} {
			configure(u, dir, func(s *specs.Spec) {
				s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
				if own {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
				}
			})
			_, out, errs := u.do("run", "-b", dir, fmt.Sprint(id, own))
			if !strings.Contains(out, "tried") {
				if mode, err := cgroup.Detect(); own && filepath.Base(u.program) == "runc" && err == nil && mode == cgroup.V2 {
					continue // it covers them by an empty file system
				}
				u.t.Errorf("own namespace %v: no cgroup is there: %q, %s", own, out, errs)
			}
			if tries := strings.Count(out, "tried\n"); strings.Count(out, "read-only file system\n") != tries {
				u.t.Errorf("own namespace %v: %d cgroups, not all read-only:\n%s", own, tries, out)
			}
		}
	})
}
