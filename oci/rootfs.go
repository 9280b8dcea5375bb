package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

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
	propagation, name, err := rootPropagation(b.spec.Linux.RootfsPropagation)
	if err != nil {
		return err
	}
	b.add("keep mounts from spreading ("+name+")", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("/"), spawn.Nil(), spawn.Flags(propagation, name), spawn.Nil())
	if propagation&unix.MS_SHARED != 0 { // pivot_root refuses a shared parent
		b.add("make the old root private", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("/"), spawn.Nil(), spawn.Flags(unix.MS_PRIVATE, "MS_PRIVATE"), spawn.Nil())
	}
	b.add("attach the root", unix.SYS_MOVE_MOUNT, spawn.Desc(root), spawn.Str(""), spawn.Int(unix.AT_FDCWD), spawn.Str(b.attachPoint()),
		spawn.Flags(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
	b.root = root
	return nil
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
	b.add("remember the old root", unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str("/"), spawn.Flags(unix.O_PATH|unix.O_CLOEXEC, "O_PATH|O_CLOEXEC")).Result = slotOldRoot
	b.add("go to the root", unix.SYS_FCHDIR, spawn.Desc(b.root))
	b.add("walk paths from there", unix.SYS_CHROOT, spawn.Str("."))
}

func rootPropagation(text string) (flags uint64, name string, err error) {
	switch text {
	case "", "rslave", "slave":
		return unix.MS_REC | unix.MS_SLAVE, "MS_REC|MS_SLAVE", nil
	case "rprivate", "private":
		return unix.MS_REC | unix.MS_PRIVATE, "MS_REC|MS_PRIVATE", nil
	case "rshared", "shared":
		return unix.MS_REC | unix.MS_SHARED, "MS_REC|MS_SHARED", nil
	case "unbindable", "runbindable":
		return unix.MS_REC | unix.MS_PRIVATE, "MS_REC|MS_PRIVATE", nil
	}
	return 0, "", fmt.Errorf("config.json: linux.rootfsPropagation: unknown propagation %q", text)
}

// pivot makes the attached root the process's root and lets go of the host's. See pivot_root(2), "pivot_root(".", ".")".
func (b *builder) pivot(no bool) {
	defer b.forgetOldRoot()
	if no {
		b.add("go to /", unix.SYS_CHDIR, spawn.Str("/"))
		return
	}
	b.add("go to the old root", unix.SYS_FCHDIR, spawn.Of(slotOldRoot))
	b.add("walk paths from there", unix.SYS_CHROOT, spawn.Str("."))
	b.add("go to the root", unix.SYS_FCHDIR, spawn.Desc(b.root))
	b.add("pivot the root", unix.SYS_PIVOT_ROOT, spawn.Str("."), spawn.Str("."))
	b.add("keep the old root's unmount from spreading", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("."), spawn.Nil(),
		spawn.Flags(unix.MS_REC|unix.MS_SLAVE, "MS_REC|MS_SLAVE"), spawn.Nil())
	b.add("let go of the old root", unix.SYS_UMOUNT2, spawn.Str("."), spawn.Flags(unix.MNT_DETACH, "MNT_DETACH"))
	b.add("go to /", unix.SYS_CHDIR, spawn.Str("/"))
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
	switch {
	case len(list) == 0:
		num, err = cloneTree(b.rootPath(), true)
	case len(list) == 1 && list[0].Type == "overlay":
		num, err = mountOverlay(list[0].Options)
	case len(list) == 1 && (list[0].Type == "bind" || list[0].Type == ""):
		num, err = cloneTree(list[0].Source, true)
	default:
		err = fmt.Errorf("%d mounts of type %q: want one overlay or bind", len(list), list[0].Type)
	}
	if err != nil {
		return spawn.FD{}, fmt.Errorf("mount the root file system: %w", err)
	}
	fd := b.fd(num, "rootfs")
	if len(list) == 1 && hasOption(list[0].Options, "ro") {
		if err := setAttributes(num, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
			return spawn.FD{}, fmt.Errorf("make the root file system read-only: %w", err)
		}
	}
	return fd, nil
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
func cloneTree(path string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return -1, &os.PathError{Op: "clone the mount of", Path: path, Err: err}
	}
	return fd, nil
}

// setAttributes changes flags and propagation of a detached mount; see mount_setattr(2).
func setAttributes(fd int, set, propagation uint64, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: set, Propagation: propagation})
}

