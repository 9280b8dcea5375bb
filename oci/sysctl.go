package oci

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// ipcSettings are the settings, besides those of fs.mqueue, that every ipc namespace has of its own; see ipc_namespaces(7).
var ipcSettings = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// sysctlPath is the path below /proc/sys of a setting. Its name is divided by the first of "." and "/" that is in it; the
// other one stands for itself (net.ipv4.conf.eth0/1.forwarding is of interface eth0.1). See sysctl(8).
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		return strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return name
}

// checkSysctl refuses a setting that is not a namespace's of the container's own, and so the whole host's.
func (b *builder) checkSysctl(name, path string) error {
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("config.json: linux.sysctl: %q is not the name of a setting", name)
		}
	}
	dotted := strings.ReplaceAll(path, "/", ".")
	var kind specs.LinuxNamespaceType
	switch {
	case strings.HasPrefix(path, "net/"):
		kind = specs.NetworkNamespace
	case strings.HasPrefix(path, "fs/mqueue/"), slices.Contains(ipcSettings, dotted):
		kind = specs.IPCNamespace
	case dotted == "kernel.domainname":
		kind = specs.UTSNamespace
	case dotted == "kernel.hostname":
		return fmt.Errorf("config.json: linux.sysctl: %q conflicts with the field hostname: set that", name)
	default:
		return fmt.Errorf("config.json: linux.sysctl: %q is not in a separate kernel namespace", name)
	}
	n, listed := b.has(kind)
	if !listed || n.Path != "" && isOwn(n.Path, namespaceFiles[kind]) {
		return fmt.Errorf("config.json: linux.sysctl: %q is not in a separate kernel namespace: the %s namespace is the host's", name, kind)
	}
	return nil
}

// namespaceFiles are the names in /proc/PID/ns of the namespaces with settings.
var namespaceFiles = map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"}

// sysctls writes linux.sysctl, by the host's /proc/sys: which settings that shows depends on who looks. The container's
// own /proc may not be one.
func (b *builder) sysctls() error {
	b.at("linux.sysctl")
	defer b.at("")
	for _, name := range slices.Sorted(maps.Keys(b.spec.Linux.Sysctl)) {
		path, value := sysctlPath(name), b.spec.Linux.Sysctl[name]
		if err := b.checkSysctl(name, path); err != nil {
			return err
		}
		what := fmt.Sprintf("set sysctl %s to %s", name, value)
		if path == "kernel/domainname" { // the file belongs to the host's root, even in a user namespace
			b.add(what, unix.SYS_SETDOMAINNAME, spawn.Str(value), spawn.Int(len(value)))
			continue
		}
		how := &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
		b.add(what+": open "+path, unix.SYS_OPENAT2, spawn.Of(slotSettings), spawn.Str(path),
			spawn.Bytes(bytesOf(how), "{O_WRONLY|O_CLOEXEC, RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS}"), spawn.Int(unix.SizeofOpenHow)).Result = slotScratch
		b.add(what, unix.SYS_WRITE, spawn.Of(slotScratch), spawn.Str(value), spawn.Int(len(value)))
		b.release(path)
	}
	if len(b.spec.Linux.Sysctl) > 0 {
		b.add("close the kernel's settings", unix.SYS_CLOSE, spawn.Of(slotSettings))
	}
	return nil
}
