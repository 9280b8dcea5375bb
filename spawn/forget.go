package spawn

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forgotten is what a child gives up of the memory that it is born with a copy of: all but its arena and the program's
// code. Before its execve, a child can be in sight of processes of a container, which read /proc/PID/environ and
// /proc/PID/mem if they have CAP_SYS_PTRACE, and must find nothing of the parent's there.
type forgotten struct {
	gaps      []span // of the address space
	variables span   // become zero: nothing reads them, but the code is compiled as if something could
}

// span is a range of addresses.
type span struct{ start, end uintptr }

// forget is the child's.
//
//go:norace
//go:nosplit
func (f *forgotten) forget() {
	for i := range f.gaps {
		syscall.RawSyscall(unix.SYS_MUNMAP, f.gaps[i].start, f.gaps[i].end-f.gaps[i].start, 0)
	}
	if f.variables.start != f.variables.end {
		syscall.RawSyscall6(unix.SYS_MMAP, f.variables.start, f.variables.end-f.variables.start, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	}
}

// canForget: a C library has told the kernel of memory that every thread, the child too, must have; see rseq(2).
func canForget() bool { return !iscgo }

// forget notes what the child gives up. The arena is complete by then.
func (c *compiler) forget(f *forgotten) error {
	if !canForget() {
		return nil
	}
	own, err := ownLayout()
	if err != nil {
		return err
	}
	list, err := room[span](&c.arena, len(own.code)+len(c.pieces)+3) // the list itself may take a piece
	if err != nil {
		return err
	}
	kept := append(slices.Clone(own.code), own.variables)
	for _, piece := range c.pieces {
		start := uintptr(unsafe.Pointer(unsafe.SliceData(piece)))
		kept = append(kept, span{start, start + uintptr(cap(piece))})
	}
	slices.SortFunc(kept, func(a, b span) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	n, next := 0, uintptr(0)
	for _, k := range append(kept, span{own.top, own.top}) {
		if k.start > next {
			list[n] = span{next, k.start}
			n++
		}
		next = max(next, k.end)
	}
	f.gaps, f.variables = list[:n], own.variables
	return nil
}
