package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
	"gantry/spawn"
)

// rootPath is the root directory that the bundle names.
func (b *builder) rootPath() string {
	if filepath.IsAbs(b.spec.Root.Path) {
		return b.spec.Root.Path
	}
	return filepath.Join(b.bundle, b.spec.Root.Path)
}

// enterRoot attaches the root file system, which the parent mounted detached, in the new mount namespace, and goes there.
func (b *builder) enterRoot(o CreateOptions) error {
	root, err := b.mountRoot(o.Rootfs)
	if err != nil {
		return err
	}
	b.ofBundle = len(o.Rootfs) == 0
	if fd, listed := b.joined[specs.MountNamespace]; listed {
		b.add("join mount namespace "+fd.Name, unix.SYS_SETNS, spawn.Desc(fd), spawn.Flags(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	}
	propagation, known := rootPropagations[b.spec.Linux.RootfsPropagation]
	if !known {
		return fmt.Errorf("config.json: linux.rootfsPropagation: unknown value %q", b.spec.Linux.RootfsPropagation)
	}
	if b.inHostMounts() {
		b.attachRoot(root, b.rootPath())
		return nil
	}
	name := propagationName(propagation.host)
	b.add("keep mounts from spreading ("+name+")", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("/"), spawn.Nil(), spawn.Flags(propagation.host, name), spawn.Nil())
	if propagation.host&unix.MS_SHARED != 0 { // pivot_root refuses a shared parent
		b.add("make the old root private", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("/"), spawn.Nil(), spawn.Flags(unix.MS_PRIVATE, "MS_PRIVATE"), spawn.Nil())
	}
	b.attachRoot(root, b.attachPoint())
	return nil
}

func (b *builder) attachRoot(root spawn.FD, point string) {
	b.add("attach the root", unix.SYS_MOVE_MOUNT, spawn.Desc(root), spawn.Str(""), spawn.Int(unix.AT_FDCWD), spawn.Str(point),
		spawn.Flags(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
	b.root = root
}

// attachPoint is a directory that every host has and every user may pass through. Only the container's own mount
// namespace, and it only until the pivot, has something mounted there.
var attachPoint = sync.OnceValue(func() string {
	for _, dir := range []string{"/mnt", "/srv", "/tmp"} {
		if info, err := os.Lstat(dir); err == nil && info.IsDir() && info.Mode().Perm()&0o001 != 0 {
			return dir
		}
	}
	return "/dev"
})

// confine makes the container's root the one that paths are walked from, so that no link leads out of it. The host's
// mounts are still there: the kernel shows a user namespace a new /proc only where it could see one already.
func (b *builder) confine() {
	if len(b.spec.Linux.MaskedPaths) > 0 {
		b.add("open the null device", unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str("/dev/null"), spawn.Flags(unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, "O_PATH|O_CLOEXEC|O_NOFOLLOW")).Result = slotNull
	}
	if len(b.spec.Linux.Sysctl) > 0 { // the image's /proc may be another file system, or a link (CVE-2025-52881)
		b.add("open the kernel's settings", unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str("/proc/sys"), spawn.Flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC")).Result = slotSettings
	}
	b.add("remember the old root", unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str("/"), spawn.Flags(unix.O_PATH|unix.O_CLOEXEC, "O_PATH|O_CLOEXEC")).Result = slotOldRoot
	b.add("go to the root", unix.SYS_FCHDIR, spawn.Desc(b.root))
	b.add("walk paths from there", unix.SYS_CHROOT, spawn.Str("."))
}

// rootPropagations are the values of linux.rootfsPropagation: what the host's mounts, and so those that are bound, become
// in the container's mount namespace, and what its root becomes in the end.
var rootPropagations = map[string]struct{ host, root uint64 }{
	"": {unix.MS_SLAVE | unix.MS_REC, 0}, "slave": {unix.MS_SLAVE | unix.MS_REC, 0}, "rslave": {unix.MS_SLAVE | unix.MS_REC, 0},
	"private": {unix.MS_PRIVATE | unix.MS_REC, 0}, "rprivate": {unix.MS_PRIVATE | unix.MS_REC, 0},
	"shared":      {unix.MS_SHARED | unix.MS_REC, unix.MS_SHARED},
	"rshared":     {unix.MS_SHARED | unix.MS_REC, unix.MS_SHARED | unix.MS_REC},
	"unbindable":  {unix.MS_PRIVATE | unix.MS_REC, unix.MS_UNBINDABLE},
	"runbindable": {unix.MS_PRIVATE | unix.MS_REC, unix.MS_UNBINDABLE | unix.MS_REC},
}

// defaultPropagation is that of binds whose options say nothing.
func (b *builder) defaultPropagation() uint64 {
	return rootPropagations[b.spec.Linux.RootfsPropagation].host
}

// spreadRoot sets the propagation of the container's root, in the new root.
func (b *builder) spreadRoot() {
	if kind := rootPropagations[b.spec.Linux.RootfsPropagation].root; kind != 0 {
		name := propagationName(kind)
		b.add("make the root "+name, unix.SYS_MOUNT, spawn.Nil(), spawn.Str("/"), spawn.Nil(), spawn.Flags(kind, name), spawn.Nil())
	}
}

// pivot makes the attached root the process's root and lets go of the host's. See pivot_root(2), "pivot_root(".", ".")".
func (b *builder) pivot(no bool) error {
	if b.inHostMounts() { // whose root stays what it is: confine has made the container's the process's
		b.add("go to /", unix.SYS_CHDIR, spawn.Str("/"))
		b.spreadRoot()
		b.forgetOldRoot()
		return nil
	}
	b.add("go to the old root", unix.SYS_FCHDIR, spawn.Of(slotOldRoot))
	b.add("walk paths from there", unix.SYS_CHROOT, spawn.Str("."))
	if no {
		if err := b.moveRoot(); err != nil {
			return err
		}
	} else {
		b.add("go to the root", unix.SYS_FCHDIR, spawn.Desc(b.root))
		b.add("pivot the root (from an initramfs, that takes --no-pivot)", unix.SYS_PIVOT_ROOT, spawn.Str("."), spawn.Str("."))
		b.add("go to the old root", unix.SYS_FCHDIR, spawn.Of(slotOldRoot))
		b.add("keep the old root's unmount from spreading", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("."), spawn.Nil(),
			spawn.Flags(unix.MS_REC|unix.MS_SLAVE, "MS_REC|MS_SLAVE"), spawn.Nil())
		b.add("let go of the old root", unix.SYS_UMOUNT2, spawn.Str("."), spawn.Flags(unix.MNT_DETACH, "MNT_DETACH"))
	}
	b.add("go to /", unix.SYS_CHDIR, spawn.Str("/"))
	b.spreadRoot()
	b.forgetOldRoot()
	return nil
}

// moveRoot puts the root over the host's, where pivot_root(2) is impossible: from an initramfs. The host's proc and sysfs
// go first, as far as they can: a container that gets out of the root by what is below must not find them unmasked.
func (b *builder) moveRoot() error {
	var hidden []string
	if !b.dry {
		var err error
		if hidden, err = mountsOf("proc", "sysfs"); err != nil {
			return err
		}
	}
	for _, path := range slices.Backward(hidden) {
		b.add("hide the host's "+path, unix.SYS_UMOUNT2, spawn.Str(path), spawn.Flags(unix.MNT_DETACH, "MNT_DETACH"))
		s := &b.plan.Steps[len(b.plan.Steps)-1]
		s.Ignore, s.Skip = []unix.Errno{unix.EINVAL, unix.EPERM, unix.ENOENT}, 1
		b.add("cover the host's "+path, unix.SYS_MOUNT, spawn.Str("tmpfs"), spawn.Str(path), spawn.Str("tmpfs"), spawn.Int(0), spawn.Nil()).
			Ignore = []unix.Errno{unix.ENOENT}
	}
	b.add("move the root over the host's", unix.SYS_MOVE_MOUNT, spawn.Desc(b.root), spawn.Str(""), spawn.Int(unix.AT_FDCWD), spawn.Str("/"),
		spawn.Flags(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
	b.add("go to the root", unix.SYS_FCHDIR, spawn.Desc(b.root))
	b.add("walk paths from there", unix.SYS_CHROOT, spawn.Str("."))
	return nil
}

// mountsOf lists where file systems of the given types are mounted, in order; see proc_pid_mountinfo(5).
func mountsOf(types ...string) ([]string, error) {
	text, err := rawfile.Read("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list the host's mounts: %w", err)
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var list []string
	for line := range strings.Lines(string(text)) {
		mount, source, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(mount), strings.Fields(source)
		if len(fields) > 4 && len(kind) > 0 && slices.Contains(types, kind[0]) {
			list = append(list, unescape.Replace(fields[4]))
		}
	}
	return list, nil
}

// forgetOldRoot closes the host's root: process.cwd, or a link of the image, may name /proc/self/fd/N (CVE-2024-21626).
func (b *builder) forgetOldRoot() {
	b.add("close the old root", unix.SYS_CLOSE, spawn.Of(slotOldRoot))
}

// mountRoot makes the detached mount that becomes the root: the given mounts, or the bundle's directory.
func (b *builder) mountRoot(list []Mount) (spawn.FD, error) {
	if b.dry {
		return spawn.FD{Name: "rootfs"}, nil
	}
	var num int
	var err error
	field := ""
	switch {
	case len(list) == 0:
		field = "config.json: root.path: "
		num, err = b.cloneTree(b.rootPath(), true)
	case len(list) == 1 && list[0].Type == "overlay":
		num, err = b.makeOverlay(list[0].Options)
	case len(list) == 1 && (list[0].Type == "bind" || list[0].Type == ""):
		num, err = b.cloneTree(list[0].Source, true)
	default:
		err = fmt.Errorf("%d mounts of type %q: want one overlay or bind", len(list), list[0].Type)
	}
	if err != nil {
		return spawn.FD{}, fmt.Errorf("%smount the root file system: %w", field, err)
	}
	fd := b.fd(num, "rootfs")
	var options mountOptions
	var m specs.Mount
	if len(list) == 1 && list[0].Type != "overlay" {
		if m, options, err = rootOptions(list[0]); err != nil {
			return spawn.FD{}, err
		}
	}
	if b.defaultPropagation()&unix.MS_SHARED != 0 { // pivot_root refuses a shared root: see spreadRoot
		options.propagation = append(options.propagation, unix.MS_PRIVATE)
	}
	if err := b.bindAttributes(num, m, options); err != nil {
		return spawn.FD{}, fmt.Errorf("%smount the root file system: %w", field, err)
	}
	if len(list) == 1 && hasOption(list[0].Options, "ro") {
		if err := b.setAttributes(num, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false); err != nil {
			return spawn.FD{}, fmt.Errorf("make the root file system read-only: %w", err)
		}
	}
	return fd, nil
}

// rootOptions are the options of a bind that becomes the root. As containerd writes them, uidmap=CONTAINER:HOST:SIZE and
// gidmap=… are among them.
func rootOptions(root Mount) (specs.Mount, mountOptions, error) {
	m := specs.Mount{Type: "bind", Source: root.Source, Destination: "/"}
	for _, option := range root.Options {
		key, value, _ := strings.Cut(option, "=")
		switch list, err := parseIDMaps(value); {
		case key == "uidmap" && err == nil:
			m.UIDMappings = list
		case key == "gidmap" && err == nil:
			m.GIDMappings = list
		case key == "uidmap" || key == "gidmap":
			return m, mountOptions{}, fmt.Errorf("mount the root file system: option %s: %w", option, err)
		default:
			m.Options = append(m.Options, option)
		}
	}
	o, err := parseMountOptions(m)
	if err != nil {
		return m, o, fmt.Errorf("mount the root file system: %w", err)
	}
	if o.flags&unix.MS_RDONLY == 0 && o.flags == 0 { // "rw" alone is what everybody says: it clears nothing
		o.cleared = 0
	}
	return m, o, nil
}

// parseIDMaps parses CONTAINER:HOST:SIZE, several of them after commas.
func parseIDMaps(text string) ([]specs.LinuxIDMapping, error) {
	var list []specs.LinuxIDMapping
	for part := range strings.SplitSeq(text, ",") {
		var n [3]uint32
		fields := strings.Split(part, ":")
		if len(fields) != len(n) {
			return nil, fmt.Errorf("%q: want CONTAINER:HOST:SIZE", part)
		}
		for i, field := range fields {
			value, err := strconv.ParseUint(field, 10, 32)
			if err != nil {
				return nil, err
			}
			n[i] = uint32(value)
		}
		list = append(list, specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return list, nil
}

func hasOption(list []string, option string) bool {
	for _, o := range list {
		if o == option {
			return true
		}
	}
	return false
}

// cloneTree is a detached copy of the mount of a path, and of what is mounted below it; see open_tree(2).
func (b *builder) cloneTree(path string, recursive bool) (fd int, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if b.mounter != nil {
		fd, err = b.mounter.cloneTree(path, flags)
	} else {
		fd, err = unix.OpenTree(unix.AT_FDCWD, path, flags)
	}
	if err != nil {
		return -1, &os.PathError{Op: "clone the mount of", Path: path, Err: err}
	}
	return fd, nil
}

// setAttributes changes flags, propagation or the ids of a detached mount; see mount_setattr(2).
func (b *builder) setAttributes(fd int, attr unix.MountAttr, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if b.mounter != nil {
		return b.mounter.setAttributes(fd, flags, &attr)
	}
	return unix.MountSetattr(fd, "", flags, &attr)
}

// protectPaths makes what the specification masks unreadable, and what it protects read-only, at last the root. A mask is
// the host's null device, opened before the container could put anything in its place (CVE-2025-31133).
func (b *builder) protectPaths() error {
	b.lateReadonly()
	defer b.at("")
	for i, path := range b.spec.Linux.ReadonlyPaths {
		b.at(fmt.Sprintf("linux.readonlyPaths[%d]", i))
		b.readonlyPath(path)
	}
	b.mask(b.spec.Linux.MaskedPaths)
	b.at("")
	if b.spec.Root.Readonly {
		b.resolve("open /", "/", unix.O_PATH)
		b.setattr("make the root read-only", unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false)
		b.release("/")
	}
	return nil
}

// absent are the errors of a path that is not there to be protected.
var absent = []unix.Errno{unix.ENOENT, unix.ENOTDIR}

const treeFlags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH

var readonly = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}

// readonlyPath covers a path, and all that is mounted below, with a read-only view of itself.
func (b *builder) readonlyPath(path string) {
	look := b.resolve("look for "+path, path, unix.O_PATH)
	look.Ignore, look.Else = absent, 5
	b.add("view "+path, unix.SYS_OPEN_TREE, spawn.Of(slotScratch), spawn.Str(""),
		spawn.Flags(treeFlags|unix.AT_RECURSIVE, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH|AT_RECURSIVE")).Result = slotTree
	b.add("make the view read-only", unix.SYS_MOUNT_SETATTR, spawn.Of(slotTree), spawn.Str(""), spawn.Flags(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, "AT_EMPTY_PATH|AT_RECURSIVE"),
		spawn.Bytes(bytesOf(&readonly), "{+RDONLY}"), spawn.Int(unix.MOUNT_ATTR_SIZE_VER0))
	b.moveMount("make "+path+" read-only", spawn.Of(slotTree), spawn.Of(slotScratch))
	b.add("close the view", unix.SYS_CLOSE, spawn.Of(slotTree))
	b.release(path)
}

// inUserNamespace tells that device nodes cannot be made.
func (b *builder) inUserNamespace() bool {
	_, listed := b.has(specs.UserNamespace)
	return listed
}
