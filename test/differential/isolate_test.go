package differential

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests run three processes deep, so that nothing of theirs outlives them, however they end:
//
//	outer   builds the programs, makes a cgroup in every hierarchy, starts init and waits; then removes the cgroups
//	init    process 1 of its own pid, mount, network, IPC and UTS namespaces: sees only that cgroup as /sys/fs/cgroup, and
//	        directories of its own at /run, /dev/shm, …; reaps whom daemons leave. When it ends, the kernel kills the rest.
//	tests   the testing package, in init's namespaces
const stage = "GANTRY_DIFFERENTIAL_STAGE"

// Where daemons keep what belongs to no test: empty directories, and changes that are not the machine's.
var (
	empty   = []string{"/run", "/dev/shm"}
	changed = []string{"/etc", "/opt", "/var"}
)

var namespaces = []string{"pid", "mnt", "net", "ipc", "uts", "cgroup"}

// outer starts init; code is the tests' exit code.
func outer(dir string) (code int, err error) {
	hierarchies, err := cgroupMounts()
	if err != nil {
		return 1, err
	}
	name := fmt.Sprintf("gantry-differential-%d", os.Getpid())
	defer func() {
		for _, h := range hierarchies {
			err = errors.Join(err, removeCgroups(filepath.Join(h.at, name)))
		}
	}()
	for _, h := range hierarchies {
		if err := h.make(name); err != nil {
			return 1, err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Cancel = func() error {
		err := cmd.Process.Kill()
		for _, h := range hierarchies {
			thaw(filepath.Join(h.at, name))
		}
		return err
	}
	cmd.Env = append(os.Environ(), stage+"=init", "GANTRY_DIFFERENTIAL_CGROUP="+name, "GANTRY_DIFFERENTIAL_DIR="+dir)
	for _, ns := range namespaces {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			return 1, err
		}
		cmd.Env = append(cmd.Env, "GANTRY_DIFFERENTIAL_"+ns+"="+own)
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		return 1, fmt.Errorf("start the tests in namespaces: %w", err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

// inside is init: it runs the tests and returns their exit code.
func inside() (int, error) {
	runtime.LockOSThread() // the cgroup namespace is a thread's, and handed to its children
	hierarchies, err := cgroupMounts()
	if err == nil {
		err = enter(hierarchies, os.Getenv("GANTRY_DIFFERENTIAL_CGROUP"))
	}
	if err != nil {
		return 1, err
	}
	defer thaw("/sys/fs/cgroup")
	if err := os.Setenv(stage, "tests"); err != nil {
		return 1, err
	}
	child, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 1, fmt.Errorf("start the tests: %w", err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil && err != syscall.EINTR {
			return 1, fmt.Errorf("wait for the tests: %w", err)
		}
		if pid == child {
			if status.Signaled() {
				return 1, fmt.Errorf("the tests were ended by %v", status.Signal())
			}
			return status.ExitStatus(), nil
		}
	}
}

// enter makes init's view of the machine.
func enter(hierarchies []hierarchy, name string) error {
	for _, h := range hierarchies {
		if err := os.WriteFile(filepath.Join(h.at, name, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter the tests' cgroup: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range []string{"/proc", "/sys"} { // what is mounted below would be seen, but could not be reached
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	mounts := []hierarchy{{at: "/proc", kind: "proc"}, {at: "/sys", kind: "sysfs"}}
	if !slices.ContainsFunc(hierarchies, func(h hierarchy) bool { return h.at == "/sys/fs/cgroup" }) {
		mounts = append(mounts, hierarchy{at: "/sys/fs/cgroup", kind: "tmpfs", data: "mode=755"})
	}
	mounts = append(mounts, hierarchies...)
	for _, dir := range empty {
		mounts = append(mounts, hierarchy{at: dir, kind: "tmpfs", data: "mode=755"})
	}
	for _, dir := range changed {
		own := "/run/changed" + dir
		mounts = append(mounts, hierarchy{at: dir, kind: "overlay", data: fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%[2]s/work", dir, own)})
	}
	for _, m := range mounts {
		err := os.MkdirAll(m.at, 0o755)
		if m.kind == "overlay" {
			err = errors.Join(err, os.MkdirAll("/run/changed"+m.at+"/upper", 0o755), os.MkdirAll("/run/changed"+m.at+"/work", 0o755))
		}
		if err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID|unix.MS_NODEV, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
		if m.kind != "cgroup2" {
			continue
		}
		// A v2 cgroup with processes has no controllers for its children.
		leaf := filepath.Join(m.at, "tests")
		if err := errors.Join(os.Mkdir(leaf, 0o755), os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0)); err != nil {
			return err
		}
	}
	return setUp("lo")
}

// setUp sets an interface up.
func setUp(name string) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// hierarchy is a mounted one of cgroups (and, in enter, any mount).
type hierarchy struct{ at, kind, data string }

// cgroupMounts reads what is mounted under /sys/fs/cgroup.
func cgroupMounts() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all []hierarchy
	for lines := bufio.NewScanner(file); lines.Scan(); {
		left, right, _ := strings.Cut(lines.Text(), " - ")
		from, to := strings.Fields(left), strings.Fields(right)
		h := hierarchy{at: from[4], kind: to[0]}
		if !strings.HasPrefix(h.at, "/sys/fs/cgroup") || (h.kind != "cgroup" && h.kind != "cgroup2") {
			continue
		}
		if h.kind == "cgroup" {
			var options []string
			for _, option := range strings.Split(to[2], ",") {
				if option == "rw" || option == "clone_children" || option == "xattr" || strings.HasPrefix(option, "release_agent=") {
					continue
				}
				if strings.HasPrefix(option, "name=") {
					option = "none," + option
				}
				options = append(options, option)
			}
			h.data = strings.Join(options, ",")
		}
		all = append(all, h)
	}
	if len(all) == 0 {
		return nil, errors.New("no cgroups are mounted under /sys/fs/cgroup")
	}
	return all, nil
}

// make makes a cgroup below the root that may have children with every controller.
func (h hierarchy) make(name string) error {
	dir := filepath.Join(h.at, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make the tests' cgroup: %w", err)
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		parent, err := os.ReadFile(filepath.Join(h.at, file))
		if err != nil || h.kind != "cgroup" {
			continue // not this controller
		}
		if err := os.WriteFile(filepath.Join(dir, file), parent, 0); err != nil {
			return fmt.Errorf("set the tests' processors: %w", err)
		}
	}
	return nil
}

// thaw lets frozen processes below a cgroup die.
func thaw(top string) {
	_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		switch filepath.Base(path) {
		case "freezer.state":
			_ = os.WriteFile(path, []byte("THAWED"), 0) // best effort, while all ends
		case "cgroup.freeze":
			_ = os.WriteFile(path, []byte("0"), 0)
		}
		return nil
	})
}

// removeCgroups removes a cgroup and those below it, once their processes have ended.
func removeCgroups(top string) error {
	var err error
	for range 100 {
		var all []string
		_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		err = nil
		for _, dir := range slices.Backward(all) {
			if rmErr := unix.Rmdir(dir); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
				err = fmt.Errorf("remove cgroup %s: %w", dir, rmErr)
			}
		}
		if err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// ownNamespace is the name of one of the tests' namespaces, those of the host for containers.
func ownNamespace(t *testing.T, kind string) string {
	t.Helper()
	link, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestIsolated: the tests are where nothing of theirs outlives them.
func TestIsolated(t *testing.T) {
	for _, ns := range namespaces {
		mine := ownNamespace(t, ns)
		if first := os.Getenv("GANTRY_DIFFERENTIAL_" + ns); mine == first || first == "" {
			t.Errorf("the %s namespace is the machine's, %s", ns, mine)
		}
	}
}
