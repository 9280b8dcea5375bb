package spawn

import (
	"bytes"
	"strconv"
	"sync"
	"sync/atomic"
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// iscgo tells that there is a C library beside Go's runtime.
//
//go:linkname iscgo runtime.iscgo
var iscgo bool

// KeepMemory is for a program that starts many processes, to be called first in main: children of Start get no copy of
// this process's memory from then on, of which they use nothing. To copy the page tables of a few megabytes, and then to
// fault on each page that either side touches, takes longer than all else that a child is made by.
//
// Nothing else in the program may fork then: package os/exec does, for a child in a new user namespace (CLONE_NEWUSER in
// SysProcAttr), and the child would die of SIGSEGV. Its other children share memory until they execute, which is fine.
// With a C library nothing is kept: it has told the kernel of memory that every thread, the child too, must have; see rseq(2).
func KeepMemory() { lean.wanted.Store(!iscgo) }

var lean keeper

// keeper marks memory with MADV_DONTFORK; see madvise(2). What it has not seen yet is copied, which is only slower.
type keeper struct {
	wanted atomic.Bool
	arenas sync.RWMutex // read: an arena is there that a child is to get; write: memory is being marked
	mu     sync.Mutex   // guards starts
	starts int
}

// every so many starts memory is marked again: the heap may have grown.
const every = 64

// enter is called before an arena is made, leave when the child has its copy.
func (k *keeper) enter() {
	if k.wanted.Load() {
		k.mu.Lock()
		due := k.starts%every == 0
		k.starts++
		k.mu.Unlock()
		if due {
			k.mark()
		}
	}
	k.arenas.RLock()
}

func (k *keeper) leave() { k.arenas.RUnlock() }

// mark goes through this process's anonymous memory. The first stack, where /proc finds the arguments, is copied.
func (k *keeper) mark() {
	k.arenas.Lock()
	defer k.arenas.Unlock()
	text, err := rawfile.Read("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range bytes.Lines(text) {
		if start, end, ok := anonymous(line); ok {
			_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTFORK)
		}
	}
}

// anonymous reads a line of /proc/self/maps: address range, permissions, offset, device, inode and, perhaps, a name.
func anonymous(line []byte) (start, end uintptr, ok bool) {
	fields := bytes.Fields(line)
	if len(fields) < 5 || len(fields[1]) != 4 || fields[1][3] != 'p' || string(fields[4]) != "0" {
		return 0, 0, false
	}
	if len(fields) > 5 && !bytes.HasPrefix(fields[5], []byte("[anon:")) {
		return 0, 0, false
	}
	from, to, found := bytes.Cut(fields[0], []byte("-"))
	first, err := strconv.ParseUint(string(from), 16, 64)
	last, err2 := strconv.ParseUint(string(to), 16, 64)
	return uintptr(first), uintptr(last), found && err == nil && err2 == nil
}
