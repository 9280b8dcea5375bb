package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Where programs keep what belongs to no test: empty directories, and changes that are not the machine's.
var (
	empty   = []string{"/run", "/dev/shm"}
	changed = []string{"/etc", "/opt", "/var"}
)

// temporary is the tests' directory for temporary files: short, since sockets are in it.
const temporary = "/run/tmp"

// machineCgroups is the machine's cgroup namespace, for what only it may do: mount a v1 hierarchy that was not there.
const machineCgroups = "/run/machine/cgroup"

// enter makes init's view of the machine.
func enter(cgroup, dir string) error {
	hierarchies, err := cgroupMounts()
	if err != nil {
		return err
	}
	if err := nothingHidden(); err != nil {
		return err
	}
	for _, h := range hierarchies {
		if err := os.WriteFile(filepath.Join(h.at, cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter the tests' cgroup: %w", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	machine, err := clone("/proc/thread-self/ns/cgroup")
	if err != nil {
		return err
	}
	defer unix.Close(machine)
	tmp, err := clone(dir)
	if err != nil {
		return err
	}
	defer unix.Close(tmp)
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	_, err = os.Stat("/sys/kernel/security/lsm")
	lsm := err == nil
	for _, dir := range []string{"/proc", "/sys"} { // what is mounted below would be seen, but could not be reached
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	if err := errors.Join(mount("proc", "/proc", ""), mount("sysfs", "/sys", "")); err != nil {
		return err
	}
	if lsm {
		if err := mount("securityfs", "/sys/kernel/security", ""); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(hierarchies, func(h hierarchy) bool { return h.at == "/sys/fs/cgroup" }) {
		if err := mount("tmpfs", "/sys/fs/cgroup", "mode=755"); err != nil {
			return err
		}
	}
	for _, h := range hierarchies {
		if err := h.enter(); err != nil {
			return err
		}
	}
	if err := ownDirectories(); err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(temporary, 0o755), os.Mkdir(filepath.Dir(machineCgroups), 0o755), os.WriteFile(machineCgroups, nil, 0o444)); err != nil {
		return err
	}
	if err := errors.Join(attach(tmp, temporary), attach(machine, machineCgroups)); err != nil {
		return err
	}
	return network()
}

// nothingHidden fails if the program or the checkout is in a directory that is going to be empty.
func nothingHidden() error {
	program, err := exec.LookPath(os.Args[1])
	if err != nil {
		return err
	}
	work, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, path := range []string{program, work} {
		for _, dir := range empty {
			if strings.HasPrefix(path, dir+"/") {
				return fmt.Errorf("the tests cannot be run in %s: they have a %s of their own", path, dir)
			}
		}
	}
	return nil
}

func mount(kind, at, data string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, at, kind, unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, at, err)
	}
	return nil
}

// enter mounts the hierarchy where it was: with the tests' cgroup as its root.
func (h hierarchy) enter() error {
	if err := mount(h.kind, h.at, h.data); err != nil {
		return err
	}
	if h.kind != "cgroup2" {
		return nil
	}
	// A v2 cgroup with processes has no controllers for its children.
	leaf := filepath.Join(h.at, "tests")
	if err := errors.Join(os.Mkdir(leaf, 0o755), os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0)); err != nil {
		return fmt.Errorf("enter a v2 cgroup of the tests': %w", err)
	}
	return nil
}

// clone makes a detached bind mount.
func clone(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("keep %s for the tests: %w", path, err)
	}
	return fd, nil
}

func attach(mount int, at string) error {
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount on %s: %w", at, err)
	}
	return nil
}

// ownDirectories mounts empty directories and overlays over the machine's.
func ownDirectories() error {
	// The changes are on a tmpfs that only the overlays keep.
	if err := mount("tmpfs", "/run", "mode=755"); err != nil {
		return err
	}
	for _, at := range changed {
		upper, work := "/run"+at+"/upper", "/run"+at+"/work"
		err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755))
		if err == nil {
			err = mount("overlay", at, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", at, upper, work))
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Unmount("/run", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount /run: %w", err)
	}
	for _, at := range empty {
		if err := mount("tmpfs", at, map[string]string{"/run": "mode=755", "/dev/shm": "mode=1777"}[at]); err != nil {
			return err
		}
	}
	return nil
}

// network sets loopback up, and an interface with an address: a machine of documentation's network.
func network() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "eth0", "type", "veth", "peer", "name", "wire"},
		{"link", "set", "wire", "up"},
		{"link", "set", "eth0", "up"},
		{"address", "add", "192.0.2.2/24", "dev", "eth0"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
