package oci

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// option is a mount option that is a flag: of mount(2), and of mount_setattr(2) for what is mounted detached.
type option struct {
	set, clear uint64 // MS_…
	attr       uint64 // MOUNT_ATTR_…, to be set or cleared likewise
	name       string
}

var mountFlags = map[string]option{
	"ro": {unix.MS_RDONLY, 0, unix.MOUNT_ATTR_RDONLY, "MS_RDONLY"}, "rw": {0, unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY, ""},
	"nosuid": {unix.MS_NOSUID, 0, unix.MOUNT_ATTR_NOSUID, "MS_NOSUID"}, "suid": {0, unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID, ""},
	"nodev": {unix.MS_NODEV, 0, unix.MOUNT_ATTR_NODEV, "MS_NODEV"}, "dev": {0, unix.MS_NODEV, unix.MOUNT_ATTR_NODEV, ""},
	"noexec": {unix.MS_NOEXEC, 0, unix.MOUNT_ATTR_NOEXEC, "MS_NOEXEC"}, "exec": {0, unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC, ""},
	"nosymfollow": {unix.MS_NOSYMFOLLOW, 0, unix.MOUNT_ATTR_NOSYMFOLLOW, "MS_NOSYMFOLLOW"},
	"symfollow":   {0, unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW, ""},
	"noatime":     {unix.MS_NOATIME, 0, unix.MOUNT_ATTR_NOATIME, "MS_NOATIME"}, "atime": {0, unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME, ""},
	"nodiratime": {unix.MS_NODIRATIME, 0, unix.MOUNT_ATTR_NODIRATIME, "MS_NODIRATIME"}, "diratime": {0, unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME, ""},
	"relatime": {unix.MS_RELATIME, 0, unix.MOUNT_ATTR_RELATIME, "MS_RELATIME"}, "norelatime": {0, unix.MS_RELATIME, unix.MOUNT_ATTR_RELATIME, ""},
	"strictatime": {unix.MS_STRICTATIME, 0, unix.MOUNT_ATTR_STRICTATIME, "MS_STRICTATIME"}, "nostrictatime": {0, unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME, ""},
	// These belong to the file system, not to the mount: a bind does not change them.
	"sync": {unix.MS_SYNCHRONOUS, 0, 0, "MS_SYNCHRONOUS"}, "async": {0, unix.MS_SYNCHRONOUS, 0, ""},
	"dirsync": {unix.MS_DIRSYNC, 0, 0, "MS_DIRSYNC"}, "mand": {unix.MS_MANDLOCK, 0, 0, "MS_MANDLOCK"}, "nomand": {0, unix.MS_MANDLOCK, 0, ""},
	"iversion": {unix.MS_I_VERSION, 0, 0, "MS_I_VERSION"}, "noiversion": {0, unix.MS_I_VERSION, 0, ""},
	"lazytime": {unix.MS_LAZYTIME, 0, 0, "MS_LAZYTIME"}, "nolazytime": {0, unix.MS_LAZYTIME, 0, ""},
	"silent": {unix.MS_SILENT, 0, 0, "MS_SILENT"}, "loud": {0, unix.MS_SILENT, 0, ""},
	"acl": {msPosixACL, 0, 0, "MS_POSIXACL"}, "noacl": {0, msPosixACL, 0, ""},
	"defaults": {},
}

const msPosixACL = 1 << 16

// recursiveFlags are the options that hold for everything below a mount: "r" and the option for one mount.
var recursiveFlags = func() map[string]option {
	list := map[string]option{}
	for name, f := range mountFlags {
		if f.attr != 0 || name == "relatime" || name == "norelatime" {
			list["r"+name] = f
		}
	}
	return list
}()

var propagationFlags = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC, "unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// mountOptions are a mount's options, sorted out.
type mountOptions struct {
	flags       uint64 // MS_…
	cleared     uint64 // MS_… that the options say shall not be
	flagNames   []string
	deep        unix.MountAttr // for this mount and those below it (rro, rnosuid, …)
	propagation []uint64       // MS_…, one after the other
	bind        bool
	recursive   bool
	remount     bool
	copyUp      bool
	idMap       bool // the mount's ids are mapped
	idMapDeep   bool // and those of the mounts below it
	data        []string
}

