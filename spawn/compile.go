package spawn

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// compiler puts a program into an arena.
type compiler struct {
	arena
	prog    *program
	buffers map[*byte]unsafe.Pointer // where what Bytes arguments point to is now
}

// stackSize is much more than functions that may not grow their stack are allowed to need.
const stackSize = 16 << 10

// compile turns a plan into numbers. status and acks are the child's ends of the two pipes.
func (c *compiler) compile(p *Plan, status, acks int) error {
	at, err := c.make(int(unsafe.Sizeof(program{})))
	if err != nil {
		return err
	}
	stack, err := c.make(stackSize)
	if err != nil {
		return err
	}
	prog := (*program)(at)
	c.prog = prog
	prog.status, prog.acks = uintptr(status), uintptr(acks)
	prog.clone.stack, prog.clone.stackSize = uint64(uintptr(stack)), stackSize
	if prog.ops, err = room[op](&c.arena, len(p.Steps)); err != nil {
		return err
	}
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
			continue
		case s.Only != nil:
			if err := c.only(o, s.Only, status, acks); err != nil {
				return err
			}
			for _, fd := range s.Only {
				used = append(used, fd.Num)
			}
			continue
		}
		if err := c.call(o, s); err != nil {
			return &StepError{Index: i, Name: s.Name, Err: err}
		}
		for _, a := range s.Args {
			if a.kind == argFD {
				used = append(used, int(a.num))
			}
		}
	}
	if prog.gaps, err = inArena(&c.arena, gaps(used)); err != nil {
		return err
	}
	return c.forget(&prog.memory)
}

// only is for a step that closes what is not among the kept.
func (c *compiler) only(o *op, kept []FD, status, acks int) (err error) {
	used := []int{0, 1, 2, status}
	if acks >= 0 {
		used = append(used, acks)
	}
	for _, fd := range kept {
		used = append(used, fd.Num)
	}
	list, err := room[extra](&c.arena, 1)
	if err != nil {
		return err
	}
	o.kind, o.extra = opOnly, &list[0]
	o.extra.gaps, err = inArena(&c.arena, gaps(used))
	return err
}

func (c *compiler) call(o *op, s *Step) error {
	switch {
	case len(s.Args) > len(o.args):
		return fmt.Errorf("%d arguments, a system call takes %d", len(s.Args), len(o.args))
	case len(s.Ignore) > maxIgnore:
		return fmt.Errorf("%d errnos to ignore, %d are possible", len(s.Ignore), maxIgnore)
	case s.Result < NoSlot || s.Result > MaxSlots:
		return fmt.Errorf("slot %d, 1 to %d are possible", s.Result, MaxSlots)
	case uintptr(uint32(s.Call)) != s.Call:
		return fmt.Errorf("no system call has the number %d", s.Call)
	case s.Skip < 0 || s.Else < 0:
		return fmt.Errorf("skip %d steps, only forward is possible", min(s.Skip, s.Else))
	}
	o.call, o.result, o.skip, o.other, o.exit = uint32(s.Call), uint8(s.Result), int32(s.Skip), int32(s.Else), s.Exit
	if o.exit == 0 {
		o.exit = 255
	}
	for i, errno := range s.Ignore {
		o.ignore[i] = uint16(errno)
	}
	if s.Complain || s.Refuse.Buffer != nil {
		list, err := room[extra](&c.arena, 1)
		if err != nil {
			return err
		}
		o.extra = &list[0]
	}
	if s.Complain {
		var err error
		if o.extra.complaints, err = c.complaints(s.Name); err != nil {
			return err
		}
	}
	if s.Refuse.Buffer != nil {
		if len(s.Refuse.Buffer) < 8 {
			return fmt.Errorf("a buffer of %d bytes to look into, 8 are needed", len(s.Refuse.Buffer))
		}
		at, err := c.bytes(s.Refuse.Buffer)
		if err != nil {
			return err
		}
		o.extra.word, o.extra.refuse = (*uint64)(at), s.Refuse.Value
	}
	for i, a := range s.Args {
		if a.kind == argSlot {
			if slot := Slot(a.num); slot < 1 || slot > MaxSlots {
				return fmt.Errorf("slot %d, 1 to %d are possible", slot, MaxSlots)
			}
			o.slots |= 1 << i
			o.args[i] = uintptr(a.num)
			continue
		}
		value, err := c.value(a)
		if err != nil {
			return err
		}
		o.args[i] = value
	}
	return nil
}

