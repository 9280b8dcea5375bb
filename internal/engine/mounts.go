package engine

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// volumeName is what docker accepts as the name of a volume; everything else in front of a colon is a host path.
var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// mountPoint is one mount that a user asked for.
type mountPoint struct {
	Kind        mount.Type // bind, volume or tmpfs
	Source      string     // host path of a bind; name of a volume, "" for an anonymous one
	Destination string     // clean and absolute
	ReadOnly    bool
	Options     []string          // of the runtime specification, propagation included, without ro
	Create      bool              // of a bind: the source is made if it is missing (-v, not --mount)
	NoCopy      bool              // of a volume: the image's content at the destination is not copied into it
	Shallow     bool              // of a read-only mount: those below it stay writable
	Labels      map[string]string // of a volume that is made for it
	Borrowed    bool              // it is another container's (--volumes-from)
	Anonymous   bool              // of a borrowed volume: nobody named it
	Mode        string            // of a bind: the part after the second colon, as it was given
	Unlisted    bool              // a --tmpfs, which docker does not list among the mounts
}

// mountPoints collects -v, --mount, --tmpfs, what is borrowed by --volumes-from, and the image's VOLUMEs: of several for
// a destination, the first in this order wins; the same destination twice in the first three is an error. The order is by depth, so that a parent is mounted before its children.
func mountPoints(host *container.HostConfig, volumes map[string]struct{}, borrowed []mountPoint) ([]mountPoint, error) {
	byDestination := map[string]mountPoint{}
	add := func(m mountPoint, err error) error {
		if err != nil {
			return err
		}
		if _, taken := byDestination[m.Destination]; taken {
			return refuse("Duplicate mount point: %s", m.Destination)
		}
		byDestination[m.Destination] = m
		return nil
	}
	for _, bind := range host.Binds {
		if err := add(parseBind(bind)); err != nil {
			return nil, err
		}
	}
	for _, m := range host.Mounts {
		if err := add(parseMount(m)); err != nil {
			return nil, err
		}
	}
	for destination, options := range host.Tmpfs {
		if err := add(parseTmpfs(destination, options)); err != nil {
			return nil, err
		}
	}
	for _, m := range borrowed {
		if _, taken := byDestination[m.Destination]; !taken {
			byDestination[m.Destination] = m
		}
	}
	for volume := range volumes {
		m, err := parseBind(volume)
		if err != nil {
			return nil, err
		}
		if _, taken := byDestination[m.Destination]; !taken {
			byDestination[m.Destination] = m
		}
	}
	points := slices.Collect(maps.Values(byDestination))
	slices.SortFunc(points, func(a, b mountPoint) int { return strings.Compare(a.Destination, b.Destination) })
	return points, nil
}

// badMount is an error about a mount of a kind, in docker's words.
func badMount(kind mount.Type, why string) error {
	return refuse("invalid mount config for type %q: %s", kind, why)
}

// cleanDestination checks a path in the container: absolute, and not the root itself.
func cleanDestination(kind mount.Type, p string) (string, error) {
	switch {
	case p == "":
		return "", badMount(kind, "field Target must not be empty")
	case path.Clean(p) == "/":
		return "", badMount(kind, "invalid specification: destination can't be '/'")
	case !path.IsAbs(p):
		return "", badMount(kind, "invalid mount path: '"+p+"' mount path must be absolute")
	}
	return path.Clean(p), nil
}

// checkVolumeName refuses, in docker's words, what cannot be the name of a volume.
func checkVolumeName(name string) error {
	switch {
	case volumeName.MatchString(name):
		return nil
	case len(name) == 1:
		return refuse("create %s: volume name is too short, names should be at least two alphanumeric characters", name)
	}
	return refuse("create %s: %q includes invalid characters for a local volume name, only %q are allowed. If you intended to pass a host directory, use absolute path",
		name, name, "[a-zA-Z0-9][a-zA-Z0-9_.-]")
}

// bindModes are the words after -v's second colon, by what they are about: at most one of each kind may be given.
var bindModes = map[string]string{
	"rw": "access", "ro": "access", "z": "label", "Z": "label", "nocopy": "copy",
	"consistent": "consistency", "cached": "consistency", "delegated": "consistency",
	"private": "propagation", "rprivate": "propagation", "slave": "propagation", "rslave": "propagation", "shared": "propagation", "rshared": "propagation",
}

// bindMode reads the part of -v after the second colon: the words by what they are about.
func bindMode(mode string) (given map[string]string, err error) {
	given = map[string]string{}
	for word := range strings.SplitSeq(mode, ",") {
		kind := bindModes[word]
		if kind == "" || given[kind] != "" {
			return nil, refuse("invalid mode: %s", mode)
		}
		given[kind] = word
	}
	return given, nil
}

