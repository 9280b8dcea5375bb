package oci

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// option is a mount option that is a flag: of mount(2), and of mount_setattr(2) for what is mounted detached.
type option struct {
	set, clear uint64 // MS_…
	attr       uint64 // MOUNT_ATTR_…
	name       string
}

var mountFlags = map[string]option{
	"ro": {unix.MS_RDONLY, 0, unix.MOUNT_ATTR_RDONLY, "MS_RDONLY"}, "rw": {0, unix.MS_RDONLY, 0, ""},
	"nosuid": {unix.MS_NOSUID, 0, unix.MOUNT_ATTR_NOSUID, "MS_NOSUID"}, "suid": {0, unix.MS_NOSUID, 0, ""},
	"nodev": {unix.MS_NODEV, 0, unix.MOUNT_ATTR_NODEV, "MS_NODEV"}, "dev": {0, unix.MS_NODEV, 0, ""},
	"noexec": {unix.MS_NOEXEC, 0, unix.MOUNT_ATTR_NOEXEC, "MS_NOEXEC"}, "exec": {0, unix.MS_NOEXEC, 0, ""},
	"sync": {unix.MS_SYNCHRONOUS, 0, 0, "MS_SYNCHRONOUS"}, "async": {0, unix.MS_SYNCHRONOUS, 0, ""},
	"dirsync": {unix.MS_DIRSYNC, 0, 0, "MS_DIRSYNC"}, "mand": {unix.MS_MANDLOCK, 0, 0, "MS_MANDLOCK"}, "nomand": {0, unix.MS_MANDLOCK, 0, ""},
	"noatime": {unix.MS_NOATIME, 0, unix.MOUNT_ATTR_NOATIME, "MS_NOATIME"}, "atime": {0, unix.MS_NOATIME, 0, ""},
	"nodiratime": {unix.MS_NODIRATIME, 0, unix.MOUNT_ATTR_NODIRATIME, "MS_NODIRATIME"}, "diratime": {0, unix.MS_NODIRATIME, 0, ""},
	"relatime": {unix.MS_RELATIME, 0, unix.MOUNT_ATTR_RELATIME, "MS_RELATIME"}, "norelatime": {0, unix.MS_RELATIME, 0, ""},
	"strictatime": {unix.MS_STRICTATIME, 0, unix.MOUNT_ATTR_STRICTATIME, "MS_STRICTATIME"}, "nostrictatime": {0, unix.MS_STRICTATIME, 0, ""},
	"iversion": {unix.MS_I_VERSION, 0, 0, "MS_I_VERSION"}, "noiversion": {0, unix.MS_I_VERSION, 0, ""},
	"lazytime": {unix.MS_LAZYTIME, 0, 0, "MS_LAZYTIME"}, "nolazytime": {0, unix.MS_LAZYTIME, 0, ""},
	"nosymfollow": {unix.MS_NOSYMFOLLOW, 0, unix.MOUNT_ATTR_NOSYMFOLLOW, "MS_NOSYMFOLLOW"}, "symfollow": {}, "silent": {unix.MS_SILENT, 0, 0, "MS_SILENT"}, "loud": {0, unix.MS_SILENT, 0, ""},
	"defaults": {}, "remount": {},
}

var propagationFlags = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC, "unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// mountOptions are a mount's options, sorted out.
type mountOptions struct {
	flags       uint64 // MS_…
	flagNames   []string
	attrs       uint64 // MOUNT_ATTR_… for this mount
	attrsDeep   uint64 // and for those below it (rro, rnosuid, …)
	propagation uint64
	bind        bool
	recursive   bool
	data        []string
}

func parseMountOptions(m specs.Mount) (mountOptions, error) {
	o := mountOptions{bind: m.Type == "bind" || m.Type == "rbind", recursive: m.Type == "rbind"}
	for _, text := range m.Options {
		if f, known := mountFlags[text]; known {
			o.flags = o.flags&^f.clear | f.set
			o.attrs |= f.attr
			if f.name != "" {
				o.flagNames = append(o.flagNames, f.name)
			}
			continue
		}
		if p, known := propagationFlags[text]; known {
			o.propagation = p
			continue
		}
		if f, known := mountFlags[strings.TrimPrefix(text, "r")]; known && strings.HasPrefix(text, "r") && f.attr != 0 {
			o.attrsDeep |= f.attr
			continue
		}
		switch text {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "tmpcopyup":
			return o, fmt.Errorf("mount on %s: option tmpcopyup is not supported: mount a volume instead", m.Destination)
		case "idmap", "ridmap":
			return o, fmt.Errorf("mount on %s: option %s needs id mappings of the mount, which are not supported", m.Destination, text)
		default:
			o.data = append(o.data, text)
		}
	}
	if o.bind && len(o.data) > 0 {
		return o, fmt.Errorf("mount on %s: unknown option %q of a bind", m.Destination, o.data[0])
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return o, fmt.Errorf("mount on %s: id mapped mounts are not supported", m.Destination)
	}
	return o, nil
}

