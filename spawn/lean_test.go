package spawn

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestKeepMemory: what Go manages is not in a child that waits (but where a C library is), and os/exec works as before.
// It has a process of its own, for what is marked stays so.
func TestKeepMemory(t *testing.T) {
	const inside = "GANTRY_TEST_KEEP_MEMORY"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKeepMemory$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestKeepMemory")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	heap := make([]byte, 1<<20)
	if !waitingChildHas(t, uintptr(unsafe.Pointer(&heap[0]))) {
		t.Error("nobody has asked, and the child has no copy")
	}
	KeepMemory()
	if has := waitingChildHas(t, uintptr(unsafe.Pointer(&heap[0]))); has != iscgo {
		t.Errorf("the child has a copy: %v; a C library is there: %v", has, iscgo)
	}
	if out, err := exec.Command("/bin/echo", "hello").Output(); err != nil || string(out) != "hello\n" {
		t.Errorf("os/exec: %q, %v", out, err)
	}
}

// waitingChildHas tells whether an address of this process's anonymous memory is in a child's.
func waitingChildHas(t *testing.T, address uintptr) bool {
	t.Helper()
	p := &Plan{Steps: []Step{{Name: "ready", Ready: true}}}
	p.Add("wait", unix.SYS_PPOLL, Nil(), Int(0), Nil(), Nil(), Int(0))
	child, err := Start(p)
	if err != nil {
		t.Fatal(err)
	}
	defer child.end()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", child.Pid))
	if err != nil || len(maps) == 0 {
		t.Fatalf("%v, %d bytes", err, len(maps))
	}
	for line := range bytes.Lines(maps) {
		if start, end, ok := anonymous(line); ok && start <= address && address < end {
			return true
		}
	}
	return false
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
