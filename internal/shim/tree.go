package shim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// killTree kills a process of exec with its descendants: its children and theirs, and what else is in its session. A
// descendant that has left the session and whose parent has ended is one that means to stay, as a daemon does.
func (c *container) killTree(p *process) error {
	if err := p.signal(unix.SIGSTOP); err != nil { // what does not run makes no more children
		return err
	}
	members, err := c.stopDescendants(int(p.number()))
	defer func() {
		for _, fd := range members {
			_ = unix.Close(fd)
		}
	}()
	errs := []error{err}
	for pid, fd := range members {
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("kill process %d: %w", pid, err))
		}
	}
	if err := p.signal(unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// stopDescendants stops the descendants of a stopped process, until no new ones are found, and returns their pidfds.
func (c *container) stopDescendants(root int) (map[int]int, error) {
	members := map[int]int{}
	group, err := c.cgroup()
	if err != nil {
		return members, err
	}
	for {
		pids, err := group.Procs(true)
		if err != nil {
			return members, err
		}
		parents, sessions := map[int]int{}, map[int]int{}
		for _, pid := range pids {
			if parent, session, ok := kinship(pid); ok {
				parents[pid], sessions[pid] = parent, session
			}
		}
		found := false
		for again := true; again; {
			again = false
			for pid, parent := range parents {
				if _, known := members[pid]; known || pid == root {
					continue
				}
				if _, child := members[parent]; !child && parent != root && sessions[pid] != root {
					continue
				}
				fd, err := unix.PidfdOpen(pid, 0)
				if err != nil { // it has ended
					delete(parents, pid)
					continue
				}
				// Its number may be another's by now: the descriptor is looked at again.
				if now, session, ok := kinship(pid); !ok || now != parent || session != sessions[pid] || unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0) != nil {
					_ = unix.Close(fd)
					delete(parents, pid)
					continue
				}
				members[pid] = fd
				found, again = true, true
			}
		}
		if !found {
			return members, nil
		}
	}
}

// kinship reads a process's parent and session; see proc_pid_stat(5).
func kinship(pid int) (parent, session int, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const parentField, sessionField = 1, 3 // counted from the state, which is the third field
	if len(fields) <= sessionField {
		return 0, 0, false
	}
	parent, parentErr := strconv.Atoi(fields[parentField])
	session, sessionErr := strconv.Atoi(fields[sessionField])
	return parent, session, parentErr == nil && sessionErr == nil
}