// mounts adds config.json's mounts, in their order. The process is confined to its root: no path leads out of it.
func (b *builder) mounts() error {
	b.add("set umask 0", unix.SYS_UMASK, spawn.Int(0))
	defer b.at("")
	for i, m := range b.spec.Mounts {
		b.at(fmt.Sprintf("mounts[%d]", i))
		if !filepath.IsAbs(m.Destination) {
			m.Destination = "/" + m.Destination // as runtimes always took it
		}
		m.Destination = filepath.Clean(m.Destination)
		o, err := parseMountOptions(m)
		if err != nil {
			return fmt.Errorf("config.json: mounts[%d]: %w", i, err)
		}
		switch {
		case o.bind:
			err = b.bind(m, o)
		case m.Type == "cgroup" || m.Type == "cgroup2":
			err = b.cgroupMount(m, o)
		default:
			b.fileSystem(m, o)
		}
		if err != nil {
			return fmt.Errorf("config.json: mounts[%d]: %w", i, err)
		}
	}
	return nil
}

// fileSystem mounts a file system of its own.
func (b *builder) fileSystem(m specs.Mount, o mountOptions) {
	b.mkdirs(m.Destination)
	if m.Type == "proc" || m.Type == "sysfs" { // where these are is relied on
		b.noLink(m.Destination)
	} else {
		b.resolve("check "+m.Destination, m.Destination, unix.O_PATH|unix.O_DIRECTORY)
		b.release(m.Destination)
	}
	flags := o.flags
	late := m.Type == "tmpfs" && m.Destination == "/dev" && flags&unix.MS_RDONLY != 0
	if late {
		flags &^= unix.MS_RDONLY // what belongs in there comes first: see devices
	}
	b.mount(fmt.Sprintf("mount %s on %s", m.Type, m.Destination), m.Source, m.Destination, m.Type, flags, o.flagNames, strings.Join(o.data, ","))
	b.setPropagation(m.Destination, o.propagation)
}

func (b *builder) mount(name, source, destination, kind string, flags uint64, flagNames []string, data string) *spawn.Step {
	shown := strings.Join(flagNames, "|")
	if shown == "" {
		shown = "0"
	}
	payload := spawn.Nil()
	if data != "" {
		payload = spawn.Str(data)
	}
	return b.add(name, unix.SYS_MOUNT, spawn.Str(source), spawn.Str(destination), spawn.Str(kind), spawn.Flags(flags, shown), payload)
}

func (b *builder) setPropagation(path string, flags uint64) {
	if flags != 0 {
		b.add("set the propagation of "+path, unix.SYS_MOUNT, spawn.Nil(), spawn.Str(path), spawn.Nil(), spawn.Flags(flags, fmt.Sprintf("%#x", flags)), spawn.Nil())
	}
}

// noLink fails if the path is a symbolic link, or leads over one.
func (b *builder) noLink(path string) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	b.add(path+" must be a directory, not a link", unix.SYS_OPENAT2, spawn.Int(unix.AT_FDCWD), spawn.Str(path),
		spawn.Bytes(bytesOf(how), "{O_PATH|O_DIRECTORY, RESOLVE_NO_SYMLINKS}"), spawn.Int(unix.SizeofOpenHow)).Result = slotScratch
	b.add("close "+path, unix.SYS_CLOSE, spawn.Of(slotScratch))
}

// bind attaches a copy of a host mount that the parent made, with its flags, before the clone.
func (b *builder) bind(m specs.Mount, o mountOptions) error {
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(b.bundle, source)
	}
	fd := spawn.FD{Name: source}
	directory := true
	if !b.dry {
		num, err := cloneTree(source, o.recursive)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", m.Destination, err)
		}
		fd = b.fd(num, source)
		if err := bindAttributes(num, o); err != nil {
			return fmt.Errorf("mount %s on %s: %w", source, m.Destination, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(num, &st); err != nil {
			return fmt.Errorf("mount %s on %s: %w", source, m.Destination, err)
		}
		directory = st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	b.attach(fd, m.Destination, directory)
	if o.propagation&(unix.MS_SHARED|unix.MS_UNBINDABLE) != 0 {
		b.setPropagation(m.Destination, o.propagation)
	}
	return nil
}

// bindAttributes sets flags of a detached bind, and cuts it off from the host's mount unless it is to follow it.
func bindAttributes(fd int, o mountOptions) error {
	propagation := uint64(unix.MS_PRIVATE)
	if kind := o.propagation &^ unix.MS_REC; kind != 0 && kind != unix.MS_UNBINDABLE {
		propagation = kind
	}
	attr := unix.MountAttr{Propagation: propagation}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("set propagation: %w", err)
	}
	if o.attrs != 0 {
		if err := setAttributes(fd, o.attrs, 0, false); err != nil {
			return fmt.Errorf("set flags: %w", err)
		}
	}
	if o.attrsDeep != 0 {
		if err := setAttributes(fd, o.attrsDeep, 0, true); err != nil {
			return fmt.Errorf("set flags recursively: %w", err)
		}
	}
	return nil
}

