package spawn

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// CanSeal reports whether Plan.Seal works: the kernel lets a process with CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE say
// what its program is (PR_SET_MM_MAP in PR_SET_MM(2const), CONFIG_CHECKPOINT_RESTORE), if it may execute that.
func CanSeal() bool {
	self, err := mappedSelf()
	if err != nil {
		return false
	}
	const noDescriptor = 1 << 30 // found to be unusable only after the permission has been checked
	layout := self.layout
	layout.program = noDescriptor
	err = unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&layout)), unsafe.Sizeof(layout), 0)
	return err == unix.EBADF && self.forAll
}

// Seal adds the steps that do for the child alone what SealSelf does for the whole program, without another start of
// it: they map the program anew, from a read-only view of its file, and make that view what /proc/PID/exe shows. The
// child's copy of the program's variables goes, which no step points to. These steps stand before capabilities are
// dropped. Nothing is added if the program is sealed already.
func (p *Plan) Seal() error {
	sealed, err := Sealed()
	if sealed || err != nil {
		return err
	}
	self, err := mappedSelf()
	if err != nil {
		return err
	}
	for _, m := range self.maps {
		size := hex(m.end - m.start)
		if m.writable && canForget() { // it has, already
			continue
		}
		if m.writable {
			p.Add("forget the runtime's variables", unix.SYS_MMAP, hex(m.start), size, Flags(unix.PROT_READ|unix.PROT_WRITE, "PROT_READ|PROT_WRITE"),
				Flags(unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_ANONYMOUS, "MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS"), Int(-1), Int(0))
			continue
		}
		prot := Flags(unix.PROT_READ, "PROT_READ")
		if m.executable {
			prot = Flags(unix.PROT_READ|unix.PROT_EXEC, "PROT_READ|PROT_EXEC")
		}
		p.Add("map the runtime's program from a read-only view", unix.SYS_MMAP, hex(m.start), size, prot,
			Flags(unix.MAP_PRIVATE|unix.MAP_FIXED, "MAP_PRIVATE|MAP_FIXED"), Desc(self.view), hex(m.offset))
	}
	layout := self.layout
	layout.program = uint32(self.view.Num)
	p.Add("show the read-only view as this process's program", unix.SYS_PRCTL, Flags(unix.PR_SET_MM, "PR_SET_MM"),
		Flags(unix.PR_SET_MM_MAP, "PR_SET_MM_MAP"), Bytes(layout.bytes(), "{exe_fd=runtime}"), Int(int(unsafe.Sizeof(layout))), Int(0))
	return nil
}

func hex(n uint64) Arg { return Flags(n, fmt.Sprintf("%#x", n)) }

// selfMap is where this program's file is mapped, and its read-only view, open as long as the process lives.
type selfMap struct {
	maps   []mapping
	view   FD
	forAll bool // may be executed by anyone: also by the root of a user namespace, who is nobody here
	layout memoryMap
}

// mapping is a line of /proc/PID/maps; see proc_pid_maps(5).
type mapping struct {
	start, end, offset   uint64
	executable, writable bool
	name                 string // of the file, or the kernel's word in brackets
}

var mappedSelf = sync.OnceValues(func() (*selfMap, error) {
	tree, err := viewOfSelf()
	if err != nil {
		return nil, err
	}
	defer unix.Close(tree)
	view, err := rawfile.RetryValue(func() (int, error) {
		return unix.Open(fmt.Sprintf("/proc/self/fd/%d", tree), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("seal this program: open its read-only view: %w", err)
	}
	self := &selfMap{view: FD{Num: view, Name: "runtime"}}
	if err := self.read(); err != nil {
		_ = unix.Close(view)
		return nil, fmt.Errorf("seal this program: %w", err)
	}
	return self, nil
})

func (m *selfMap) read() (err error) {
	own, err := ownLayout()
	if err != nil {
		return err
	}
	m.maps = own.program
	var stat unix.Stat_t
	if err := unix.Fstat(m.view.Num, &stat); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	m.forAll = stat.Mode&0o001 != 0
	return m.layout.read()
}

// memoryMap is struct prctl_mm_map; see PR_SET_MM(2const). The kernel takes it as a whole or not at all.
type memoryMap struct {
	startCode, endCode, startData, endData, startBrk, brk, startStack uint64
	argStart, argEnd, envStart, envEnd                                uint64
	auxv                                                              uint64
	auxvSize, program                                                 uint32
}

func (m *memoryMap) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(m)), unsafe.Sizeof(*m))
}