// value is the machine word for an argument.
func (c *compiler) value(a Arg) (uintptr, error) {
	switch a.kind {
	case argString:
		return c.str(a.str)
	case argBytes:
		at, err := c.bytes(elements[byte](a))
		return uintptr(at), err
	case argStrings:
		list := elements[string](a)
		vector, err := room[uintptr](&c.arena, len(list)+1)
		if err != nil {
			return 0, err
		}
		for i, s := range list {
			if vector[i], err = c.str(s); err != nil {
				return 0, err
			}
		}
		return uintptr(unsafe.Pointer(unsafe.SliceData(vector))), nil
	case argFilter:
		return c.filter(elements[unix.SockFilter](a))
	case argRights:
		return c.rights(int(a.num))
	default:
		return uintptr(a.num), nil
	}
}

func (c *compiler) filter(code []unix.SockFilter) (uintptr, error) {
	if len(code) == 0 || len(code) > math.MaxUint16 {
		return 0, fmt.Errorf("a filter of %d instructions", len(code))
	}
	code, err := inArena(&c.arena, code)
	if err != nil {
		return 0, err
	}
	header, err := inArena(&c.arena, []unix.SockFprog{{Len: uint16(len(code)), Filter: unsafe.SliceData(code)}})
	return uintptr(unsafe.Pointer(unsafe.SliceData(header))), err
}

func (c *compiler) rights(fd int) (uintptr, error) {
	control, err := inArena(&c.arena, unix.UnixRights(fd))
	if err != nil {
		return 0, err
	}
	message := unix.Msghdr{Control: unsafe.SliceData(control)}
	message.SetControllen(len(control))
	header, err := inArena(&c.arena, []unix.Msghdr{message})
	return uintptr(unsafe.Pointer(unsafe.SliceData(header))), err
}

// bytes is a copy of a buffer, the same one each time.
func (c *compiler) bytes(b []byte) (unsafe.Pointer, error) {
	if len(b) == 0 {
		return nil, nil
	}
	key := unsafe.SliceData(b)
	if at, found := c.buffers[key]; found {
		return at, nil
	}
	copied, err := inArena(&c.arena, b)
	if c.buffers == nil {
		c.buffers = map[*byte]unsafe.Pointer{}
	}
	at := unsafe.Pointer(unsafe.SliceData(copied))
	c.buffers[key] = at
	return at, err
}

// str is a copy that ends with NUL.
func (c *compiler) str(s string) (uintptr, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return 0, fmt.Errorf("%q contains a NUL byte: %w", s, unix.EINVAL)
	}
	at, err := c.make(len(s) + 1)
	if err != nil {
		return 0, err
	}
	copy(unsafe.Slice((*byte)(at), len(s)), s)
	return uintptr(at), nil
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
func (c *compiler) complaints(name string) ([]complaint, error) {
	errnos := []unix.Errno{unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.ELOOP, unix.ENOTDIR, unix.E2BIG, unix.EPERM, 0}
	list, err := room[complaint](&c.arena, len(errnos))
	if err != nil {
		return nil, err
	}
	for i, errno := range errnos {
		text := "it cannot be executed"
		if errno != 0 {
			text = errno.Error()
		}
		list[i].errno = errno
		if list[i].text, err = inArena(&c.arena, []byte(name+": "+text+"\n")); err != nil {
			return nil, err
		}
	}
	return list, nil
}
