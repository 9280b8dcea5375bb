package oci

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
	"gantry/spawn"
)

// mounts adds config.json's mounts, in their order. The process is confined to its root: no path leads out of it.
func (b *builder) mounts() error {
	b.add("set umask 0", unix.SYS_UMASK, spawn.Int(0))
	defer b.at("")
	for i, m := range b.spec.Mounts {
		b.at(fmt.Sprintf("mounts[%d]", i))
		m.Destination = b.destination(m)
		if m.Destination == "/" {
			return fmt.Errorf("config.json: mounts[%d]: the destination is the root itself: set root instead", i)
		}
		o, err := parseMountOptions(m)
		if err == nil {
			err = b.checkProcMount(m, o)
		}
		if err != nil {
			return fmt.Errorf("config.json: mounts[%d]: %w", i, err)
		}
		switch {
		case o.remount:
			b.remount(m, o)
		case o.bind:
			err = b.bindInOrder(i, m, o)
		case m.Type == "cgroup" || m.Type == "cgroup2":
			err = b.cgroupMount(m, o)
		case m.Type == "overlay":
			err = b.overlay(m, o)
		case m.Type == "proc" && b.shared:
			err = b.procOfOthers(m, o)
		default:
			err = b.fileSystem(m, o)
		}
		if err != nil {
			return fmt.Errorf("config.json: mounts[%d]: %w", i, err)
		}
		b.mounted = append(b.mounted, m.Destination)
	}
	return nil
}

// inProc are the files of /proc that something else may be mounted on: what LXCFS and the like make up.
var inProc = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg", "/proc/slabinfo",
	"/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// checkProcMount refuses what would put something else in the place of /proc, or of what is in there: the container's
// processes, and runtimes that enter it, rely on it (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561).
func (b *builder) checkProcMount(m specs.Mount, o mountOptions) error {
	switch {
	case m.Destination == "/proc":
		if m.Type == "proc" && !o.bind || o.remount || b.dry || o.bind && isProc(b.sourceOf(m)) {
			return nil
		}
		return fmt.Errorf("%s on /proc is refused: only a proc file system may be there", describe(m, o))
	case strings.HasPrefix(m.Destination, "/proc/") && !slices.Contains(inProc, m.Destination) && !o.remount:
		return fmt.Errorf("a mount inside /proc is refused: %s", m.Destination)
	}
	return nil
}

func describe(m specs.Mount, o mountOptions) string {
	if o.bind {
		return "a bind of " + m.Source
	}
	return "file system " + m.Type
}

func isProc(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
}

// fileSystem mounts a file system of its own.
func (b *builder) fileSystem(m specs.Mount, o mountOptions) error {
	var resolve uint64
	if m.Type == "proc" || m.Type == "sysfs" { // where these are is relied on
		resolve = unix.RESOLVE_NO_SYMLINKS
	}
	data := b.fileSystemData(m, o)
	b.target(m.Destination, true, resolve)
	if o.copyUp {
		b.add("keep what is below "+m.Destination, unix.SYS_DUP, spawn.Of(slotScratch)).Result = slotTree
	}
	b.enter(m.Destination)
	flags, names := o.flags, o.flagNames
	if late := flags&unix.MS_RDONLY != 0 && (m.Type == "tmpfs" || m.Destination == "/dev"); late {
		b.late = append(b.late, m.Destination) // what belongs in there comes first: see lateReadonly
		flags, names = flags&^unix.MS_RDONLY, slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "MS_RDONLY" })
	}
	s := b.mount(fmt.Sprintf("mount %s on %s", m.Type, m.Destination), m.Source, m.Type, flags, names, data)
	if host, known := sharedFileSystems[m.Type]; known && b.inUserNamespace() {
		at := len(b.plan.Steps)
		s.Ignore = []unix.Errno{unix.EPERM}
		if err := b.bindInstead(host, m, o); err != nil {
			return err
		}
		b.plan.Steps[at-1].Skip = len(b.plan.Steps) - at
	}
	if o.copyUp {
		b.copyUp(m.Destination)
	} else if m.Type == "tmpfs" {
		b.willMount(m.Destination, -1)
	}
	b.settle(m.Destination, o)
	return nil
}

// sharedFileSystems show what belongs to the network or ipc namespace. Where that is not the user namespace's own, the
// kernel refuses to mount them, and the container gets the runtime's.
var sharedFileSystems = map[string]string{"sysfs": "/sys", "mqueue": "/dev/mqueue"}