// read takes what is so now from the fields that proc_pid_stat(5) numbers from 1.
func (m *memoryMap) read() error {
	text, err := rawfile.Read("/proc/self/stat")
	if err != nil {
		return err
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	for _, field := range []struct {
		number int
		value  *uint64
	}{
		{26, &m.startCode},
		{27, &m.endCode},
		{28, &m.startStack},
		{45, &m.startData},
		{46, &m.endData},
		{47, &m.startBrk},
		{47, &m.brk},
		{48, &m.argStart},
		{49, &m.argEnd},
		{50, &m.envStart},
		{51, &m.envEnd},
	} {
		const first = 3 // behind the name
		if len(f) <= field.number-first {
			return fmt.Errorf("/proc/self/stat has %d fields", len(f)+first-1)
		}
		if *field.value, err = strconv.ParseUint(f[field.number-first], 10, 64); err != nil {
			return fmt.Errorf("/proc/self/stat: %w", err)
		}
	}
	return nil
}

// layout is where this program is in its address space, as long as it runs.
type layout struct {
	program   []mapping // of its file
	code      []span    // of these, what is not written to
	variables span      // and the rest, with what follows it
	top       uintptr   // the end of all mappings
}

var ownLayout = sync.OnceValues(func() (*layout, error) {
	text, err := rawfile.Read("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	run := (*program).run
	return readLayout(string(text), uint64(**(**uintptr)(unsafe.Pointer(&run))))
})

// readLayout finds the program's mappings: those of the file that has the code at an address.
func readLayout(text string, code uint64) (*layout, error) {
	l := &layout{}
	file := ""
	for line := range strings.Lines(text) {
		m, err := parseMapping(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("/proc/self/maps: malformed line %q", line)
		}
		if m.start <= code && code < m.end {
			file = m.name
		}
		if m.name != "[vsyscall]" { // the kernel's
			l.top = max(l.top, uintptr(m.end))
		}
	}
	if file == "" {
		return nil, fmt.Errorf("/proc/self/maps: no mapping of a file has this program's code")
	}
	for line := range strings.Lines(text) {
		m, err := parseMapping(strings.TrimSuffix(line, "\n"))
		here := span{uintptr(m.start), uintptr(m.end)}
		switch {
		case err != nil: // seen above
		case m.name == file:
			l.program = append(l.program, m)
			if !m.writable {
				l.code = append(l.code, here)
			} else if l.variables.end == 0 {
				l.variables = here
			} else {
				l.variables.end = here.end
			}
		case m.name == "" && here.start == l.variables.end: // what begins as zero
			l.variables.end = here.end
		}
	}
	return l, nil
}

// parseMapping reads "START-END PERMISSIONS OFFSET DEVICE INODE NAME", numbers in base 16.
func parseMapping(line string) (m mapping, err error) {
	span, rest, _ := strings.Cut(line, " ")
	perms, rest, _ := strings.Cut(rest, " ")
	offset, rest, _ := strings.Cut(rest, " ")
	start, end, _ := strings.Cut(span, "-")
	for _, n := range []struct {
		text  string
		value *uint64
	}{{start, &m.start}, {end, &m.end}, {offset, &m.offset}} {
		if *n.value, err = strconv.ParseUint(n.text, 16, 64); err != nil {
			return m, err
		}
	}
	_, rest, _ = strings.Cut(rest, " ")
	_, name, _ := strings.Cut(rest, " ")
	m.name = strings.TrimLeft(name, " ")
	if len(perms) != len("rwxp") {
		return m, strconv.ErrSyntax
	}
	m.writable, m.executable = perms[1] == 'w', perms[2] == 'x'
	return m, nil
}
