package spawn

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestChildHasNoneOfTheHeap: what Go manages is not in a child that waits (but where a C library is).
func TestChildHasNoneOfTheHeap(t *testing.T) {
	mine := make([]byte, 1<<20)
	if !iscgo { // the heap may have grown since some earlier start
		lean.mark()
	}
	p := &Plan{Steps: []Step{{Name: "ready", Ready: true}}}
	p.Add("wait", unix.SYS_PPOLL, Nil(), Int(0), Nil(), Nil(), Int(0))
	child, err := Start(p)
	if err != nil {
		t.Fatal(err)
	}
	defer child.end()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", child.Pid))
	if err != nil {
		t.Fatal(err)
	}
	address, found := uintptr(unsafe.Pointer(&mine[0])), false
	for line := range bytes.Lines(maps) {
		if start, end, ok := anonymous(line); ok && start <= address && address < end {
			found = true
		}
	}
	if len(maps) == 0 || found != iscgo {
		t.Errorf("found is %v (with a C library: %v):\n%s", found, iscgo, maps)
	}
}

func TestAnonymous(t *testing.T) {
	for line, want := range map[string][2]uintptr{
		"c000000000-c000400000 rw-p 00000000 00:00 0 \n":                                  {0xc000000000, 0xc000400000},
		"c000000000-c000400000 ---p 00000000 00:00 0                  [anon: Go: heap]\n": {0xc000000000, 0xc000400000},
		"7ffc0000-7ffd0000 rw-p 00000000 00:00 0                      [stack]\n":          {},
		"7ffc0000-7ffd0000 r-xp 00000000 00:00 0                      [vdso]\n":           {},
		"00400000-00500000 r-xp 00000000 fe:00 1234                   /bin/x\n":           {},
		"00400000-00500000 rw-s 00000000 00:00 0 \n":                                      {},
		"\n":                           {},
		"x-y rw-p 00000000 00:00 0 \n": {},
	} {
		if start, end, ok := anonymous([]byte(line)); ok != (want[1] != 0) || ok && (start != want[0] || end != want[1]) {
			t.Errorf("%q: %x-%x, %v", line, start, end, ok)
		}
	}
}