// bindInstead binds the host's mount in place of one that cannot be made, if the host has it.
func (b *builder) bindInstead(source string, m specs.Mount, o mountOptions) error {
	if !b.dry && unix.Access(source, unix.F_OK) != nil {
		b.fail("no " + source + " to bind in place of " + m.Type)
		return nil
	}
	o.bind, o.recursive, o.propagation, o.deep = true, true, nil, unix.MountAttr{}
	if o.flags&unix.MS_RDONLY != 0 { // and what is mounted below
		o.setDeep(mountFlags["ro"])
	}
	return b.bind(specs.Mount{Source: source, Destination: m.Destination}, o)
}

// fileSystemData are the options for the file system. A tmpfs without a mode gets that of the directory which it covers.
func (b *builder) fileSystemData(m specs.Mount, o mountOptions) string {
	data := slices.Clone(o.data)
	hasMode := slices.ContainsFunc(data, func(d string) bool { return strings.HasPrefix(d, "mode=") })
	if mode, found := b.modeOf(m.Destination); m.Type == "tmpfs" && !hasMode && found {
		data = append(data, fmt.Sprintf("mode=%04o", mode))
	}
	if label := b.spec.Linux.MountLabel; label != "" && !slices.Contains([]string{"proc", "sysfs", "mqueue"}, m.Type) {
		data = append(data, fmt.Sprintf("context=%q", label))
	}
	return strings.Join(data, ",")
}

// modeOf is the mode of a directory in the image, unless something is mounted above it.
func (b *builder) modeOf(path string) (mode uint32, found bool) {
	if b.dry || b.isBelowMount(path) {
		return 0, false
	}
	fd, err := b.openInImage(path, unix.O_DIRECTORY)
	if err != nil {
		return 0, false // it is made
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0, false
	}
	return st.Mode & 0o7777, true
}

// isBelowMount tells that a path is not the image's when it is mounted on: something is mounted above it by then.
func (b *builder) isBelowMount(path string) bool {
	for _, m := range b.spec.Mounts {
		at := b.destination(m)
		if at == path {
			return false
		}
		if strings.HasPrefix(path, at+"/") {
			return true
		}
	}
	return false
}

// openInImage opens a path of the root before anything is mounted in it.
func (b *builder) openInImage(path string, flags int) (int, error) {
	return inroot.Open(b.root.Num, path, flags|unix.O_PATH, 0)
}

// throughLinks is what a path of the image comes to that leads over links to what is not there, so that it can be made.
// It is a convenience: the process itself resolves what it gets, without leaving its root.
func (b *builder) throughLinks(path string) string {
	if b.dry || b.isBelowMount(path) {
		return path
	}
	if fd, err := b.openInImage(path, 0); err != unix.ENOENT {
		if err == nil {
			_ = unix.Close(fd)
		}
		return path
	}
	const mostLinks = 40 // the kernel's limit; see path_resolution(7)
	at, parts, links := "/", strings.Split(path, "/"), 0
	for len(parts) > 0 {
		next := filepath.Join(at, parts[0])
		parts = parts[1:]
		link, isLink := b.linkInImage(next)
		if !isLink {
			at = next
			continue
		}
		if links++; links > mostLinks {
			return path
		}
		if filepath.IsAbs(link) {
			at = "/"
		}
		parts = append(strings.Split(link, "/"), parts...)
	}
	return at
}

func (b *builder) linkInImage(path string) (string, bool) {
	fd, err := b.openInImage(path, unix.O_NOFOLLOW)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	return string(buf[:max(n, 0)]), err == nil
}

// target opens a mount point, which is made if it is missing: the descriptor is in the scratch slot. It may not be in a
// proc file system, whatever links lead to it, unless its name says so (see checkProcMount).
func (b *builder) target(path string, directory bool, resolve uint64) {
	name, flags := "open "+path, uint64(unix.O_PATH)
	if directory {
		flags |= unix.O_DIRECTORY
	}
	if resolve&unix.RESOLVE_NO_SYMLINKS != 0 {
		name = path + " must be mounted on ordinary directory, not a link"
	}
	named := path // checkProcMount has seen this one
	if resolve == 0 {
		path = b.throughLinks(path)
	}
	at := len(b.plan.Steps)
	b.resolveHow(name, path, flags, resolve).Ignore = []unix.Errno{unix.ENOENT}
	if directory {
		b.mkdirs(path)
	} else {
		b.touch(path)
	}
	b.resolveHow(name, path, flags, resolve)
	b.plan.Steps[at].Skip = len(b.plan.Steps) - at - 1
	if named != "/proc" && !strings.HasPrefix(named, "/proc/") {
		found := bytesOf(new(unix.Statfs_t))
		b.add(path+" must not lead into a proc file system", unix.SYS_FSTATFS, spawn.Of(slotScratch), spawn.Bytes(found, "buffer")).
			Refuse = spawn.Refusal{Buffer: found, Value: unix.PROC_SUPER_MAGIC}
	}
}

