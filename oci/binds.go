package oci

import (
	"errors"
	"fmt"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

func (b *builder) sourceOf(m specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(b.bundle, m.Source)
}

// bind attaches a copy of a host mount that the parent made, with its flags, before the clone.
func (b *builder) bind(m specs.Mount, o mountOptions) error {
	source := b.sourceOf(m)
	fd := spawn.FD{Name: source}
	directory := true
	if !b.dry {
		num, err := b.cloneTree(source, o.recursive)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", m.Destination, err)
		}
		fd = b.fd(num, source)
		if err := b.bindAttributes(num, m, o); err != nil {
			return fmt.Errorf("mount %s on %s: %w", source, m.Destination, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(num, &st); err != nil {
			return fmt.Errorf("mount %s on %s: %w", source, m.Destination, err)
		}
		directory = st.Mode&unix.S_IFMT == unix.S_IFDIR
		b.willMount(m.Destination, num)
	}
	b.attach(fd, m.Destination, directory)
	return nil
}

// attach makes the mount point if it is missing and puts a detached mount on it.
func (b *builder) attach(fd spawn.FD, destination string, directory bool) {
	b.target(destination, directory, 0)
	b.moveMount(fmt.Sprintf("bind %s to %s", fd.Name, destination), spawn.Desc(fd), spawn.Of(slotScratch))
	b.release(destination)
}

// moveMount attaches a detached mount to what a descriptor refers to.
func (b *builder) moveMount(name string, mount, target spawn.Arg) *spawn.Step {
	return b.add(name, unix.SYS_MOVE_MOUNT, mount, spawn.Str(""), target, spawn.Str(""),
		spawn.Flags(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH"))
}

// bindAttributes sets everything of a detached bind.
func (b *builder) bindAttributes(fd int, m specs.Mount, o mountOptions) error {
	if err := b.propagate(fd, o.propagation); err != nil {
		return fmt.Errorf("set propagation: %w", err)
	}
	if o.idMap {
		if err := b.idMap(fd, m, o.idMapDeep); err != nil {
			return err
		}
	}
	if attr := o.attributes(); attr.Attr_set|attr.Attr_clr != 0 {
		if err := b.setUnlocked(fd, attr, o.cleared); err != nil {
			return fmt.Errorf("set flags (%s): %w", attrNames(&attr), err)
		}
	}
	if o.isDeep() {
		if err := b.setAttributes(fd, o.deep, true); err != nil {
			return fmt.Errorf("set flags recursively (%s): %w", attrNames(&o.deep), err)
		}
	}
	return nil
}

// propagate sets how a detached bind and the host's mounts learn of each other's changes: as rootfsPropagation says,
// and then as the mount's own options say. What another user namespace gets never spreads to the host.
func (b *builder) propagate(fd int, own []uint64) error {
	kinds := append([]uint64{b.defaultPropagation()}, own...)
	if b.inUserNamespace() && kinds[0]&unix.MS_SHARED != 0 {
		kinds[0] = unix.MS_SLAVE | unix.MS_REC
	}
	for _, kind := range kinds {
		if kind == 0 {
			continue
		}
		if err := b.setAttributes(fd, unix.MountAttr{Propagation: kind &^ unix.MS_REC}, kind&unix.MS_REC != 0); err != nil {
			return err
		}
	}
	return nil
}

// setUnlocked sets flags of a detached mount. Those that a user namespace above has locked stay, unless the options say
// in so many words that they shall go.
func (b *builder) setUnlocked(fd int, attr unix.MountAttr, cleared uint64) error {
	err := b.setAttributes(fd, attr, false)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return err
	}
	for name, f := range mountFlags {
		has := uint64(fs.Flags)&stFlags[f.attr] != 0
		if f.set == 0 || !has || attr.Attr_clr&f.attr == 0 {
			continue
		}
		if cleared&f.set != 0 {
			return fmt.Errorf("%s of the source is locked: %w", name, err)
		}
		attr.Attr_clr &^= f.attr
	}
	return b.setAttributes(fd, attr, false)
}

// stFlags are the attributes as statfs(2) tells them.
var stFlags = map[uint64]uint64{
	unix.MOUNT_ATTR_RDONLY: unix.ST_RDONLY, unix.MOUNT_ATTR_NOSUID: unix.ST_NOSUID, unix.MOUNT_ATTR_NODEV: unix.ST_NODEV,
	unix.MOUNT_ATTR_NOEXEC: unix.ST_NOEXEC, unix.MOUNT_ATTR_NODIRATIME: unix.ST_NODIRATIME, unix.MOUNT_ATTR_NOSYMFOLLOW: 0x2000,
}

// idMap maps the ids of a detached bind: by its own mappings, or by those of the container; see mount_setattr(2).
func (b *builder) idMap(fd int, m specs.Mount, recursive bool) error {
	ns, err := b.idMapNamespace(m)
	if err != nil {
		return err
	}
	err = b.setAttributes(fd, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)}, recursive)
	if errors.Is(err, unix.EINVAL) {
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil {
			return fmt.Errorf("map ids: the kernel does not do it for this file system (type %#x), or not again: %w", fs.Type, err)
		}
	}
	if err != nil {
		return fmt.Errorf("map ids: %w", err)
	}
	return nil
}

// idMapNamespace is a descriptor of a user namespace with the mappings.
func (b *builder) idMapNamespace(m specs.Mount) (int, error) {
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids) == 0 {
		if fd, joined := b.joined[specs.UserNamespace]; joined {
			return fd.Num, nil
		}
		if !b.isNew(specs.UserNamespace) {
			return -1, errors.New("map ids: option idmap without uidMappings takes those of the container, which has no user namespace")
		}
		uids, gids = b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings
	}
	key := idMap(uids) + "/" + idMap(gids)
	if fd, known := b.idMaps[key]; known {
		return fd, nil
	}
	ns, err := makeUserNamespace(uids, gids)
	if err != nil {
		return -1, fmt.Errorf("map ids: %w", err)
	}
	fd := b.fd(ns, "user namespace")
	if b.idMaps == nil {
		b.idMaps = map[string]int{}
	}
	b.idMaps[key] = fd.Num
	return fd.Num, nil
}
