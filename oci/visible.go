package oci

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// stayVisible keeps a process of a user's container within the user's reach after it has become somebody else, which hides
// it (PR_SET_DUMPABLE(2const)): hooks and exec join a created container's namespaces, and the filter's listener is taken
// from it. Nobody else is in its pid namespace then, but whom the user has let in.
func (b *builder) stayVisible() {
	if os.Geteuid() != 0 && b.visible {
		b.add("be dumpable", unix.SYS_PRCTL, spawn.Flags(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), spawn.Int(1), spawn.Int(0), spawn.Int(0), spawn.Int(0))
	}
}

// warnOfCompany says what a user's container without a cgroup and a pid namespace of its own means, in runc's words.
func (b *builder) warnOfCompany(hasGroup bool) string {
	if b.isNew(specs.PIDNamespace) || hasGroup || !b.rootless {
		return ""
	}
	return "a container of a user with no cgroup and no pid namespace of its own: nothing tells which processes are its, so delete cannot end them all. Such configuration is strongly discouraged"
}
