package spawn

import (
	"os"

	"golang.org/x/sys/unix"
)

// Process is a child that a plan made.
type Process struct {
	Pid int
	// Pidfd refers to the process for poll(2), waitid(2) and pidfd_send_signal(2). The caller closes it.
	Pidfd *os.File
}

// StepError says which step of a plan failed and why. Errors.Is sees the errno.
type StepError struct {
	Index int // of the step in Plan.Steps; -1: the clone itself
	Name  string
	Errno unix.Errno
	Err   error // in place of Errno, for a Sync step
}

func (e *StepError) Error() string { panic("contract") }
func (e *StepError) Unwrap() error { panic("contract") }

// Start runs the plan: see the package documentation. The child is a child of the calling process and must be
// waited for (Wait) if Start succeeds.
func Start(p *Plan) (*Process, error) { panic("contract") }

// Executed waits until a child that was Ready has executed its program (nil), failed at a later step (*StepError), or died.
func (p *Process) Executed() error { panic("contract") }

// Wait waits for the child's end through its pidfd, reaps it and returns its wait status.
func (p *Process) Wait() (unix.WaitStatus, error) { panic("contract") }

// Close releases the pidfd and the status pipe.
func (p *Process) Close() error { panic("contract") }
