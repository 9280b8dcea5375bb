package oci

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// cloneFlags are the kernel's names of the eight namespaces; see namespaces(7).
var cloneFlags = map[specs.LinuxNamespaceType]uint64{
	specs.UserNamespace: unix.CLONE_NEWUSER, specs.MountNamespace: unix.CLONE_NEWNS, specs.PIDNamespace: unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET, specs.UTSNamespace: unix.CLONE_NEWUTS, specs.IPCNamespace: unix.CLONE_NEWIPC,
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.TimeNamespace: unix.CLONE_NEWTIME,
}

// joinOrder: the user namespace gives the rights for the others, and the mount namespace takes the paths away.
var joinOrder = []specs.LinuxNamespaceType{
	specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

func (b *builder) has(kind specs.LinuxNamespaceType) (specs.LinuxNamespace, bool) {
	i := slices.IndexFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	if i < 0 {
		return specs.LinuxNamespace{}, false
	}
	return b.spec.Linux.Namespaces[i], true
}

// isNew tells a namespace that is made for this container.
func (b *builder) isNew(kind specs.LinuxNamespaceType) bool {
	n, listed := b.has(kind)
	return listed && n.Path == ""
}

// namespaces makes and joins them. The cgroup namespace waits until the process is in its cgroup, since that becomes
// its root; a time namespace wants its offsets before anybody is in it.
func (b *builder) namespaces() error {
	var made uint64
	for _, n := range b.spec.Linux.Namespaces {
		late := n.Type == specs.TimeNamespace || (n.Type == specs.CgroupNamespace && cgroupMode() != cgroup.V2)
		if n.Path == "" && !late {
			made |= cloneFlags[n.Type]
		}
	}
	user, listed := b.has(specs.UserNamespace)
	if !listed || user.Path == "" {
		b.plan.Namespaces = made
	}
	if n, listed := b.has(specs.PIDNamespace); listed && n.Path != "" {
		fd, err := b.open(n.Path, unix.O_RDONLY, "pid namespace "+n.Path)
		if err != nil {
			return fmt.Errorf("config.json: linux.namespaces: join a pid namespace: %w", err)
		}
		b.plan.JoinPID = &fd
	}
	if n, listed := b.has(specs.MountNamespace); listed && n.Path != "" {
		return errors.New("config.json: linux.namespaces: joining an existing mount namespace is what exec does; a container has its own")
	}
	if err := b.mapIDs(); err != nil {
		return err
	}
	for _, kind := range joinOrder {
		n, listed := b.has(kind)
		if !listed || n.Path == "" {
			continue
		}
		fd, err := b.open(n.Path, unix.O_RDONLY, n.Path)
		if err != nil {
			return fmt.Errorf("config.json: linux.namespaces: join a %s namespace: %w", kind, err)
		}
		b.add(fmt.Sprintf("join %s namespace %s", kind, n.Path), unix.SYS_SETNS, spawn.Desc(fd), spawn.Flags(cloneFlags[kind], flagName(kind)))
		if kind == specs.UserNamespace {
			b.becomeRoot()
			b.succeed(made)
		}
	}
	if b.isNew(specs.CgroupNamespace) && cgroupMode() != cgroup.V2 {
		b.add("make a cgroup namespace", unix.SYS_UNSHARE, spawn.Flags(unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"))
	}
	if b.isNew(specs.TimeNamespace) {
		b.timeNamespace()
	}
	if b.isNew(specs.NetworkNamespace) {
		b.loopback()
	}
	return nil
}

// succeed makes namespaces that belong to the user namespace that has been joined: its root has rights over no others.
func (b *builder) succeed(namespaces uint64) {
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "make the process in the user namespace", Succeed: true, Clone: namespaces})
}

func flagName(kind specs.LinuxNamespaceType) string {
	names := map[specs.LinuxNamespaceType]string{
		specs.UserNamespace: "CLONE_NEWUSER", specs.MountNamespace: "CLONE_NEWNS", specs.PIDNamespace: "CLONE_NEWPID",
		specs.NetworkNamespace: "CLONE_NEWNET", specs.UTSNamespace: "CLONE_NEWUTS", specs.IPCNamespace: "CLONE_NEWIPC",
		specs.CgroupNamespace: "CLONE_NEWCGROUP", specs.TimeNamespace: "CLONE_NEWTIME",
	}
	return names[kind]
}

// timeNamespace: see time_namespaces(7). setns moves the process into the namespace that unshare made for children.
func (b *builder) timeNamespace() {
	b.add("make a time namespace", unix.SYS_UNSHARE, spawn.Flags(unix.CLONE_NEWTIME, "CLONE_NEWTIME"))
	var offsets strings.Builder
	for _, clock := range []string{"monotonic", "boottime"} {
		if o, set := b.spec.Linux.TimeOffsets[clock]; set {
			fmt.Fprintf(&offsets, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
		}
	}
	if offsets.Len() > 0 {
		b.at("linux.timeOffsets")
		b.writeOwn("set time offsets", "timens_offsets", offsets.String())
		b.at("")
	}
	b.add("open the time namespace", unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str("/proc/self/ns/time_for_children"),
		spawn.Flags(unix.O_RDONLY|unix.O_CLOEXEC, "O_RDONLY|O_CLOEXEC")).Result = slotScratch
	b.add("enter the time namespace", unix.SYS_SETNS, spawn.Of(slotScratch), spawn.Flags(unix.CLONE_NEWTIME, "CLONE_NEWTIME"))
	b.add("close the time namespace", unix.SYS_CLOSE, spawn.Of(slotScratch))
}

// loopback brings lo up, as every runtime does in a network namespace that it makes; see netdevice(7).
func (b *builder) loopback() {
	type ifreq struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	up := &ifreq{flags: unix.IFF_UP | unix.IFF_RUNNING}
	copy(up.name[:], "lo")
	b.add("open a socket", unix.SYS_SOCKET, spawn.Flags(unix.AF_INET, "AF_INET"), spawn.Flags(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, "SOCK_DGRAM|SOCK_CLOEXEC"), spawn.Int(0)).Result = slotScratch
	b.add("bring lo up", unix.SYS_IOCTL, spawn.Of(slotScratch), spawn.Flags(unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"), spawn.Bytes(bytesOf(up), "{lo, IFF_UP}"))
	b.add("close the socket", unix.SYS_CLOSE, spawn.Of(slotScratch))
}

// mapIDs lets the parent write the maps of a new user namespace, and makes the process root of it; see user_namespaces(7).
func (b *builder) mapIDs() error {
	if !b.isNew(specs.UserNamespace) {
		if n, listed := b.has(specs.UserNamespace); !listed && len(b.spec.Linux.UIDMappings)+len(b.spec.Linux.GIDMappings) > 0 {
			return fmt.Errorf("config.json: linux.uidMappings or linux.gidMappings without a user namespace%s", n.Path)
		}
		return nil
	}
	uids, gids := idMap(b.spec.Linux.UIDMappings), idMap(b.spec.Linux.GIDMappings)
	if uids == "" || gids == "" {
		return errors.New("config.json: a new user namespace needs linux.uidMappings and linux.gidMappings")
	}
	b.at("linux.uidMappings and linux.gidMappings")
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "write the id maps", Sync: func(child *spawn.Process) error {
		for _, f := range []struct{ name, text string }{{"uid_map", uids}, {"gid_map", gids}} {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", child.Pid, f.name), []byte(f.text), 0); err != nil {
				return err
			}
		}
		return nil
	}})
	b.becomeRoot()
	b.at("")
	return nil
}

func (b *builder) becomeRoot() {
	b.add("become root of the user namespace", unix.SYS_SETRESGID, spawn.Int(0), spawn.Int(0), spawn.Int(0))
	b.add("become root of the user namespace", unix.SYS_SETRESUID, spawn.Int(0), spawn.Int(0), spawn.Int(0))
}

func idMap(list []specs.LinuxIDMapping) string {
	var text strings.Builder
	for _, m := range list {
		fmt.Fprintf(&text, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return text.String()
}

// sysctlNamespaces tells which namespace makes a sysctl the container's own.
func sysctlNamespace(key string) specs.LinuxNamespaceType {
	switch {
	case strings.HasPrefix(key, "net."):
		return specs.NetworkNamespace
	case strings.HasPrefix(key, "fs.mqueue."), strings.HasPrefix(key, "kernel.shm"), strings.HasPrefix(key, "kernel.msg"), key == "kernel.sem":
		return specs.IPCNamespace
	case key == "kernel.domainname", key == "kernel.hostname":
		return specs.UTSNamespace
	}
	return ""
}

// sysctls writes linux.sysctl; one that is the whole host's is refused.
func (b *builder) sysctls() error {
	keys := make([]string, 0, len(b.spec.Linux.Sysctl))
	for key := range b.spec.Linux.Sysctl {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		dotted := strings.ReplaceAll(key, "/", ".")
		kind := sysctlNamespace(dotted)
		if _, listed := b.has(kind); kind == "" || !listed || strings.Contains(dotted, "..") {
			return fmt.Errorf("config.json: linux.sysctl: sysctl %q is not in a separate kernel namespace", key)
		}
		path := "/proc/sys/" + strings.ReplaceAll(dotted, ".", "/")
		b.at("linux.sysctl")
		b.writeFile(fmt.Sprintf("set sysctl %s to %s", key, b.spec.Linux.Sysctl[key]), path, b.spec.Linux.Sysctl[key])
	}
	b.at("")
	return nil
}

// cgroupMode is the host's; V1 and Hybrid are told apart only where a mount needs it.
func cgroupMode() cgroup.Mode {
	mode, err := cgroup.Detect()
	if err != nil {
		return cgroup.V2
	}
	return mode
}
