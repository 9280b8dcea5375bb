package spawn

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Slots keeps the results of steps, by Slot.
type Slots [MaxSlots + 1]uintptr

// Here makes the step's system call in the calling thread, for work that needs no process of its own. Ignore, Skip and Else
// are left to the caller. The error is the call's errno, unless an argument cannot be passed.
func (s *Step) Here(slots *Slots) error {
	var args [6]uintptr
	var kept [len(args)][]byte // referenced until the call has returned
	if len(s.Args) > len(args) || s.Sync != nil || s.Succeed || s.Ready || s.Result < NoSlot || s.Result > MaxSlots {
		return fmt.Errorf("not a step that this process can make: %w", unix.EINVAL)
	}
	for i, a := range s.Args {
		var err error
		switch a.kind {
		case argNumber, argFD:
			args[i] = uintptr(a.num)
		case argSlot:
			if a.num > uint64(MaxSlots) {
				return fmt.Errorf("slot %d, 1 to %d are possible", a.num, MaxSlots)
			}
			args[i] = slots[a.num]
		case argString:
			if kept[i], err = unix.ByteSliceFromString(a.str); err != nil {
				return fmt.Errorf("%q contains a NUL byte: %w", a.str, err)
			}
		case argBytes:
			kept[i] = elements[byte](a)
		default:
			return fmt.Errorf("argument %d is only for a new process: %w", i, unix.EINVAL)
		}
		if len(kept[i]) > 0 {
			args[i] = uintptr(unsafe.Pointer(unsafe.SliceData(kept[i])))
		}
	}
	r, _, errno := unix.Syscall6(s.Call, args[0], args[1], args[2], args[3], args[4], args[5])
	runtime.KeepAlive(kept)
	if errno != 0 {
		return errno
	}
	slots[s.Result] = r
	return nil
}