// enter makes the mount point in the scratch slot the working directory, so that mount(2) can name it without a path
// that somebody could change in the meantime (CVE-2021-30465).
func (b *builder) enter(path string) {
	b.add("go to "+path, unix.SYS_FCHDIR, spawn.Of(slotScratch))
	b.release(path)
}

// mount mounts a file system on the working directory: see enter.
func (b *builder) mount(name, source, kind string, flags uint64, flagNames []string, data string) *spawn.Step {
	return b.mountOn(".", name, source, kind, flags, flagNames, data)
}

// mountOn mounts a file system on a directory.
func (b *builder) mountOn(target, name, source, kind string, flags uint64, flagNames []string, data string) *spawn.Step {
	shown := strings.Join(flagNames, "|")
	if shown == "" {
		shown = "0"
	}
	payload := spawn.Nil()
	if data != "" {
		payload = spawn.Str(data)
	}
	return b.add(name, unix.SYS_MOUNT, spawn.Str(source), spawn.Str(target), spawn.Str(kind), spawn.Flags(flags, shown), payload)
}

// remount changes the flags, and with a type the options, of what is mounted already.
func (b *builder) remount(m specs.Mount, o mountOptions) {
	b.resolve("open "+m.Destination, m.Destination, unix.O_PATH)
	b.enter(m.Destination)
	flags, names := o.flags|unix.MS_REMOUNT, append([]string{"MS_REMOUNT"}, o.flagNames...)
	if o.bind {
		flags, names = flags|unix.MS_BIND, append(names, "MS_BIND")
	}
	b.mount("remount "+m.Destination, m.Source, m.Type, flags, names, strings.Join(o.data, ","))
	b.settle(m.Destination, o)
}

// settle sets what a mount call does not: propagation, and the options that hold for the mounts below, too.
func (b *builder) settle(path string, o mountOptions) {
	if len(o.propagation) == 0 && !o.isDeep() {
		return
	}
	b.resolve("open "+path, path, unix.O_PATH)
	for _, p := range o.propagation {
		b.setattr("set the propagation of "+path, unix.MountAttr{Propagation: p &^ unix.MS_REC}, p&unix.MS_REC != 0)
	}
	if o.isDeep() {
		b.setattr("set flags of "+path+" and below", o.deep, true)
	}
	b.release(path)
}

// setattr adds a step that changes the mount in the scratch slot.
func (b *builder) setattr(name string, attr unix.MountAttr, recursive bool) *spawn.Step {
	flags, shown := uint64(unix.AT_EMPTY_PATH), "AT_EMPTY_PATH"
	if recursive {
		flags, shown = flags|unix.AT_RECURSIVE, shown+"|AT_RECURSIVE"
	}
	text := b.show(func() string {
		if attr.Propagation != 0 {
			return attrNames(&attr) + propagationName(attr.Propagation)
		}
		return attrNames(&attr)
	})
	return b.add(name, unix.SYS_MOUNT_SETATTR, spawn.Of(slotScratch), spawn.Str(""), spawn.Flags(flags, shown),
		spawn.Bytes(bytesOf(&attr), "{"+text+"}"), spawn.Int(unix.MOUNT_ATTR_SIZE_VER0))
}

func propagationName(kind uint64) string {
	for name, flag := range propagationFlags {
		if flag == kind {
			return name
		}
	}
	return fmt.Sprintf("%#x", kind)
}

// touch makes an empty file to mount on, where there is nothing.
func (b *builder) touch(path string) {
	if dir := filepath.Dir(path); dir != "/" {
		b.mkdirs(dir)
	}
	// Only an open, not a mknod, makes what a dangling link points to.
	s := b.resolve("make file "+path, path, unix.O_CREAT|unix.O_NONBLOCK|unix.O_NOCTTY)
	s.Ignore, s.Else = []unix.Errno{unix.EISDIR, unix.EROFS, unix.ENXIO, unix.EACCES}, 1
	b.release(path)
}

// lateReadonly makes those read-only in which mount points or devices had to be made first.
func (b *builder) lateReadonly() {
	for _, path := range b.late {
		b.resolve("open "+path, path, unix.O_PATH)
		b.setattr("make "+path+" read-only", unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false)
		b.release(path)
	}
}

// mountAt reports whether config.json mounts something on the path, and how.
func (b *builder) mountAt(path string) (specs.Mount, bool) {
	for _, m := range b.spec.Mounts {
		if b.destination(m) == path {
			return m, true
		}
	}
	return specs.Mount{}, false
}

// isBind tells a mount that brings its own content.
func isBind(m specs.Mount) bool {
	return m.Type == "bind" || m.Type == "rbind" || hasOption(m.Options, "bind") || hasOption(m.Options, "rbind")
}
