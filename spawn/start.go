package spawn

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// Process is a child that a plan made.
type Process struct {
	Pid int
	// Pidfd refers to the process for poll(2), waitid(2) and pidfd_send_signal(2). Close closes it.
	Pidfd *os.File
	// Passed is, while the function of a Sync step runs, the value of the step's Pass slot.
	Passed int

	status *os.File // read end: the child's reports; nil once the child has executed
	next   int      // the first step that a report can be of
	names  []string // of the steps, for errors after Ready
}

// StepError says which step of a plan failed and why. Errors.Is sees the errno.
type StepError struct {
	Index int // of the step in Plan.Steps; -1: the clone itself
	Name  string
	Err   error // a unix.Errno, or what the function of a Sync step returned
}

func (e *StepError) Error() string { return e.Name + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// errVanished is the end of a child that neither executed nor reported: it was killed.
var errVanished = errors.New("the new process was killed before it executed its program")

// errReport is a report that the child's program does not make: somebody has meddled with the child.
var errReport = errors.New("the new process's report is not one of its plan")

// Start runs the plan: see the package documentation. The child is a child of the calling process and must be
// waited for (Wait) and closed (Close) if Start succeeds.
func Start(p *Plan) (*Process, error) {
	pipes, err := openPipes(p)
	if err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	pid, pidfd, err := compileAndClone(p, pipes)
	pipes.closeChildEnds()
	if err != nil {
		pipes.close()
		return nil, err
	}
	child := &Process{
		Pid:    pid,
		Pidfd:  os.NewFile(uintptr(pidfd), "pidfd"),
		status: os.NewFile(uintptr(pipes.status), "status"),
	}
	pipes.status = -1
	if p.Meanwhile != nil {
		p.Meanwhile(pid)
	}
	err = child.follow(p, pipes.acks)
	pipes.close()
	if err != nil {
		child.end()
		return nil, err
	}
	return child, nil
}

// compileAndClone makes the child, which has its own copy of the program then.
func compileAndClone(p *Plan, pipes *pipes) (pid, pidfd int, err error) {
	lean.enter()
	defer lean.leave()
	var c compiler
	defer c.free()
	if err := c.compile(p, pipes.childStatus, pipes.childAcks); err != nil {
		return 0, -1, err
	}
	return clone(p, c.prog)
}

func clone(p *Plan, prog *program) (pid, pidfd int, err error) {
	prog.clone.flags = p.Namespaces | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND
	prog.clone.pidfd = uint64(uintptr(unsafe.Pointer(&prog.pidfd)))
	prog.clone.exitSignal = uint64(unix.SIGCHLD)
	if p.Cgroup != nil {
		prog.clone.flags |= unix.CLONE_INTO_CGROUP
		prog.clone.cgroup = uint64(p.Cgroup.Num)
	}
	n, errno := fork(prog) // nothing here is this thread's own; the first lock would start one more thread
	if errno != 0 {
		return 0, -1, &StepError{Index: -1, Name: "clone3", Err: errno}
	}
	return int(n), int(prog.pidfd), nil
}

// follow answers the child's reports until it is Ready or has executed. On an error the child is dying or stuck.
func (p *Process) follow(plan *Plan, acks int) error {
	for {
		r, err := p.readReport()
		switch {
		case err == io.EOF:
			return p.executed()
		case err != nil:
			return fmt.Errorf("read the new process's report: %w", err)
		}
		if !p.expects(r, len(plan.Steps)) {
			return errReport
		}
		step := &plan.Steps[r.index]
		var before *os.File
		switch {
		case r.failed != 0:
			return &StepError{Index: int(r.index), Name: step.Name, Err: unix.Errno(r.value)}
		case step.Ready:
			p.names = stepNames(plan)
			return nil
		case step.Succeed:
			before, err = p.replace(int(r.value))
		case step.Sync != nil:
			p.Passed = int(r.value)
			err = step.Sync(p)
		default:
			return errReport
		}
		if err != nil {
			return &StepError{Index: int(r.index), Name: step.Name, Err: err}
		}
		err = rawfile.Retry(func() error {
			_, err := unix.Write(acks, []byte{1})
			return err
		})
		if reapErr := reapPredecessor(before); reapErr != nil { // meanwhile its successor goes on
			return &StepError{Index: int(r.index), Name: step.Name, Err: reapErr}
		}
		if err == nil {
			continue
		}
		if !plan.waits() { // its wait status tells, as if it had been killed a moment later
			return p.executed()
		}
		return &StepError{Index: int(r.index), Name: step.Name, Err: errVanished}
	}
}

// waits tells a plan with a Ready step.
func (p *Plan) waits() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Ready })
}

// expects reports whether a report is of a step that is still to come.
func (p *Process) expects(r report, steps int) bool {
	if int(r.index) < p.next || int(r.index) >= steps {
		return false
	}
	p.next = int(r.index) + 1
	return true
}

// executed is called at the end of the status pipe, which execve(2) or the child's death closes. An execve
// leaves a process that still lives, or one that ended by itself: only a death by SIGKILL or our own status before
// any exec would look the same, and a child that gives up reports first.
func (p *Process) executed() error {
	err := p.status.Close()
	p.status = nil
	if err != nil {
		return fmt.Errorf("close the status pipe: %w", err)
	}
	return nil
}

// Executed waits until a child that was Ready has executed its program (nil) or failed at a later step (*StepError).
// A child that was killed in between is taken for executed: its wait status tells.
func (p *Process) Executed() error {
	if p.status == nil {
		return nil
	}
	r, err := p.readReport()
	switch {
	case err == io.EOF:
		return p.executed()
	case err != nil:
		return fmt.Errorf("read the process's report: %w", err)
	case r.failed == 0 || !p.expects(r, len(p.names)):
		return errReport
	}
	return &StepError{Index: int(r.index), Name: p.names[r.index], Err: unix.Errno(r.value)}
}

