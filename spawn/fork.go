package spawn

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go runtime keeps these two for packages that fork; see the comments in its proc.go.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// clone3 makes a child that calls a function, by its address, on a stack of its own.
func clone3(args *cloneArgs, size uintptr, p *program, child uintptr) (pid, errno uintptr)

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64
}

type opKind uint8

const (
	opCall opKind = iota
	opSync
	opReady
	opSucceed
	opOnly
)

const maxIgnore = 6

// op is a step in the form that the child interprets: numbers only. A plan has hundreds, in memory that both processes touch
// page by page, so it is small; what few steps have is in extra.
type op struct {
	kind   opKind
	result uint8
	slots  uint8 // bit n: argument n is a slot's number
	exit   uint8
	ignore [maxIgnore]uint16 // errnos
	skip   int32
	other  int32 // like skip, after an errno to ignore
	call   uint32
	args   [6]uintptr
	extra  *extra // or nil
}

// extra is what few steps have.
type extra struct {
	word       *uint64 // where the value to refuse would be, or nil
	refuse     uint64
	complaints []complaint
	gaps       [][2]uintptr // of descriptors to close
}

// complaint is what a child says of an error, on its standard error, when its parent does not listen any more.
type complaint struct {
	errno syscall.Errno // 0: of every other one
	text  []byte
}

// report is what the child tells the parent through the status pipe: a step that failed with value as its errno, or a
// meeting point reached, with the value of its slot.
type report struct {
	index  int32
	failed int32 // 0 or 1
	value  int64
}

const reportSize = unsafe.Sizeof(report{})

// program is a compiled plan. It and all that it points to are in an arena: the child has a copy of that.
type program struct {
	clone  cloneArgs
	mask   uint64 // of signals
	pidfd  int32
	ops    []op
	slots  [MaxSlots + 1]uintptr
	report report
	ack    [1]byte
	status uintptr      // descriptor that the child writes reports to
	acks   uintptr      // descriptor that the child reads acknowledgements from
	gaps   [][2]uintptr // of descriptors to close at first
	memory forgotten
	poll   unix.PollFd
	now    unix.Timespec
}

// fork clones. No signal reaches the child before it has the mask that this thread had.
func fork(p *program) (pid uintptr, errno syscall.Errno) {
	run := (*program).run
	entry := **(**uintptr)(unsafe.Pointer(&run))
	return cloneMasked(p, entry)
}

//go:noinline
//go:norace
//go:nosplit
func cloneMasked(p *program, entry uintptr) (pid uintptr, errno syscall.Errno) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, 0, uintptr(unsafe.Pointer(&p.mask)), unsafe.Sizeof(p.mask), 0, 0)
	beforeFork()
	pid, failed := clone3(&p.clone, unsafe.Sizeof(p.clone), p, entry)
	afterFork()
	return pid, syscall.Errno(failed)
}

// run is the child. It interprets the program and does not return. Nothing here may allocate, grow the stack, take a lock
// or look at a variable of the package: the child has its arena and none of the memory that Go manages.
//
//go:noinline
//go:norace
//go:nosplit
func (p *program) run() {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.mask)), 0, unsafe.Sizeof(p.mask), 0, 0)
	p.memory.forget()
	closeGaps(p.gaps)
	for i := 0; i < len(p.ops); i++ {
		o := &p.ops[i]
		if o.kind == opSucceed {
			p.succeed(i, o.args[0])
			continue
		}
		if o.kind == opOnly {
			closeGaps(o.extra.gaps)
			continue
		}
		if o.kind != opCall {
			p.report.index, p.report.value = int32(i), int64(p.slots[o.result])
			if _, _, errno := syscall.RawSyscall(unix.SYS_WRITE, p.status, uintptr(unsafe.Pointer(&p.report)), reportSize); errno != 0 {
				exit(255)
			}
			if o.kind == opReady {
				continue
			}
			if n, _, _ := syscall.RawSyscall(unix.SYS_READ, p.acks, uintptr(unsafe.Pointer(&p.ack)), 1); n != 1 {
				exit(255) // the parent is gone or has given up
			}
			continue
		}
		for a := range o.args {
			if o.slots&(1<<a) != 0 {
				o.args[a] = p.slots[o.args[a]]
			}
		}
		r, _, errno := syscall.RawSyscall6(uintptr(o.call), o.args[0], o.args[1], o.args[2], o.args[3], o.args[4], o.args[5])
		if errno == 0 && o.extra != nil && o.extra.word != nil && *o.extra.word == o.extra.refuse {
			p.fail(int32(i), unix.EACCES)
		}
		if errno == 0 {
			p.slots[o.result] = r
			i += int(o.skip)
			continue
		}
		ignored := false
		for n := range o.ignore {
			ignored = ignored || o.ignore[n] == uint16(errno)
		}
		if !ignored {
			p.fail(int32(i), errno)
		}
		i += int(o.other)
	}
	exit(255)
}

// closeGaps closes ranges of descriptors.
//
//go:norace
//go:nosplit
func closeGaps(gaps [][2]uintptr) {
	for i := range gaps {
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, gaps[i][0], gaps[i][1], 0)
	}
}

// succeed returns in the successor. Its predecessor reports the successor's pid, and ends; the successor waits for an
// acknowledgement. Filters of system calls that let programs fork allow
// clone(2), but often not clone3(2), whose flags they cannot see.
//
//go:norace
//go:nosplit
func (p *program) succeed(index int, flags uintptr) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, flags|unix.CLONE_PARENT, 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		if n, _, _ := syscall.RawSyscall(unix.SYS_READ, p.acks, uintptr(unsafe.Pointer(&p.ack)), 1); n != 1 {
			exit(255)
		}
		return
	}
	p.report.index, p.report.value = int32(index), int64(pid)
	if errno != 0 {
		p.report.failed, p.report.value = 1, int64(errno)
	}
	syscall.RawSyscall(unix.SYS_WRITE, p.status, uintptr(unsafe.Pointer(&p.report)), reportSize)
	exit(255)
}

// heard reports whether somebody can read reports. If not, writing one would be death by SIGPIPE.
//
//go:norace
//go:nosplit
func (p *program) heard() bool {
	p.poll.Fd = int32(p.status)
	syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p.poll)), 1, uintptr(unsafe.Pointer(&p.now)), 0, 0, 0)
	return p.poll.Revents&unix.POLLERR == 0
}

// complain writes what there is to say of an error to standard error.
//
//go:norace
//go:nosplit
func (o *op) complain(errno syscall.Errno) {
	if o.extra == nil {
		return
	}
	for i := range o.extra.complaints {
		if c := &o.extra.complaints[i]; c.errno == errno || c.errno == 0 {
			syscall.RawSyscall(unix.SYS_WRITE, 2, uintptr(unsafe.Pointer(unsafe.SliceData(c.text))), uintptr(len(c.text)))
			return
		}
	}
}

// fail reports the errno of a step and ends the process.
//
//go:norace
//go:nosplit
func (p *program) fail(index int32, errno syscall.Errno) {
	o := &p.ops[index]
	status := uintptr(max(o.exit, 1))
	if !p.heard() {
		o.complain(errno)
		exit(status)
	}
	p.report.index, p.report.failed, p.report.value = index, 1, int64(errno)
	syscall.RawSyscall(unix.SYS_WRITE, p.status, uintptr(unsafe.Pointer(&p.report)), reportSize)
	exit(status)
}

//go:norace
//go:nosplit
func exit(status uintptr) {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}
