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

// Outlive takes the process out of the reach of what ends its engine: out of its cgroups, and last in the
// out-of-memory killer's order. The session is the starter's work. What is not permitted is told and done without.
func Outlive() error {
	err := protect()
	cgroups, readErr := os.ReadFile("/proc/self/cgroup")
	inRoot := readErr == nil
	for line := range strings.Lines(string(cgroups)) {
		inRoot = inRoot && strings.HasSuffix(line, ":/\n")
	}
	if inRoot { // a move costs milliseconds in each hierarchy
		return err
	}
	mounts, readErr := cgroupMounts()
	errs := []error{err, readErr}
	for _, dir := range mounts {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil && !errors.Is(err, unix.EROFS) {
			errs = append(errs, fmt.Errorf("leave the engine's cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
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
func cgroupMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var dirs []string
	in := bufio.NewScanner(f)
	for in.Scan() {
		mount, kind, _ := strings.Cut(in.Text(), " - ")
		if fields := strings.Fields(mount); strings.HasPrefix(kind, "cgroup") && len(fields) > 4 {
			dirs = append(dirs, fields[4])
		}
	}
	return dirs, in.Err()
}
