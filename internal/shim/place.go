package shim

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// oomScore makes the kernel kill the supervisor last, but not never.
const oomScore = "-999"

// Outlive takes the process out of the reach of what ends its engine: out of its cgroups, and last in the
// out-of-memory killer's order. The session is the starter's work. What is not permitted is told and done without.
func Outlive() error {
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0)
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

// cgroupMounts are the roots of the hierarchies; see /proc/PID/mountinfo in proc(5).
func cgroupMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
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
