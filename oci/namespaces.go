package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// joinOrder leaves the mount namespace for later, since it takes the paths away: see enterRoot.
var joinOrder = []specs.LinuxNamespaceType{
	specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace,
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

// namespaces makes and joins them. The clone makes all new ones at once, but what belongs to a user namespace must be
// made inside it: if that one is joined, or made after others were joined by the host's rights, the rest follows in steps.
func (b *builder) namespaces() error {
	joined, err := b.openNamespaces()
	b.joined = joined
	if err != nil {
		return err
	}
	pids, joinPIDs := joined[specs.PIDNamespace]
	_, joinUser := joined[specs.UserNamespace]
	others := slices.ContainsFunc(joinOrder, func(kind specs.LinuxNamespaceType) bool { _, listed := joined[kind]; return listed })
	inSteps := joinUser || (others || joinPIDs) && b.isNew(specs.UserNamespace)
	if b.shared = joinPIDs && (!inSteps || os.Geteuid() == 0); b.shared { // else the process may, as root of the user namespace
		b.joinPIDs(pids)
	}
	if inSteps {
		err = b.namespacesInSteps(joined)
	} else {
		err = b.namespacesAtOnce(joined)
	}
	if err != nil {
		return err
	}
	if b.isNew(specs.TimeNamespace) {
		b.timeNamespace()
	}
	if b.isNew(specs.NetworkNamespace) {
		b.loopback()
	}
	return b.netDevices()
}

// namespacesAtOnce makes the new ones with the process. The cgroup namespace waits until the process is in its cgroup,
// since that becomes its root; a time namespace wants its offsets before anybody is in it.
func (b *builder) namespacesAtOnce(joined map[specs.LinuxNamespaceType]spawn.FD) error {
	late := b.isNew(specs.CgroupNamespace) && (cgroupMode() != cgroup.V2 || b.moveIn != nil)
	b.plan.Namespaces = b.newNamespaces(true)
	if late {
		b.plan.Namespaces &^= unix.CLONE_NEWCGROUP
	}
	if err := b.mapIDs(); err != nil {
		return err
	}
	b.join(joined)
	if late {
		b.add("make a cgroup namespace", unix.SYS_UNSHARE, spawn.Flags(unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"))
	}
	return nil
}

// namespacesInSteps joins what belongs to the host while the process has the host's rights, if it has any; then comes
// the user namespace, and what is new is made in there.
func (b *builder) namespacesInSteps(joined map[specs.LinuxNamespaceType]spawn.FD) error {
	root := os.Geteuid() == 0
	if root {
		b.join(joined)
	}
	if fd, listed := joined[specs.UserNamespace]; listed {
		if err := b.checkMaps(fd); err != nil {
			return err
		}
		b.add("join user namespace "+fd.Name, unix.SYS_SETNS, spawn.Desc(fd), spawn.Flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
		b.becomeRoot()
	} else {
		b.add("make a user namespace", unix.SYS_UNSHARE, spawn.Flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
		if err := b.mapIDs(); err != nil {
			return err
		}
	}
	if !root {
		b.join(joined)
	}
	rest := b.newNamespaces(false)
	pids, joinPIDs := joined[specs.PIDNamespace]
	switch {
	case joinPIDs && !root:
		b.hide() // from those who are there: nobody has rights over a process whose memory is of the user namespace above
		b.hidden = true
		b.joinPIDs(pids)
		b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "make the process in the pid namespace", Succeed: true, Clone: rest})
	case rest&unix.CLONE_NEWPID != 0:
		b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "make the process in the user namespace", Succeed: true, Clone: rest})
	case rest != 0:
		b.add("make namespaces of the user namespace", unix.SYS_UNSHARE, spawn.Flags(rest, b.namesOf(rest)))
	}
	return nil
}

// newNamespaces are the flags of those to make, but for time, which has steps of its own.
func (b *builder) newNamespaces(user bool) (flags uint64) {
	for _, n := range b.spec.Linux.Namespaces {
		if n.Path == "" && n.Type != specs.TimeNamespace && (user || n.Type != specs.UserNamespace) {
			flags |= cloneFlags[n.Type]
		}
	}
	return flags
}

func (b *builder) namesOf(flags uint64) string {
	var names []string
	for _, n := range b.spec.Linux.Namespaces {
		if flags&cloneFlags[n.Type] != 0 {
			names = append(names, flagName(n.Type))
		}
	}
	return strings.Join(names, "|")
}

func (b *builder) join(joined map[specs.LinuxNamespaceType]spawn.FD) {
	for _, kind := range joinOrder {
		if fd, listed := joined[kind]; listed {
			b.add(fmt.Sprintf("join %s namespace %s", kind, fd.Name), unix.SYS_SETNS, spawn.Desc(fd), spawn.Flags(cloneFlags[kind], flagName(kind)))
		}
	}
}

// openNamespaces opens those that have a path, and checks that each is of its kind.
func (b *builder) openNamespaces() (map[specs.LinuxNamespaceType]spawn.FD, error) {
	joined := map[specs.LinuxNamespaceType]spawn.FD{}
	for i, n := range b.spec.Linux.Namespaces {
		if n.Path == "" {
			continue
		}
		field := fmt.Sprintf("config.json: linux.namespaces[%d]", i)
		if !filepath.IsAbs(n.Path) {
			return nil, fmt.Errorf("%s: path %q must be absolute", field, n.Path)
		}
		fd, err := b.open(n.Path, unix.O_RDONLY, n.Path)
		if path := inThread(n.Path); isGone(err) && path != n.Path {
			fd, err = b.open(path, unix.O_RDONLY, n.Path)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: join a %s namespace: %w", field, n.Type, err)
		}
		if !b.dry {
			if err := checkNamespace(fd.Num, n); err != nil {
				return nil, fmt.Errorf("%s: %w", field, err)
			}
		}
		joined[n.Type] = fd
	}
	return joined, nil
}

// checkNamespace tells what a descriptor is, if it is not a namespace of the kind; see ioctl_ns(2).
func checkNamespace(fd int, n specs.LinuxNamespace) error {
	is, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("%s is not a namespace: %w", n.Path, err)
	}
	if uint64(is) == cloneFlags[n.Type] {
		return nil
	}
	for kind, flag := range cloneFlags {
		if uint64(is) == flag {
			return fmt.Errorf("%s is a %s namespace, not a %s namespace: %w", n.Path, kind, n.Type, unix.EINVAL)
		}
	}
	return fmt.Errorf("%s is a namespace of type %#x, not a %s namespace: %w", n.Path, is, n.Type, unix.EINVAL)
}

