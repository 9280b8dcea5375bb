package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// errNotDevice tells that a path is neither a device nor a directory of them.
var errNotDevice = errors.New("not a device node")

// privateDevices are what of the host's /dev a privileged container does not see, as docker has it: it has terminals,
// shared memory, queues and a console of its own.
var privateDevices = []string{"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev", "/dev/console"}

// checkDevices refuses what no device of the host could be.
func checkDevices(list []container.DeviceMapping) error {
	for _, d := range list {
		switch {
		case !path.IsAbs(d.PathOnHost):
			return refuse("invalid device %q: the path on the host is not absolute", d.PathOnHost)
		case d.PathInContainer != "" && !path.IsAbs(d.PathInContainer):
			return refuse("invalid device %q: the path in the container, %q, is not absolute", d.PathOnHost, d.PathInContainer)
		case path.Clean(d.PathInContainer) == "/":
			return refuse("invalid device %q: the path in the container must not be /", d.PathOnHost)
		case strings.Trim(d.CgroupPermissions, "rwm") != "":
			return refuse("invalid device mode %q of %s: want a combination of r, w and m", d.CgroupPermissions, d.PathOnHost)
		}
	}
	return nil
}

// devices looks up on the host what --device names, and for a privileged container every device there is.
func devices(host *container.HostConfig) (list []specs.LinuxDevice, rules []specs.LinuxDeviceCgroup, err error) {
	if host.Privileged {
		if list, err = devicesBelow("/dev", "/dev"); err != nil {
			return nil, nil, fmt.Errorf("list the host's devices: %w", err)
		}
	}
	for _, d := range host.Devices {
		inside := path.Clean(d.PathInContainer)
		if d.PathInContainer == "" {
			inside = path.Clean(d.PathOnHost)
		}
		found, err := devicesAt(d.PathOnHost, inside)
		if err != nil {
			return nil, nil, refuse("error gathering device information while adding custom device %q: %v", d.PathOnHost, err)
		}
		access := d.CgroupPermissions
		if access == "" {
			access = "rwm"
		}
		for _, f := range found {
			// The last one that claims a name has it.
			list = slices.DeleteFunc(list, func(have specs.LinuxDevice) bool { return have.Path == f.Path })
			list = append(list, f)
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: f.Type, Major: &f.Major, Minor: &f.Minor, Access: access})
		}
	}
	return list, rules, nil
}

// devicesAt is the device at a path of the host, or those below it if it is a directory; inside is its name in the container.
func devicesAt(source, inside string) ([]specs.LinuxDevice, error) {
	source, err := filepath.EvalSymlinks(source)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, unix.ENOENT // without the path, which the caller's message has
		}
		return nil, err
	}
	d, err := statDevice(source, inside)
	if err == nil {
		return []specs.LinuxDevice{d}, nil
	}
	if info, statErr := os.Stat(source); statErr != nil || !info.IsDir() {
		return nil, err
	}
	list, err := devicesBelow(source, inside)
	if err == nil && len(list) == 0 {
		err = errors.New("no device nodes in the directory")
	}
	return list, err
}

// devicesBelow are the devices of a directory of the host and of those below it, with names below inside.
func devicesBelow(dir, inside string) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // devices come and go
			return nil
		}
		if err != nil {
			return err
		}
		if slices.Contains(privateDevices, p) && p != dir {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.Type()&fs.ModeDevice == 0 { // links, sockets, and FIFOs are not devices of the host
			return nil
		}
		d, err := statDevice(p, path.Join(inside, strings.TrimPrefix(p, dir)))
		if err == nil {
			list = append(list, d)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDevice) {
			return nil
		}
		return err
	})
	return list, err
}

// statDevice describes a device of the host under the name that it gets in the container.
func statDevice(source, inside string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(source, &st); err != nil {
		return specs.LinuxDevice{}, fmt.Errorf("stat %s: %w", source, err)
	}
	d := specs.LinuxDevice{Path: inside, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), UID: &st.Uid, GID: &st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return specs.LinuxDevice{}, errNotDevice
	}
	mode := os.FileMode(st.Mode & 0o777)
	d.FileMode = &mode
	return d, nil
}