// Wait waits for the child's end through its pidfd, reaps it and returns its wait status; see waitid(2).
func (p *Process) Wait() (unix.WaitStatus, error) {
	return Reap(p.Pidfd)
}

// Close releases the pidfd and the status pipe. The process goes on.
func (p *Process) Close() error {
	return errors.Join(p.Pidfd.Close(), p.CloseStatus())
}

// CloseStatus releases the status pipe alone: nobody will call Executed.
func (p *Process) CloseStatus() error {
	if p.status == nil {
		return nil
	}
	err := p.status.Close()
	p.status = nil
	return err
}

// end kills and reaps a child that failed.
func (p *Process) end() {
	_ = unix.PidfdSendSignal(int(p.Pidfd.Fd()), unix.SIGKILL, nil, 0)
	_, _ = p.Wait()
	_ = p.Close()
}

// Reap waits for the end of a child, by its pidfd, and returns its wait status.
func Reap(pidfd *os.File) (unix.WaitStatus, error) {
	var info siginfo
	err := rawfile.Retry(func() error {
		return unix.Waitid(unix.P_PIDFD, int(pidfd.Fd()), (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED, nil)
	})
	if err != nil {
		return 0, fmt.Errorf("wait for a process: %w", err)
	}
	return info.status(), nil
}

// siginfo is siginfo_t as waitid(2) fills it in, padded to its 128 bytes; the fields start at an 8-byte boundary.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	value                 int32
	_                     [100]byte
}

func (s *siginfo) status() unix.WaitStatus {
	const exited, dumped = 1, 3 // CLD_EXITED, CLD_DUMPED
	switch s.code {
	case exited:
		return unix.WaitStatus(s.value&0xff) << 8
	case dumped:
		return unix.WaitStatus(s.value | 0x80)
	default:
		return unix.WaitStatus(s.value)
	}
}

func stepNames(p *Plan) []string {
	names := make([]string, len(p.Steps))
	for i := range p.Steps {
		names[i] = p.Steps[i].Name
	}
	return names
}

// readReport waits for the next report; io.EOF if none will come. Processes of a container that see the new one can have
// its ends of the pipes, and hold one open: then the process's end is the end of its reports.
func (p *Process) readReport() (r report, err error) {
	status, pidfd := int(p.status.Fd()), int(p.Pidfd.Fd())
	buf := (*[reportSize]byte)(unsafe.Pointer(&r))[:]
	polled := []unix.PollFd{{Fd: int32(status), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
	if _, err := rawfile.Poll(polled, -1); err != nil {
		return r, err
	}
	if polled[0].Revents == 0 { // what it wrote before its end is there by now
		if n, err := rawfile.Poll(polled[:1], 0); err != nil || n == 0 {
			return r, cmp.Or(err, io.EOF)
		}
	}
	n, err := rawfile.RetryValue(func() (int, error) { return unix.Read(status, buf) })
	switch {
	case err != nil:
		return r, err
	case n == 0:
		return r, io.EOF
	case n != len(buf):
		return r, errReport
	}
	return r, nil
}

// pipes are the two pipes between parent and child; -1 is closed or not needed.
type pipes struct {
	status, childStatus int // child → parent: reports
	acks, childAcks     int // parent → child: one byte for every Sync step
}

func openPipes(p *Plan) (*pipes, error) {
	s := &pipes{-1, -1, -1, -1}
	above := lowestFree(p)
	var err error
	if s.status, s.childStatus, err = pipe(); err != nil {
		return nil, err
	}
	if s.childStatus, err = raise(s.childStatus, above); err != nil {
		s.close()
		return nil, err
	}
	for i := range p.Steps {
		if p.Steps[i].Sync == nil && !p.Steps[i].Succeed {
			continue
		}
		if s.childAcks, s.acks, err = pipe(); err != nil {
			s.close()
			return nil, err
		}
		if s.childAcks, err = raise(s.childAcks, above); err != nil {
			s.close()
			return nil, err
		}
		break
	}
	return s, nil
}

// lowestFree is the lowest descriptor above all that the plan dups to.
func lowestFree(p *Plan) int {
	free := 0
	for i := range p.Steps {
		if s := &p.Steps[i]; s.Call == unix.SYS_DUP3 && len(s.Args) > 1 && s.Args[1].kind == argNumber {
			free = max(free, int(s.Args[1].num)+1)
		}
	}
	return free
}

func pipe() (r, w int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, fmt.Errorf("pipe: %w", err)
	}
	return fds[0], fds[1], nil
}

// raise moves a descriptor to at least the given number, if it is below; on an error it is closed and -1. Only then:
// a table of descriptors that grows costs a process with threads an RCU grace period, many milliseconds.
func raise(fd, least int) (int, error) {
	if fd >= least {
		return fd, nil
	}
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, least)
	_ = unix.Close(fd)
	if err != nil {
		return -1, fmt.Errorf("duplicate a descriptor above %d: %w", least, err)
	}
	return high, nil
}

func (s *pipes) closeChildEnds() {
	closeFD(&s.childStatus)
	closeFD(&s.childAcks)
}

func (s *pipes) close() {
	s.closeChildEnds()
	closeFD(&s.status)
	closeFD(&s.acks)
}

func closeFD(fd *int) {
	if *fd >= 0 {
		_ = unix.Close(*fd)
		*fd = -1
	}
}