// mountOverlay makes a detached overlay from mount options; see the kernel's filesystems/overlayfs.
func mountOverlay(options []string) (_ int, err error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fs)
	for _, option := range options {
		key, value, hasValue := strings.Cut(option, "=")
		switch {
		case key == "ro" || key == "rw":
			continue
		case key == "lowerdir":
			err = overlayLayers(fs, value)
		case hasValue:
			err = unix.FsconfigSetString(fs, key, value)
		default:
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, fmt.Errorf("overlay option %s: %w", option, explain(fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("create overlay: %w", explain(fs, err))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount overlay: %w", explain(fs, err))
	}
	return fd, nil
}

// overlayLayers names the layers one by one where the kernel can (6.5): one string of all is limited to 256 bytes
// here and a page elsewhere.
func overlayLayers(fs int, value string) error {
	for i, layer := range strings.Split(value, ":") {
		err := unix.FsconfigSetString(fs, "lowerdir+", layer)
		if i == 0 && errors.Is(err, unix.EINVAL) {
			return unix.FsconfigSetString(fs, "lowerdir", value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// explain adds what the file system itself says about a failure; see fsopen(2), "message retrieval".
func explain(fs int, err error) error {
	var text [256]byte
	n, readErr := unix.Read(fs, text[:])
	if readErr != nil || n <= 2 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(text[2:n])))
}

// protectPaths makes what the specification masks unreadable, and what it protects read-only, at last the root.
func (b *builder) protectPaths() error {
	absent := []unix.Errno{unix.ENOENT, unix.ENOTDIR}
	for _, path := range b.spec.Linux.ReadonlyPaths {
		b.add("cover "+path+" by itself", unix.SYS_MOUNT, spawn.Str(path), spawn.Str(path), spawn.Nil(), spawn.Flags(unix.MS_BIND|unix.MS_REC, "MS_BIND|MS_REC"), spawn.Nil()).Ignore = absent
		b.attributes("make "+path+" read-only", path, unix.MOUNT_ATTR_RDONLY, true).Ignore = absent
	}
	for _, path := range b.spec.Linux.MaskedPaths {
		s := b.add("mask "+path+" by /dev/null", unix.SYS_MOUNT, spawn.Str("/dev/null"), spawn.Str(path), spawn.Nil(), spawn.Flags(unix.MS_BIND, "MS_BIND"), spawn.Nil())
		s.Ignore, s.Skip = absent, 1
		b.add("mask "+path+" by an empty directory", unix.SYS_MOUNT, spawn.Str("tmpfs"), spawn.Str(path), spawn.Str("tmpfs"),
			spawn.Flags(unix.MS_RDONLY, "MS_RDONLY"), spawn.Str("size=0k,nr_inodes=1")).Ignore = absent
	}
	if b.spec.Root.Readonly {
		b.attributes("make the root read-only", "/", unix.MOUNT_ATTR_RDONLY, false)
	}
	return nil
}

// attributes adds a step that sets flags of the mount at a path.
func (b *builder) attributes(name, path string, set uint64, recursive bool) *spawn.Step {
	flags, shown := uint64(0), "0"
	if recursive {
		flags, shown = unix.AT_RECURSIVE, "AT_RECURSIVE"
	}
	attr := &unix.MountAttr{Attr_set: set}
	return b.add(name, unix.SYS_MOUNT_SETATTR, spawn.Int(unix.AT_FDCWD), spawn.Str(path), spawn.Flags(flags, shown),
		spawn.Bytes(bytesOf(attr), fmt.Sprintf("{attr_set=%#x}", set)), spawn.Int(unix.MOUNT_ATTR_SIZE_VER0))
}

// inUserNamespace tells that device nodes cannot be made.
func (b *builder) inUserNamespace() bool {
	_, listed := b.has(specs.UserNamespace)
	return listed
}
