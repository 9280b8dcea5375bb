package spawn

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestKeepMemory: children get no copy of what Go manages (but where a C library is), and os/exec works as before. It has
// a process of its own, for what is marked stays so.
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
	if !isCopied(t, uintptr(unsafe.Pointer(&heap[0]))) {
		t.Error("nobody has asked, and memory is marked")
	}
	KeepMemory()
	if err := runTrue(); err != nil {
		t.Fatal(err)
	}
	if copied := isCopied(t, uintptr(unsafe.Pointer(&heap[0]))); copied != iscgo {
		t.Errorf("a child gets a copy: %v; a C library is there: %v", copied, iscgo)
	}
	if out, err := exec.Command("/bin/echo", "hello").Output(); err != nil || string(out) != "hello\n" {
		t.Errorf("os/exec: %q, %v", out, err)
	}
}

func runTrue() error {
	p := &Plan{}
	p.Add("execute", unix.SYS_EXECVE, Str("/bin/true"), Strs([]string{"true"}), Strs(nil))
	child, err := Start(p)
	if err != nil {
		return err
	}
	_, err = child.Wait()
	return errors.Join(err, child.Close())
}

// isCopied reports whether children get a copy of what is at an address; see VmFlags in proc_pid_smaps(5).
func isCopied(t *testing.T, address uintptr) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	here := false
	for line := range strings.Lines(string(text)) {
		if m, err := parseMapping(line); err == nil {
			here = m.start <= uint64(address) && uint64(address) < m.end
		}
		if flags, found := strings.CutPrefix(line, "VmFlags:"); found && here {
			return !slices.Contains(strings.Fields(flags), "dc")
		}
	}
	t.Fatalf("%#x is not mapped", address)
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
