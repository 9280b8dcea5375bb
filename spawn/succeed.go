package spawn

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// replace makes the successor that the child has cloned the Process, and returns the pidfd of the child, which ends. The
// successor waits, so that its pid cannot have come to mean another process: it is our child, whom nobody has waited for.
func (p *Process) replace(pid int) (before *os.File, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open the successor, process %d: %w", pid, err)
	}
	err = rawfile.Retry(func() error {
		return unix.Waitid(unix.P_PIDFD, fd, (*unix.Siginfo)(unsafe.Pointer(&siginfo{})), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("the successor, process %d, is not a child of this one: %w", pid, err)
	}
	before = p.Pidfd
	p.Pid, p.Pidfd = pid, os.NewFile(uintptr(fd), "pidfd")
	return before, nil
}

// reapPredecessor waits for a child whose successor has taken its place, if there is one.
func reapPredecessor(before *os.File) error {
	if before == nil {
		return nil
	}
	_, err := Reap(before)
	if errors.Is(err, unix.ECHILD) { // a program that reaps orphans has
		err = nil
	}
	return errors.Join(err, before.Close())
}