// isOwn tells that a path is the namespace in which this process is itself.
func isOwn(path, file string) bool {
	var a, b unix.Stat_t
	return unix.Stat(path, &a) == nil && unix.Stat("/proc/self/ns/"+file, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// withoutOwnUserNamespace leaves the user namespace out where it is this process's own: the kernel refuses to join that.
func withoutOwnUserNamespace(spec *specs.Spec) *specs.Spec {
	i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UserNamespace && n.Path != "" && isOwn(n.Path, "user")
	})
	if i < 0 {
		return spec
	}
	out, linux := *spec, *spec.Linux
	linux.Namespaces = slices.Delete(slices.Clone(linux.Namespaces), i, i+1)
	linux.UIDMappings, linux.GIDMappings = nil, nil
	out.Linux = &linux
	return &out
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
		if _, listed := b.has(specs.UserNamespace); !listed && len(b.spec.Linux.UIDMappings)+len(b.spec.Linux.GIDMappings) > 0 {
			return errors.New("config.json: linux.uidMappings or linux.gidMappings without a user namespace")
		}
		return nil
	}
	uids, gids := b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings
	if len(uids) == 0 || len(gids) == 0 {
		return errors.New("config.json: a new user namespace needs linux.uidMappings and linux.gidMappings")
	}
	if err := errors.Join(checkIDMaps("linux.uidMappings", uids), checkIDMaps("linux.gidMappings", gids)); err != nil {
		return err
	}
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "write the id maps", Sync: func(child *spawn.Process) error {
		return writeMaps(child.Pid, uids, gids)
	}})
	b.at("linux.uidMappings and linux.gidMappings")
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

// cgroupMode is the host's; V1 and Hybrid are told apart only where a mount needs it.
func cgroupMode() cgroup.Mode {
	mode, err := cgroup.Detect()
	if err != nil {
		return cgroup.V2
	}
	return mode
}
