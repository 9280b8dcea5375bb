package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/internal/osthread"
	"gantry/rawfile"
	"gantry/spawn"
)

// defaultDevices are those that the specification wants in every container ("Default Devices").
var defaultDevices = []specs.LinuxDevice{
	device("/dev/null", 1, 3), device("/dev/zero", 1, 5), device("/dev/full", 1, 7),
	device("/dev/random", 1, 8), device("/dev/urandom", 1, 9), device("/dev/tty", 5, 0),
}

func device(path string, major, minor int64) specs.LinuxDevice {
	mode := defaultDeviceMode
	return specs.LinuxDevice{Path: path, Type: "c", Major: major, Minor: minor, FileMode: &mode}
}

const defaultDeviceMode os.FileMode = 0o666

// deviceLinks stand in every /dev.
var deviceLinks = []struct{ target, name string }{
	{"/proc/self/fd", "fd"},
	{"/proc/self/fd/0", "stdin"},
	{"/proc/self/fd/1", "stdout"},
	{"/proc/self/fd/2", "stderr"},
	{"pts/ptmx", "ptmx"},
}

// deviceRules are what every container may use whatever its configuration says: making nodes, the default devices, terminals.
func deviceRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Access: "m"}, {Allow: true, Type: "b", Access: "m"}}
	use := func(major int64, minor *int64) {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: minor, Access: "rwm"})
	}
	for _, d := range defaultDevices {
		use(d.Major, &d.Minor)
	}
	ptmx := int64(2)
	use(5, &ptmx)
	use(136, nil) // pts
	return rules
}

// withDefaults adds the rules of every container to those of its configuration, where they are not among them. What no
// rule allows is denied, also where the configuration has none (GHSA-g54h-m393-cpwq). Without the host's privileges, which
// the kernel wants for such rules, the configuration's are taken as they are: no device can be made there anyway.
func withDefaults(rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	if !isHostRoot() && len(rules) == 0 {
		return rules
	}
	if isHostRoot() && (len(rules) == 0 || !isForAllDevices(rules[0])) {
		rules = slices.Insert(slices.Clone(rules), 0, specs.LinuxDeviceCgroup{Access: "rwm"})
	}
	all := slices.Clone(rules)
	for _, r := range deviceRules() {
		if !slices.ContainsFunc(rules, func(have specs.LinuxDeviceCgroup) bool { return reflect.DeepEqual(have, r) }) {
			all = append(all, r)
		}
	}
	return all
}

// devices fills /dev, unless it is the host's.
func (b *builder) devices() error {
	m, mounted := b.mountAt("/dev")
	if mounted && isBind(m) {
		return nil
	}
	if !mounted {
		b.mkdirs("/dev")
	}
	own := map[string]bool{}
	for _, d := range b.spec.Linux.Devices {
		own[d.Path] = true
	}
	dir := openDirectory{b: b}
	for _, d := range defaultDevices {
		if own[d.Path] {
			continue
		}
		if err := b.device(d, &dir); err != nil {
			return err
		}
	}
	for i, d := range b.spec.Linux.Devices {
		b.at(fmt.Sprintf("linux.devices[%d]", i))
		if err := b.device(d, &dir); err != nil {
			return err
		}
	}
	b.at("")
	dir.open("/dev")
	for _, l := range deviceLinks {
		b.add("link /dev/"+l.name, unix.SYS_SYMLINKAT, spawn.Str(l.target), spawn.Of(slotScratch), spawn.Str(l.name)).Ignore = []unix.Errno{unix.EEXIST, unix.EROFS}
	}
	dir.close()
	return nil
}

// openDirectory is the directory that is in the scratch slot, for as many steps as want it. "": none.
type openDirectory struct {
	b    *builder
	path string
}

func (o *openDirectory) open(path string) {
	if o.path == path {
		return
	}
	o.close()
	if path != "/dev" && path != "/" {
		o.b.mkdirs(path)
	}
	o.b.resolve("open directory "+path, path, unix.O_PATH|unix.O_DIRECTORY)
	o.path = path
}

func (o *openDirectory) close() {
	if o.path != "" {
		o.b.release(o.path)
		o.path = ""
	}
}

// device makes a node; a user namespace may not, and gets the host's by a bind.
func (b *builder) device(d specs.LinuxDevice, dir *openDirectory) error {
	kinds := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	kind, known := kinds[d.Type]
	if !known {
		return fmt.Errorf("config.json: linux.devices: %s: type %q, want c, b, u or p", d.Path, d.Type)
	}
	if !filepath.IsAbs(d.Path) || filepath.Clean(d.Path) == "/" {
		return fmt.Errorf("config.json: linux.devices: path %q must be that of a file, from the root", d.Path)
	}
	if (b.inUserNamespace() || !b.dry && !isHostRoot()) && d.Type != "p" {
		if filepath.Clean(d.Path) == "/dev/ptmx" {
			return nil // the link to the container's own stands for it: the host's would open the host's terminals
		}
		dir.close()
		return b.bindDevice(d, kind)
	}
	b.makeNode(d, kind, dir)
	return nil
}