func parseMountOptions(m specs.Mount) (mountOptions, error) {
	o := mountOptions{bind: m.Type == "bind" || m.Type == "rbind", recursive: m.Type == "rbind"}
	o.idMap = len(m.UIDMappings)+len(m.GIDMappings) > 0
	for _, text := range m.Options {
		if f, known := mountFlags[text]; known {
			o.set(f)
		} else if f, known := recursiveFlags[text]; known {
			o.setDeep(f)
		} else if p, known := propagationFlags[text]; known {
			o.propagation = append(o.propagation, p)
		} else if !o.word(text) {
			o.data = append(o.data, text)
		}
	}
	switch {
	case o.bind && len(o.data) > 0:
		return o, fmt.Errorf("mount on %s: unknown option %q of a bind", m.Destination, o.data[0])
	case o.idMap && !o.bind:
		return o, fmt.Errorf("mount on %s: only a bind can have id mappings, not %s", m.Destination, m.Type)
	case o.idMap && (len(m.UIDMappings) == 0) != (len(m.GIDMappings) == 0):
		return o, fmt.Errorf("mount on %s: uidMappings and gidMappings must be there both, or none", m.Destination)
	case o.copyUp && m.Type != "tmpfs":
		return o, fmt.Errorf("mount on %s: option tmpcopyup is for a tmpfs, not %s", m.Destination, m.Type)
	}
	return o, nil
}

// word takes an option that is neither a flag nor for the file system.
func (o *mountOptions) word(text string) bool {
	switch text {
	case "bind":
		o.bind = true
	case "rbind":
		o.bind, o.recursive = true, true
	case "remount":
		o.remount = true
	case "tmpcopyup":
		o.copyUp = true
	case "idmap":
		o.idMap = true
	case "ridmap":
		o.idMap, o.idMapDeep = true, true
	default:
		return false
	}
	return true
}

func (o *mountOptions) set(f option) {
	o.flags, o.cleared = o.flags&^f.clear|f.set, o.cleared&^f.set|f.clear
	if f.name != "" && !slices.Contains(o.flagNames, f.name) {
		o.flagNames = append(o.flagNames, f.name)
	}
	for _, other := range mountFlags {
		if other.set != 0 && other.set&f.clear != 0 {
			o.flagNames = slices.DeleteFunc(o.flagNames, func(n string) bool { return n == other.name })
		}
	}
}

// setDeep: what concerns access times is one setting of several values, which must be cleared as a whole.
func (o *mountOptions) setDeep(f option) {
	const atimes = unix.MOUNT_ATTR__ATIME
	clears := f.set == 0
	switch {
	case f.attr&^atimes == 0 && clears:
		if o.deep.Attr_set&atimes == f.attr {
			o.deep.Attr_set &^= atimes
		}
		o.deep.Attr_clr |= atimes
	case f.attr&^atimes == 0:
		o.deep.Attr_set = o.deep.Attr_set&^atimes | f.attr
		o.deep.Attr_clr |= atimes
	case clears:
		o.deep.Attr_set, o.deep.Attr_clr = o.deep.Attr_set&^f.attr, o.deep.Attr_clr|f.attr
	default:
		o.deep.Attr_set, o.deep.Attr_clr = o.deep.Attr_set|f.attr, o.deep.Attr_clr&^f.attr
	}
}

// isDeep tells that there are options for the mounts below, too.
func (o *mountOptions) isDeep() bool { return o.deep.Attr_set|o.deep.Attr_clr != 0 }

// attributes are what the flags mean for a bind: exactly those are set, as "mount -o bind,FLAGS" is meant to do. Without
// any flag the source's stay; without one for access times, those stay.
func (o *mountOptions) attributes() (attr unix.MountAttr) {
	if o.flags|o.cleared == 0 {
		return attr
	}
	for _, f := range mountFlags {
		switch {
		case f.set == 0 || f.attr&^unix.MOUNT_ATTR__ATIME == 0: // not one to set, or one for access times
		case f.attr == unix.MOUNT_ATTR_NODIRATIME && (o.flags|o.cleared)&unix.MS_NODIRATIME == 0:
		case o.flags&f.set != 0:
			attr.Attr_set |= f.attr
		default:
			attr.Attr_clr |= f.attr
		}
	}
	if (o.flags|o.cleared)&(unix.MS_NOATIME|unix.MS_RELATIME|unix.MS_STRICTATIME) != 0 {
		attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
		switch {
		case o.flags&unix.MS_NOATIME != 0:
			attr.Attr_set |= unix.MOUNT_ATTR_NOATIME
		case o.flags&unix.MS_STRICTATIME != 0:
			attr.Attr_set |= unix.MOUNT_ATTR_STRICTATIME
		}
	}
	return attr
}

// MountOptions lists the mount options that are understood, sorted; all others are passed on to the file system.
func MountOptions() []string {
	list := slices.Collect(maps.Keys(mountFlags))
	list = slices.AppendSeq(list, maps.Keys(recursiveFlags))
	list = slices.AppendSeq(list, maps.Keys(propagationFlags))
	list = append(list, "bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap")
	slices.Sort(list)
	return list
}

// attrNames shows attributes to people: "+RDONLY -NODEV".
func attrNames(attr *unix.MountAttr) string {
	var names []string
	for _, f := range mountFlags {
		name, _ := strings.CutPrefix(f.name, "MS_")
		if f.set == 0 || f.attr == 0 {
			continue
		}
		if attr.Attr_set&f.attr != 0 {
			names = append(names, "+"+name)
		} else if attr.Attr_clr&f.attr != 0 {
			names = append(names, "-"+name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
