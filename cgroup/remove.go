package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// dying bounds the wait for processes that have been killed, or frozen, to be gone or to stand still. It is one wait for all
// hierarchies.
const dying = 10 * time.Second

// clock is the real one, but in tests.
var clock = struct {
	now   func() time.Time
	sleep func(time.Duration)
}{time.Now, time.Sleep}

// newDeadline is when a wait that begins now is over.
func newDeadline() time.Time { return clock.now().Add(dying) }

// errStillThere is the end of a wait for what did not happen.
var errStillThere = fmt.Errorf("still not after %v: %w", dying, unix.EBUSY)

// poll calls f, with growing pauses, until it is done or fails or the time is over.
func poll(what string, end time.Time, f func() (done bool, err error)) error {
	pause := 50 * time.Microsecond
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		if clock.now().After(end) {
			return fmt.Errorf("%s: %w", what, errStillThere)
		}
		clock.sleep(pause)
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// Delete removes the group and everything below it in every hierarchy, waiting a moment for dying processes.
// Deleting what is not there succeeds.
func (g *Group) Delete() error { return g.delete(newDeadline()) }

// Destroy kills every process of the group and below, and deletes it: with one wait for both. Between the two it calls
// stop, if that is not nil: a service manager's way to end the group.
func (g *Group) Destroy(stop func() error) error {
	end := newDeadline()
	if err := g.kill(end); err != nil && !errors.Is(err, errStillThere) { // what does not die keeps the group, and Delete says so
		return err
	}
	if stop != nil {
		if err := stop(); err != nil {
			return err
		}
	}
	return g.delete(end)
}

func (g *Group) delete(end time.Time) error {
	var dirs []string
	for _, t := range g.host.trees() {
		dirs = append(dirs, filepath.Join(t.mount, g.path))
	}
	return g.removeAll(dirs, end)
}

// removeAll removes directories of the group. One that is busy does not keep the others waiting.
func (g *Group) removeAll(dirs []string, end time.Time) error {
	var errs []error
	busy := slices.Clone(dirs)
	err := poll("delete cgroup "+g.path, end, func() (bool, error) {
		busy = slices.DeleteFunc(busy, func(dir string) bool {
			err := removeOnce(dir)
			if err != nil && !errors.Is(err, unix.EBUSY) {
				errs = append(errs, fmt.Errorf("delete cgroup %s: %w", g.path, err))
			}
			return !errors.Is(err, unix.EBUSY)
		})
		return len(busy) == 0, nil
	})
	if err != nil {
		err = fmt.Errorf("%w%s", err, g.whoIsThere(busy))
	}
	return errors.Join(append(errs, err)...)
}

// removeOnce removes a directory and those below it, without waiting. The error is EBUSY if processes are in there.
func removeOnce(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		if errors.Is(readErr, os.ErrNotExist) {
			return nil
		}
		return readErr
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeOnce(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	switch err = unix.Rmdir(dir); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EINTR:
		err = unix.EBUSY
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}

// whoIsThere names the processes in busy directories, and what they do: "; process 7 (cat) waits in the kernel and …".
func (g *Group) whoIsThere(busy []string) string {
	var pids []int
	for _, dir := range busy {
		_ = walk(dir, true, func(dir string) error { // what has gone meanwhile is not there
			text, err := rawfile.Read(filepath.Join(dir, "cgroup.procs"))
			for field := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(field); err == nil && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return err
		})
	}
	var text strings.Builder
	for _, pid := range pids {
		name, waits := whatIsIt(pid)
		fmt.Fprintf(&text, "; process %d (%s) is in it", pid, name)
		if waits {
			text.WriteString(" and does not die before the system call that it waits in returns")
		}
	}
	return text.String()
}

// whatIsIt is a process's name, and whether one of its threads waits in the kernel for what no signal interrupts; see
// proc_pid_stat(5). Once it was killed, its first thread may be a zombie while another one waits.
func whatIsIt(pid int) (name string, waits bool) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return "gone by now", false
	}
	for _, thread := range threads {
		stat, err := rawfile.Read(fmt.Sprintf("/proc/%d/task/%s/stat", pid, thread.Name()))
		if err != nil {
			continue
		}
		end := strings.LastIndex(string(stat), ") ")
		if end < 0 {
			continue
		}
		if _, text, found := strings.Cut(string(stat[:end]), "("); found && name == "" {
			name = text
		}
		waits = waits || strings.HasPrefix(string(stat[end:]), ") D")
	}
	return name, waits
}