// bindDevice binds the host's device of the same name, if it is the one that is meant; otherwise one that is made for it.
func (b *builder) bindDevice(d specs.LinuxDevice, kind uint32) error {
	fd := spawn.FD{Name: d.Path}
	if !b.dry {
		num, err := b.hostDevice(d, kind)
		var other *otherDeviceError
		if (errors.Is(err, unix.ENOENT) || errors.As(err, &other)) && isHostRoot() {
			num, err = b.detachedDevice(d, kind)
		}
		if err != nil {
			return fmt.Errorf("config.json: linux.devices: %w", err)
		}
		fd = b.fd(num, d.Path)
	}
	b.attach(fd, d.Path, false)
	return nil
}

// otherDeviceError is the error of a host's device that is not the one that the container wants.
type otherDeviceError struct{ device specs.LinuxDevice }

func (e *otherDeviceError) Error() string {
	d := e.device
	return fmt.Sprintf("a user namespace gets the host's %s, but that is not device %s %d:%d", d.Path, d.Type, d.Major, d.Minor)
}

// hostDevice is a detached mount of the host's device.
func (b *builder) hostDevice(d specs.LinuxDevice, kind uint32) (_ int, err error) {
	num, err := b.cloneTree(d.Path, false)
	if err != nil {
		return -1, fmt.Errorf("a user namespace gets the host's %s: %w", d.Path, err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(num)
		}
	}()
	if err := b.propagate(num, nil); err != nil { // what is mounted on it must not be so on the host's
		return -1, fmt.Errorf("%s: set propagation: %w", d.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(num, &st); err != nil {
		return -1, fmt.Errorf("%s: %w", d.Path, err)
	}
	if st.Mode&unix.S_IFMT != kind || st.Rdev != unix.Mkdev(uint32(d.Major), uint32(d.Minor)) {
		return -1, &otherDeviceError{d}
	}
	return num, nil
}

// detachedDevice makes a device that the host lacks on a file system of its own, as the host's root, and returns a detached
// mount of it. A thread makes it in a mount namespace that ends with the thread: kernels before 6.15 copy no mount that is
// in no namespace.
func (b *builder) detachedDevice(d specs.LinuxDevice, kind uint32) (num int, err error) {
	mode := uint32(defaultDeviceMode)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	uid, gid := b.ownerOf(d)
	osthread.Run(func() {
		err = func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("make a mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("keep mounts from spreading: %w", err)
			}
			dir := attachPoint()
			if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
				return &os.PathError{Op: "mount tmpfs", Path: dir, Err: err}
			}
			path := filepath.Join(dir, "device")
			if err := unix.Mknod(path, kind|mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil {
				return fmt.Errorf("make device %s %d:%d: %w", d.Type, d.Major, d.Minor, err)
			}
			if err := errors.Join(unix.Chmod(path, mode), unix.Lchown(path, uid, gid)); err != nil { // mknod minds the umask
				return fmt.Errorf("set its mode and owner: %w", err)
			}
			num, err = unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			return err
		}()
	})
	if err != nil {
		return -1, fmt.Errorf("make %s for a user namespace: %w", d.Path, err)
	}
	return num, nil
}

// ownerOf is the owner of a device as the host numbers it. Ids that the configuration maps nowhere become nobody's inside.
func (b *builder) ownerOf(d specs.LinuxDevice) (uid, gid int) {
	var inside [2]uint32
	for i, id := range []*uint32{d.UID, d.GID} {
		if id != nil {
			inside[i] = *id
		}
	}
	return hostID(b.spec.Linux.UIDMappings, inside[0]), hostID(b.spec.Linux.GIDMappings, inside[1])
}

// makeNode makes a device in place of whatever the image has under its name. What config.json mounted there stays.
func (b *builder) makeNode(d specs.LinuxDevice, kind uint32, in *openDirectory) {
	mode := uint32(defaultDeviceMode)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	path, number := filepath.Clean(d.Path), unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	dir, name := filepath.Dir(path), filepath.Base(path)
	in.open(dir)
	b.add("make way for device "+path, unix.SYS_UNLINKAT, spawn.Of(slotScratch), spawn.Str(name), spawn.Int(0)).Ignore = []unix.Errno{unix.ENOENT, unix.EBUSY, unix.EROFS}
	s := b.add("make device "+path, unix.SYS_MKNODAT, spawn.Of(slotScratch), spawn.Str(name), spawn.Flags(uint64(kind|mode), fmt.Sprintf("%#o", kind|mode)),
		spawn.Flags(number, fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number))))
	s.Ignore = []unix.Errno{unix.EEXIST}
	if d.UID != nil || d.GID != nil {
		s.Else = 1 // what is mounted there is not ours to give
		uid, gid := 0, 0
		if d.UID != nil {
			uid = int(*d.UID)
		}
		if d.GID != nil {
			gid = int(*d.GID)
		}
		b.add(fmt.Sprintf("give %s to %d:%d", path, uid, gid), unix.SYS_FCHOWNAT, spawn.Of(slotScratch), spawn.Str(name), spawn.Int(uid), spawn.Int(gid),
			spawn.Flags(unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"))
	}
}

// isForAllDevices tells a rule that leaves nothing to those before it.
func isForAllDevices(r specs.LinuxDeviceCgroup) bool {
	wild := func(n *int64) bool { return n == nil || *n < 0 }
	return (r.Type == "" || r.Type == "a") && wild(r.Major) && wild(r.Minor)
}

// isHostRoot reports whether this process is root, and of no user namespace below the host's; see user_namespaces(7).
var isHostRoot = sync.OnceValue(func() bool {
	text, err := rawfile.Read("/proc/self/uid_map")
	return err == nil && os.Geteuid() == 0 && slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
})