// setMode gives a mount the mode of its -v. Labels mean something only where SELinux runs; the consistency modes are
// another platform's.
func (m *mountPoint) setMode(mode string, given map[string]string) error {
	switch {
	case m.Kind == mount.TypeVolume && given["propagation"] != "":
		return badMount(m.Kind, "field BindOptions must not be specified")
	case m.Kind == mount.TypeBind && given["copy"] != "":
		return badMount(m.Kind, "field VolumeOptions must not be specified")
	case given["propagation"] != "":
		m.Options = []string{"rbind", given["propagation"]}
	}
	m.Mode, m.ReadOnly, m.NoCopy = mode, given["access"] == "ro", given["copy"] != ""
	return nil
}

// parseBind reads -v: SOURCE:DESTINATION[:OPTIONS], or DESTINATION alone for an anonymous volume.
func parseBind(text string) (mountPoint, error) {
	bad := func(err error) (mountPoint, error) {
		if err == nil {
			return mountPoint{}, refuse("invalid volume specification: '%s'", text)
		}
		return mountPoint{}, fmt.Errorf("invalid volume specification: '%s': %w", text, err)
	}
	parts := strings.Split(text, ":")
	m := mountPoint{Kind: mount.TypeVolume, Options: []string{"rbind", "rprivate"}}
	destination := parts[0]
	if len(parts) > 3 || parts[0] == "" {
		return bad(nil)
	}
	if len(parts) > 1 {
		m.Source, destination = parts[0], parts[1]
		if destination == "" || len(parts) == 2 && bindModes[destination] != "" { // -v /data:ro has no source
			return bad(nil)
		}
	}
	if path.IsAbs(m.Source) {
		m.Kind, m.Source, m.Create = mount.TypeBind, path.Clean(m.Source), true
	}
	var err error
	if m.Destination, err = cleanDestination(m.Kind, destination); err != nil {
		return bad(err)
	}
	if len(parts) == 3 && parts[2] != "" {
		given, err := bindMode(parts[2])
		if err != nil {
			return mountPoint{}, err
		}
		if err := m.setMode(parts[2], given); err != nil {
			return bad(err)
		}
	}
	if m.Kind == mount.TypeVolume && m.Source != "" {
		return m, checkVolumeName(m.Source)
	}
	return m, nil
}

// parseMount reads one --mount.
func parseMount(in mount.Mount) (mountPoint, error) {
	bad := func(why string) (mountPoint, error) {
		return mountPoint{}, badMount(in.Type, why)
	}
	destination, err := cleanDestination(in.Type, in.Target)
	if err != nil {
		return mountPoint{}, err
	}
	m := mountPoint{Kind: in.Type, Source: in.Source, Destination: destination, ReadOnly: in.ReadOnly}
	if err := checkOptions(in); err != nil {
		return bad(err.Error())
	}
	switch in.Type {
	case mount.TypeBind:
		if in.Source == "" {
			return bad("field Source must not be empty")
		}
		if !path.IsAbs(in.Source) {
			return bad("invalid mount path: '" + in.Source + "' mount path must be absolute")
		}
		bind, propagation := "rbind", "rprivate"
		if o := in.BindOptions; o != nil {
			if o.NonRecursive {
				bind = "bind"
			}
			m.Shallow = o.NonRecursive || o.ReadOnlyNonRecursive
			if o.Propagation != "" {
				propagation = string(o.Propagation)
			}
			m.Create = o.CreateMountpoint
		}
		m.Source, m.Options = path.Clean(in.Source), []string{bind, propagation}
	case mount.TypeVolume:
		if in.Source != "" {
			if err := checkVolumeName(in.Source); err != nil {
				return mountPoint{}, err
			}
		}
		if o := in.VolumeOptions; o != nil {
			m.NoCopy, m.Labels = o.NoCopy, o.Labels
		}
		m.Options = []string{"rbind", "rprivate"}
	case mount.TypeTmpfs:
		m.Options = []string{"noexec", "nosuid", "nodev"}
		if o := in.TmpfsOptions; o != nil {
			if o.SizeBytes > 0 {
				m.Options = append(m.Options, "size="+strconv.FormatInt(o.SizeBytes, 10))
			}
			if o.Mode != 0 {
				m.Options = append(m.Options, "mode="+strconv.FormatUint(uint64(o.Mode.Perm()), 8))
			}
			for _, pair := range o.Options {
				m.Options = append(m.Options, strings.Join(pair, "="))
			}
		}
	default:
		return bad("mount type unknown")
	}
	return m, nil
}

