package client

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// OutputPath is where the FIFO of a container's output ("stdout" or "stderr") stands in a supervisor's directory.
func OutputPath(dir, id, stream string) string { return filepath.Join(dir, "io", id+"."+stream) }

// Held are descriptors of a container that must not be the supervisor's alone: if it is killed, and the container ends before
// the next one looks, what is in the FIFOs and the exit status would be gone.
type Held struct {
	pid     int
	pidfd   *os.File
	outputs []*os.File
}

// Hold opens what there is to hold of a container whose first process has just been made.
func Hold(dir, id string, pid int) (*Held, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	h := &Held{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	for _, stream := range []string{"stdout", "stderr"} {
		f, err := rawfile.Open(OutputPath(dir, id, stream), unix.O_RDONLY|unix.O_NONBLOCK, 0)
		switch {
		case errors.Is(err, os.ErrNotExist): // a terminal, or another supervisor than ours
		case err != nil:
			return nil, errors.Join(err, h.Close())
		default:
			h.outputs = append(h.outputs, f)
		}
	}
	return h, nil
}

// ExitStatus is how the process ended, if it has and the kernel still knows (Linux 6.15).
func (h *Held) ExitStatus() (status int, known bool) {
	if h == nil {
		return UnknownStatus, false
	}
	return ExitStatus(h.pid, int(h.pidfd.Fd()))
}

// Close lets go.
func (h *Held) Close() error {
	if h == nil {
		return nil
	}
	errs := []error{h.pidfd.Close()}
	for _, f := range h.outputs {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
