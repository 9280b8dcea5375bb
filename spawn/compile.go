package spawn

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// compile turns a plan into numbers. status and acks are the child's ends of the two pipes.
func compile(p *Plan, status, acks int) (*program, error) {
	prog := &program{status: uintptr(status), acks: uintptr(acks), ops: make([]op, len(p.Steps))}
	used := []int{0, 1, 2, status}
	if acks >= 0 {
		used = append(used, acks)
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		o := &prog.ops[i]
		switch {
		case s.Sync != nil:
			o.kind, o.result = opSync, uint8(s.Pass)
			continue
		case s.Ready:
			o.kind = opReady
			continue
		case s.Succeed:
			o.kind, o.args[0] = opSucceed, uintptr(s.Clone)
			if s.Show {
				o.args[1] = 1
			}
			continue
		}
		if err := prog.call(o, s); err != nil {
			return nil, &StepError{Index: i, Name: s.Name, Err: err}
		}
		for _, a := range s.Args {
			if a.kind == argFD {
				used = append(used, a.fd.Num)
			}
		}
	}
	prog.gaps = gaps(used)
	return prog, nil
}

func (prog *program) call(o *op, s *Step) error {
	switch {
	case len(s.Args) > len(o.args):
		return fmt.Errorf("%d arguments, a system call takes %d", len(s.Args), len(o.args))
	case len(s.Ignore) > maxIgnore:
		return fmt.Errorf("%d errnos to ignore, %d are possible", len(s.Ignore), maxIgnore)
	case s.Result < NoSlot || s.Result > MaxSlots:
		return fmt.Errorf("slot %d, 1 to %d are possible", s.Result, MaxSlots)
	case s.Skip < 0 || s.Else < 0:
		return fmt.Errorf("skip %d steps, only forward is possible", min(s.Skip, s.Else))
	}
	o.call, o.result, o.skip, o.other, o.exit = s.Call, uint8(s.Result), int32(s.Skip), int32(s.Else), s.Exit
	if o.exit == 0 {
		o.exit = 255
	}
	copy(o.ignore[:], s.Ignore)
	if s.Complain {
		o.complaints = complaints(s.Name)
	}
	if s.Refuse.Buffer != nil {
		if len(s.Refuse.Buffer) < 8 {
			return fmt.Errorf("a buffer of %d bytes to look into, 8 are needed", len(s.Refuse.Buffer))
		}
		o.word, o.refuse = (*uint64)(unsafe.Pointer(unsafe.SliceData(s.Refuse.Buffer))), s.Refuse.Value
	}
	for i, a := range s.Args {
		if a.kind == argSlot {
			if a.slot < 1 || a.slot > MaxSlots {
				return fmt.Errorf("slot %d, 1 to %d are possible", a.slot, MaxSlots)
			}
			o.slots |= 1 << i
			o.args[i] = uintptr(a.slot)
			continue
		}
		value, err := prog.value(a)
		if err != nil {
			return err
		}
		o.args[i] = value
	}
	return nil
}

// value is the machine word for an argument; what it points to is kept.
func (prog *program) value(a Arg) (uintptr, error) {
	switch a.kind {
	case argString:
		return prog.str(a.str)
	case argBytes:
		if len(a.data) == 0 {
			return 0, nil
		}
		prog.keep = append(prog.keep, a.data)
		return uintptr(unsafe.Pointer(unsafe.SliceData(a.data))), nil
	case argStrings:
		vector := make([]uintptr, len(a.list)+1)
		for i, s := range a.list {
			p, err := prog.str(s)
			if err != nil {
				return 0, err
			}
			vector[i] = p
		}
		prog.keep = append(prog.keep, vector)
		return uintptr(unsafe.Pointer(unsafe.SliceData(vector))), nil
	case argFilter:
		if len(a.code) == 0 || len(a.code) > math.MaxUint16 {
			return 0, fmt.Errorf("a filter of %d instructions", len(a.code))
		}
		header := &unix.SockFprog{Len: uint16(len(a.code)), Filter: unsafe.SliceData(a.code)}
		prog.keep = append(prog.keep, header)
		return uintptr(unsafe.Pointer(header)), nil
	case argFD:
		return uintptr(a.fd.Num), nil
	default:
		return uintptr(a.num), nil
	}
}

func (prog *program) str(s string) (uintptr, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return 0, fmt.Errorf("%q contains a NUL byte: %w", s, unix.EINVAL)
	}
	b, err := syscall.BytePtrFromString(s)
	if err != nil {
		return 0, err
	}
	prog.keep = append(prog.keep, b)
	return uintptr(unsafe.Pointer(b)), nil
}

// gaps are the ranges of descriptors between the used ones, for close_range(2).
func gaps(used []int) [][2]uintptr {
	slices.Sort(used)
	var out [][2]uintptr
	next := 0
	for _, fd := range slices.Compact(used) {
		if fd > next {
			out = append(out, [2]uintptr{uintptr(next), uintptr(fd - 1)})
		}
		next = fd + 1
	}
	return append(out, [2]uintptr{uintptr(next), math.MaxUint32})
}

// complaints are texts for the errors that execve(2) is known for, since the child cannot make them.
func complaints(name string) []complaint {
	list := make([]complaint, 0, 8)
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.ELOOP, unix.ENOTDIR, unix.E2BIG, unix.EPERM} {
		list = append(list, complaint{errno, []byte(name + ": " + errno.Error() + "\n")})
	}
	return append(list, complaint{0, []byte(name + ": it cannot be executed\n")})
}