// checkOptions refuses options of a --mount that have no meaning, or none here.
func checkOptions(in mount.Mount) error {
	bind, volume, tmpfs := in.BindOptions, in.VolumeOptions, in.TmpfsOptions
	switch {
	case !slices.Contains([]mount.Consistency{"", mount.ConsistencyDefault, mount.ConsistencyFull, mount.ConsistencyCached, mount.ConsistencyDelegated}, in.Consistency):
		return fmt.Errorf("unknown consistency %q", in.Consistency)
	case in.ImageOptions != nil && in.Type != mount.TypeImage:
		return errors.New("ImageOptions are for mounts of images")
	case in.ClusterOptions != nil:
		return errors.New("cluster options need a swarm")
	case in.Type == mount.TypeTmpfs && in.Source != "":
		return errors.New("field Source must not be specified")
	case bind != nil && bind.Propagation != "" && !slices.Contains(mount.Propagations, bind.Propagation):
		return fmt.Errorf("invalid propagation mode: %s", bind.Propagation)
	case bind != nil && bind.ReadOnlyForceRecursive && (bind.NonRecursive || bind.ReadOnlyNonRecursive):
		return errors.New("mount options conflict: recursively read-only and not recursive")
	case bind != nil && (bind.ReadOnlyForceRecursive || bind.ReadOnlyNonRecursive) && !in.ReadOnly:
		return errors.New("mount options conflict: how a mount is read-only, and that it is not")
	case volume != nil && volume.Subpath != "":
		return errors.New("volume subpath is not supported")
	case volume != nil && volume.DriverConfig != nil && volume.DriverConfig.Name != "" && volume.DriverConfig.Name != "local":
		return fmt.Errorf("volume driver %q is not supported", volume.DriverConfig.Name)
	case volume != nil && volume.DriverConfig != nil && len(volume.DriverConfig.Options) > 0:
		return errors.New("options of the volume driver are not supported")
	case tmpfs != nil && tmpfs.SizeBytes < 0:
		return fmt.Errorf("tmpfs size %d is negative", tmpfs.SizeBytes)
	}
	if tmpfs == nil {
		return nil
	}
	for _, pair := range tmpfs.Options {
		if len(pair) == 0 || len(pair) > 2 || !tmpfsOption(strings.Join(pair, "=")) || strings.Contains(strings.Join(pair, ""), ",") {
			return fmt.Errorf("unknown tmpfs option %q", pair)
		}
	}
	return nil
}

// tmpfsOption reports whether a tmpfs can be mounted so; see tmpfs(5).
func tmpfsOption(option string) bool {
	key, _, _ := strings.Cut(option, "=")
	return slices.Contains([]string{
		"rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "noatime", "nodiratime", "relatime",
		"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol",
	}, key)
}

// parseTmpfs reads one --tmpfs DESTINATION[:OPTIONS].
func parseTmpfs(destination, options string) (mountPoint, error) {
	destination, err := cleanDestination(mount.TypeTmpfs, destination)
	if err != nil {
		return mountPoint{}, err
	}
	m := mountPoint{Kind: mount.TypeTmpfs, Destination: destination, Unlisted: true, Options: []string{"noexec", "nosuid", "nodev"}}
	if options == "" {
		return m, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		switch {
		case option == "ro":
			m.ReadOnly = true
		case tmpfsOption(option):
			m.Options = append(m.Options, option)
		default:
			return mountPoint{}, refuse("tmpfs on %s: unknown option %q", destination, option)
		}
	}
	return m, nil
}

// spec is the mount in the runtime specification's form; source is the host path that a volume's name stands for.
func (m mountPoint) spec(source string) specs.Mount {
	options := slices.Clone(m.Options)
	if m.ReadOnly {
		options = append(options, "ro")
		if m.Kind != mount.TypeTmpfs && !m.Shallow {
			options = append(options, "rro") // what is mounted below the source too, as docker does
		}
	}
	if m.Kind == mount.TypeTmpfs {
		return specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	return specs.Mount{Destination: m.Destination, Type: "bind", Source: source, Options: options}
}

// systemMounts are what every container has: see the runtime specification's "Default Filesystems" and docker's.
func systemMounts(shmSize int64, privileged bool) []specs.Mount {
	if shmSize == 0 {
		shmSize = 64 << 20
	}
	readOnly := []string{"nosuid", "noexec", "nodev", "ro"}
	if privileged {
		readOnly = readOnly[:3]
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: readOnly},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append(slices.Clone(readOnly), "relatime")},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shmSize)}},
	}
}

// sharedMemory gives a container the /dev/shm of its IPC mode: its own, the host's, or none.
func sharedMemory(list []specs.Mount, mode container.IpcMode) []specs.Mount {
	if !mode.IsNone() && !mode.IsHost() {
		return list
	}
	list = slices.DeleteFunc(list, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
	if mode.IsHost() {
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev"}})
	}
	return list
}

// maskedPaths and readonlyPaths are docker's: what of /proc and /sys tells too much or changes the host.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)
