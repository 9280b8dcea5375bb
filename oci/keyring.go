package oci

import (
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// keyring gives the process a session keyring, so that it has none of the runtime's keys. The container's other
// processes join it by its name, for which they must be able to find it; see keyrings(7) and keyctl(2).
func (b *builder) keyring(none, first bool) {
	if none {
		return
	}
	b.labelKeys()
	const (
		all        = 0x3f000000 // possessor: everything
		user       = 0x00130000 // user: view, read, link, as the kernel has it
		userSearch = 0x00080000
	)
	absent := []unix.Errno{unix.ENOSYS} // a kernel without keys has none to hide
	join := b.add("join a session keyring", unix.SYS_KEYCTL, spawn.Flags(unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"), spawn.Str("_ses."+b.id))
	join.Result, join.Ignore = slotScratch, absent
	if first {
		b.add("let the container's processes find it", unix.SYS_KEYCTL, spawn.Flags(unix.KEYCTL_SETPERM, "KEYCTL_SETPERM"), spawn.Of(slotScratch),
			spawn.Flags(all|user|userSearch, "possessor all, user view, read, link and search")).Ignore = absent
	}
}
