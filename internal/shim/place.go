package shim

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// oomScore makes the kernel kill the supervisor last, but not never.
const oomScore = "-999"

// supervisors is the v2 cgroup for supervisors where the root of the hierarchy is not the machine's: that one, with a process
// in it, could not give its groups any controllers.
const supervisors = "gantry-supervisors"

// Outlive takes the process out of the reach of what ends its engine: out of its cgroups, and last in the
// out-of-memory killer's order. The session is the starter's work. What is not permitted is told and done without.
// The function that it returns is for the process's end, and removes what was made for it.
func Outlive() (leave func(), err error) {
	leave = func() {}
	err = protect()
	cgroups, readErr := os.ReadFile("/proc/self/cgroup")
	inRoot := readErr == nil
	own := ""
	for line := range strings.Lines(string(cgroups)) {
		inRoot = inRoot && strings.HasSuffix(line, ":/\n")
		if path, isV2 := strings.CutPrefix(line, "0::"); isV2 {
			own = strings.TrimSuffix(path, "\n")
		}
	}
	if inRoot { // a move costs milliseconds in each hierarchy
		return leave, err
	}
	mounts, readErr := cgroupMounts()
	errs := []error{err, readErr}
	for _, m := range mounts {
		if m.v2 && !isMachineRoot(m.dir) {
			leave, err = m.enterOwn(own)
		} else {
			err = m.enter("")
		}
		if err != nil && !errors.Is(err, unix.EROFS) {
			errs = append(errs, fmt.Errorf("leave the engine's cgroup: %w", err))
		}
	}
	return leave, errors.Join(errs...)
}

// isMachineRoot tells the root of the v2 hierarchy from that of a cgroup namespace, as containers have it: the latter is a
// cgroup like any other, with a type.
func isMachineRoot(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "cgroup.type"))
	return err != nil
}

// cgroupMount is where a hierarchy is mounted.
type cgroupMount struct {
	dir string
	v2  bool
}

func (m cgroupMount) enter(name string) error {
	return os.WriteFile(filepath.Join(m.dir, name, "cgroup.procs"), []byte("0"), 0)
}

// enterOwn moves this process to the supervisors' cgroup. To leave means to go back to where it came from, if that is still
// there, since a cgroup with a process cannot be removed.
func (m cgroupMount) enterOwn(own string) (leave func(), err error) {
	dir := filepath.Join(m.dir, supervisors)
	for range 100 { // another supervisor may leave and remove it meanwhile
		if err = os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return func() {}, err
		}
		if err = m.enter(supervisors); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			break
		}
	}
	return func() {
		if m.enter(own) == nil {
			_ = unix.Rmdir(dir) // it stays while others are in it
		}
	}, err
}

// inheritedOOM is the score that children shall have if they ask for none; nil: what they inherit is right.
var inheritedOOM *int

func protect() error {
	const file = "/proc/self/oom_score_adj"
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	err = os.WriteFile(file, []byte(oomScore), 0)
	if errors.Is(err, os.ErrPermission) { // without CAP_SYS_RESOURCE
		return nil
	}
	if err == nil {
		inheritedOOM = &before
	}
	return err
}

// cgroupMounts are the roots of the hierarchies; see /proc/PID/mountinfo in proc(5).
func cgroupMounts() ([]cgroupMount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var list []cgroupMount
	in := bufio.NewScanner(f)
	for in.Scan() {
		mount, kind, _ := strings.Cut(in.Text(), " - ")
		if fields := strings.Fields(mount); strings.HasPrefix(kind, "cgroup") && len(fields) > 4 {
			list = append(list, cgroupMount{dir: fields[4], v2: strings.HasPrefix(kind, "cgroup2 ")})
		}
	}
	return list, in.Err()
}
