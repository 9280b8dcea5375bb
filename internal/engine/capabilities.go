package engine

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// defaultCapabilities are what a container's root may do unless told otherwise: docker's fourteen.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// allCapabilities is every capability of capabilities(7), in the kernel's order.
var allCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// availableCapabilities are those that this process can give: an older kernel does not know them all, and an engine that
// runs in a container may itself lack some.
var availableCapabilities = sync.OnceValue(func() []string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return allCapabilities
	}
	var list []string
	for number, name := range allCapabilities {
		if sets[number/32].Permitted&(1<<(number%32)) != 0 {
			list = append(list, name)
		}
	}
	return list
})

// capabilities returns the sorted capabilities of a container with docker's --cap-add, --cap-drop and --privileged.
// "ALL" may stand in either list. As docker has it, an addition wins over a drop, but a drop over adding all.
func capabilities(add, drop []string, privileged bool) ([]string, error) {
	if privileged {
		return sorted(availableCapabilities()), nil
	}
	add, addAll, err := normalizeCapabilities(add)
	if err != nil {
		return nil, fmt.Errorf("invalid CapAdd: %w", err)
	}
	drop, dropAll, err := normalizeCapabilities(drop)
	if err != nil {
		return nil, fmt.Errorf("invalid CapDrop: %w", err)
	}
	base := defaultCapabilities
	switch {
	case addAll:
		base = availableCapabilities()
	case dropAll:
		base = nil
	}
	kept := slices.DeleteFunc(slices.Clone(base), func(c string) bool { return slices.Contains(drop, c) })
	if !addAll {
		kept = append(kept, add...)
	}
	return slices.Compact(sorted(kept)), nil
}

// normalizeCapabilities gives every name its CAP_ prefix in capitals and tells whether ALL was among them.
func normalizeCapabilities(names []string) (caps []string, all bool, err error) {
	for _, name := range names {
		c := strings.ToUpper(strings.TrimSpace(name))
		if c == "ALL" || c == "CAP_ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if !slices.Contains(allCapabilities, c) {
			return nil, false, refuse("unknown capability: %q", c)
		}
		caps = append(caps, c)
	}
	return caps, all, nil
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }
