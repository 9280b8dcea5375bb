package spawn

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// replace makes the successor that the child has cloned (its descriptor heir there) the Process, and ends the child.
func (p *Process) replace(heir int) error {
	fd, err := unix.PidfdGetfd(int(p.Pidfd.Fd()), heir, 0)
	if err != nil {
		return fmt.Errorf("take the successor's pidfd: %w", err)
	}
	before := p.Pidfd
	p.Pidfd = os.NewFile(uintptr(fd), "pidfd")
	pid, err := pidOf(fd)
	_ = unix.PidfdSendSignal(int(before.Fd()), unix.SIGKILL, nil, 0)
	_, reapErr := Reap(before)
	p.Pid = pid
	return errors.Join(err, reapErr, before.Close())
}

// pidOf is the pid, as this process sees it, that a pidfd refers to; see proc_pid_fdinfo(5).
func pidOf(pidfd int) (int, error) {
	text, err := rawfile.Read("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0, fmt.Errorf("find a successor's pid: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "Pid:"); found {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, errors.New("find a successor's pid: /proc/self/fdinfo does not tell")
}
