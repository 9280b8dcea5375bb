package isolate

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted hierarchy of cgroups.
type hierarchy struct{ at, kind, data string }

// cgroupMounts reads what is mounted at and below /sys/fs/cgroup.
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
		if i := slices.IndexFunc(all, func(other hierarchy) bool { return other.at == h.at }); i >= 0 {
			all[i] = h // mounted over the other
			continue
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
	if h.kind == "cgroup2" {
		return h.delegate()
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		parent, err := os.ReadFile(filepath.Join(h.at, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another controller's hierarchy
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), parent, 0)
		}
		if err != nil {
			return fmt.Errorf("set the tests' processors and memory nodes: %w", err)
		}
	}
	// A share of the time that real-time processes may have: v1 gives none to a new cgroup. Without real-time groups there
	// is no such file, and runs that take turns may have taken it all.
	_ = os.WriteFile(filepath.Join(dir, "cpu.rt_runtime_us"), []byte("100000"), 0)
	return nil
}

// delegate enables every controller for the children of a v2 root.
func (h hierarchy) delegate() error {
	controllers, err := os.ReadFile(filepath.Join(h.at, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		err := os.WriteFile(filepath.Join(h.at, "cgroup.subtree_control"), []byte("+"+controller), 0)
		if errors.Is(err, unix.EBUSY) { // in a container, whose root is a cgroup with processes
			return fmt.Errorf("enable the %s controller for the tests' cgroup: %s has processes of its own: move them to a cgroup below it, or run the tests outside of this container", controller, h.at)
		}
		if err != nil && controller != "cpu" { // not for the children while there are real-time processes
			return fmt.Errorf("enable the %s controller for the tests' cgroup: %w", controller, err)
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

// removeCgroups removes a cgroup and those below it.
func removeCgroups(top string) error {
	var err error
	for _, dir := range slices.Backward(directories(top)) {
		if rmErr := unix.Rmdir(dir); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = fmt.Errorf("remove cgroup %s: %w", dir, rmErr)
		}
	}
	return err
}

// directories lists a directory and those below it on its file system.
func directories(top string) []string {
	var all []string
	_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	return all
}

// await repeats what fails until it succeeds: the kernel and daemons take their own time.
func await(try func() error) error {
	patience, err := time.ParseDuration(os.Getenv("GANTRY_ISOLATE_PATIENCE"))
	if err != nil {
		patience = time.Minute
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if err := try(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
