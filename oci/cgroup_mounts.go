package oci

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// cgroupMount shows the container its cgroup: one file system on v2, a directory of one a hierarchy on v1.
func (b *builder) cgroupMount(m specs.Mount, o mountOptions) error {
	o.data = nil // hierarchies are the host's to choose
	_, own := b.has(specs.CgroupNamespace)
	if _, joined := b.joined[specs.CgroupNamespace]; joined && b.isNew(specs.UserNamespace) {
		own = false // it is another user namespace's: the kernel does not mount it here
	}
	if cgroupMode() == cgroup.V2 {
		return b.unifiedCgroup(m, o, own)
	}
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	var dirs map[string]string // of the host's, in place of file systems of its own
	if !own {
		if dirs, err = b.cgroupDirs(); err != nil {
			return err
		}
	}
	names := slices.DeleteFunc(slices.Clone(o.flagNames), func(n string) bool { return n == "MS_RDONLY" })
	b.target(m.Destination, true, 0)
	b.enter(m.Destination)
	b.mount("mount tmpfs on "+m.Destination, "tmpfs", "tmpfs", o.flags&^unix.MS_RDONLY, names, "mode=755,size=64k")
	b.resolve("open "+m.Destination, m.Destination, unix.O_PATH|unix.O_DIRECTORY)
	b.enter(m.Destination) // where nobody else has made anything: names need no check
	for _, controllers := range hierarchies {
		if err := b.hierarchy(m.Destination, controllers, o, dirs); err != nil {
			return err
		}
	}
	b.cgroupLinks(m.Destination, hierarchies)
	if o.flags&unix.MS_RDONLY != 0 {
		o.deep.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	b.settle(m.Destination, o)
	return nil
}

// unifiedCgroup mounts v2's tree. Without a namespace of its own the container gets its directory of the host's.
func (b *builder) unifiedCgroup(m specs.Mount, o mountOptions, own bool) error {
	if own {
		m.Type = "cgroup2"
		b.target(m.Destination, true, 0)
		b.enter(m.Destination)
		s := b.mount("mount cgroup2 on "+m.Destination, "cgroup", "cgroup2", o.flags, o.flagNames, "")
		s.Ignore, s.Skip = []unix.Errno{unix.EBUSY}, 2 // a bind of the host's /sys has the same tree there
		b.mount("cover what is mounted on "+m.Destination, "none", "tmpfs", unix.MS_RDONLY, []string{"MS_RDONLY"}, "size=4k")
		b.mount("mount cgroup2 over it", "cgroup", "cgroup2", o.flags, o.flagNames, "")
		b.settle(m.Destination, o)
		return nil
	}
	dirs, err := b.cgroupDirs()
	if err != nil {
		return err
	}
	o.bind = true
	return b.bind(specs.Mount{Source: dirs[""], Destination: m.Destination}, o)
}

// hierarchy shows one v1 hierarchy below the working directory: a mount of its own, or a bind of the host's directory.
func (b *builder) hierarchy(destination string, controllers []string, o mountOptions, dirs map[string]string) error {
	data := strings.Join(controllers, ",")
	name := strings.TrimPrefix(data, "name=")
	if name != data {
		data = "none," + data
	}
	point := destination + "/" + name
	b.add("make directory "+point, unix.SYS_MKDIRAT, spawn.Int(unix.AT_FDCWD), spawn.Str(name), spawn.Flags(0o755, "0755"))
	if dirs == nil {
		b.mountOn(name, "mount cgroup on "+point, "cgroup", "cgroup", o.flags, o.flagNames, data)
		return nil
	}
	source, there := dirs[controllers[0]]
	if !there {
		return nil // it was mounted after the container's cgroup had been made
	}
	fd := spawn.FD{Name: source}
	if !b.dry {
		num, err := b.cloneTree(source, false)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", point, err)
		}
		fd = b.fd(num, source)
		if err := b.bindAttributes(num, specs.Mount{}, mountOptions{bind: true, flags: o.flags}); err != nil {
			return fmt.Errorf("mount %s on %s: %w", source, point, err)
		}
	}
	b.add("bind "+source+" to "+point, unix.SYS_MOVE_MOUNT, spawn.Desc(fd), spawn.Str(""), spawn.Int(unix.AT_FDCWD), spawn.Str(name),
		spawn.Flags(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
	return nil
}

// cgroupLinks gives controllers that share a hierarchy a name each.
func (b *builder) cgroupLinks(dir string, hierarchies [][]string) {
	shared := slices.DeleteFunc(slices.Clone(hierarchies), func(controllers []string) bool { return len(controllers) < 2 })
	if len(shared) == 0 {
		return
	}
	b.resolve("open "+dir, dir, unix.O_PATH|unix.O_DIRECTORY)
	for _, controllers := range shared {
		for _, c := range controllers {
			b.add("link cgroup "+c, unix.SYS_SYMLINKAT, spawn.Str(strings.Join(controllers, ",")), spawn.Of(slotScratch), spawn.Str(c))
		}
	}
	b.release(dir)
}