// attach makes the mount point if it is missing and puts a detached mount on it.
func (b *builder) attach(fd spawn.FD, destination string, directory bool) {
	if directory {
		b.mkdirs(destination)
	} else {
		b.touch(destination)
	}
	b.resolve("open "+destination, destination, unix.O_PATH)
	b.add(fmt.Sprintf("bind %s to %s", fd.Name, destination), unix.SYS_MOVE_MOUNT, spawn.Desc(fd), spawn.Str(""), spawn.Of(slotScratch), spawn.Str(""),
		spawn.Flags(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH"))
	b.release(destination)
}

// touch makes an empty file to mount on, where there is nothing.
func (b *builder) touch(path string) {
	if dir := filepath.Dir(path); dir != "/" {
		b.mkdirs(dir)
	}
	// It stays open until execve: only an open, not a mknod, makes what a dangling link points to.
	b.resolve("make file "+path, path, unix.O_CREAT|unix.O_NONBLOCK|unix.O_NOCTTY).
		Ignore = []unix.Errno{unix.EISDIR, unix.EROFS, unix.ENXIO, unix.EACCES}
}

// cgroupMount shows the container its cgroup: one file system on v2, a directory of one a hierarchy on v1.
func (b *builder) cgroupMount(m specs.Mount, o mountOptions) error {
	if _, own := b.has(specs.CgroupNamespace); !own {
		return b.hostCgroups(m, o)
	}
	if cgroupMode() == cgroup.V2 {
		b.mkdirs(m.Destination)
		b.mount("mount cgroup2 on "+m.Destination, "cgroup", m.Destination, "cgroup2", o.flags, o.flagNames, "")
		return nil
	}
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	b.cgroupRoot(m, o)
	for _, controllers := range hierarchies {
		dir := m.Destination + "/" + strings.Join(controllers, ",")
		b.add("make directory "+dir, unix.SYS_MKDIRAT, spawn.Int(unix.AT_FDCWD), spawn.Str(dir), spawn.Flags(0o755, "0755"))
		b.mount("mount cgroup on "+dir, "cgroup", dir, "cgroup", o.flags, o.flagNames, strings.Join(controllers, ","))
		b.cgroupLinks(m.Destination, controllers)
	}
	b.sealCgroups(m, o)
	return nil
}

// hostCgroups shows the container its own directories of the host's hierarchies, since it has no cgroup namespace.
func (b *builder) hostCgroups(m specs.Mount, o mountOptions) error {
	if b.dry {
		return nil
	}
	group, err := cgroup.Open(b.cgroupPath())
	if err != nil {
		return err
	}
	if cgroupMode() == cgroup.V2 {
		m.Source, o.bind = group.Paths()[""], true
		return b.bind(m, o)
	}
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	b.cgroupRoot(m, o)
	for _, controllers := range hierarchies {
		dir := m.Destination + "/" + strings.Join(controllers, ",")
		if err := b.bind(specs.Mount{Source: group.Paths()[controllers[0]], Destination: dir}, mountOptions{attrs: o.attrs, bind: true}); err != nil {
			return err
		}
		b.cgroupLinks(m.Destination, controllers)
	}
	b.sealCgroups(m, o)
	return nil
}

func (b *builder) cgroupRoot(m specs.Mount, o mountOptions) {
	b.mkdirs(m.Destination)
	names := slices.DeleteFunc(slices.Clone(o.flagNames), func(n string) bool { return n == "MS_RDONLY" })
	b.mount("mount tmpfs on "+m.Destination, "tmpfs", m.Destination, "tmpfs", o.flags&^unix.MS_RDONLY, names, "mode=755,size=64k")
}

// cgroupLinks gives controllers that share a hierarchy a name each.
func (b *builder) cgroupLinks(dir string, controllers []string) {
	if len(controllers) < 2 {
		return
	}
	for _, c := range controllers {
		b.add("link cgroup "+c, unix.SYS_SYMLINKAT, spawn.Str(strings.Join(controllers, ",")), spawn.Int(unix.AT_FDCWD), spawn.Str(dir+"/"+c))
	}
}

func (b *builder) sealCgroups(m specs.Mount, o mountOptions) {
	if o.flags&unix.MS_RDONLY != 0 {
		b.attributes("make "+m.Destination+" read-only", m.Destination, unix.MOUNT_ATTR_RDONLY, false)
	}
}

// mountAt tells whether config.json mounts something on the path, and how.
func (b *builder) mountAt(path string) (specs.Mount, bool) {
	for _, m := range b.spec.Mounts {
		if filepath.Clean("/"+m.Destination) == path {
			return m, true
		}
	}
	return specs.Mount{}, false
}

// isBind tells a mount that brings its own content.
func isBind(m specs.Mount) bool {
	return m.Type == "bind" || m.Type == "rbind" || hasOption(m.Options, "bind") || hasOption(m.Options, "rbind")
}

// MountOptions lists the mount options that are understood, sorted; all others are passed on to the file system.
func MountOptions() []string {
	list := append(slices.Collect(maps.Keys(mountFlags)), slices.Collect(maps.Keys(propagationFlags))...)
	list = append(list, "bind", "rbind", "rro", "rnosuid", "rnodev", "rnoexec")
	slices.Sort(list)
	return list
}
