package spawn

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestChildForgets: a child that has not executed its program has nothing of this process's memory but the code: no heap,
// no variables, no environment, no arguments.
func TestChildForgets(t *testing.T) {
	if !canForget() {
		t.Skip("a C library is there")
	}
	p := &Plan{Steps: []Step{{Name: "ready", Ready: true}}}
	p.Add("wait", unix.SYS_PPOLL, Nil(), Int(0), Nil(), Nil(), Int(0))
	child, err := Start(p)
	if err != nil {
		t.Fatal(err)
	}
	defer child.end()
	proc := fmt.Sprintf("/proc/%d/", child.Pid)
	for _, file := range []string{"environ", "cmdline"} {
		if own, err := os.ReadFile("/proc/self/" + file); err != nil || len(own) == 0 {
			t.Fatalf("our %s: %q (%v)", file, own, err)
		}
		if text, err := os.ReadFile(proc + file); err != nil || len(text) != 0 {
			t.Errorf("%s: %q (%v)", file, text, err)
		}
	}
	maps, err := os.ReadFile(proc + "maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(proc + "mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	own, err := ownLayout()
	if err != nil {
		t.Fatal(err)
	}
	program, total := 0, uint64(0)
	for line := range strings.Lines(string(maps)) {
		m, err := parseMapping(strings.TrimSuffix(line, "\n"))
		switch {
		case err != nil:
			t.Fatal(err)
		case m.name == "[vsyscall]":
		case m.name != "":
			program++
			if m.writable || !strings.HasPrefix(m.name, "/") {
				t.Errorf("there is %s", line)
			}
		default:
			if m.start != uint64(own.variables.start) {
				total += m.end - m.start
			}
			if total > 1<<20 {
				t.Fatalf("too much is there:\n%s", maps)
			}
			content := make([]byte, m.end-m.start)
			if _, err := mem.ReadAt(content, int64(m.start)); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("a variable's value is in %s", line)
			}
		}
	}
	if program == 0 || total == 0 {
		t.Errorf("the maps are\n%s", maps)
	}
}

// secret is in this process's heap and in its variables.
var secret = strings.Join([]string{"a word that", "no child is", "to know"}, " ")

// TestReadLayout: what of an address space is the program's.
func TestReadLayout(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"static": {
			"00400000-00500000 r-xp 00000000 fe:00 12      /bin/a b\n00500000-00600000 r--p 00100000 fe:00 12      /bin/a b\n" +
				"00600000-00610000 rw-p 00200000 fe:00 12      /bin/a b\n00610000-00630000 rw-p 00000000 00:00 0 \nc000000000-c000400000 rw-p 00000000 00:00 0 \n" +
				"7ff000000000-7ff000001000 rw-p 00000000 00:00 0                          [stack]\nffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n",
			"{program:3 code:[{4194304 5242880} {5242880 6291456}] variables:{6291456 6488064} top:140668768882688}",
		},
		"deleted, without variables": {
			"00400000-00500000 r-xp 00000000 fe:00 12      /bin/a (deleted)\n00500000-00600000 rw-p 00000000 00:00 0 \n",
			"{program:1 code:[{4194304 5242880}] variables:{0 0} top:6291456}",
		},
		"elsewhere": {"00600000-00700000 r-xp 00000000 fe:00 12      /bin/b\n", "/proc/self/maps: no mapping of a file has this program's code"},
		"nameless":  {"00400000-00500000 r-xp 00000000 00:00 0 \n", "/proc/self/maps: no mapping of a file has this program's code"},
		"empty":     {"", "/proc/self/maps: no mapping of a file has this program's code"},
		"malformed": {"00400000-00500000 r\n", `/proc/self/maps: malformed line "00400000-00500000 r\n"`},
	} {
		l, err := readLayout(c.text, 0x400010)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("{program:%d code:%v variables:%v top:%d}", len(l.program), l.code, l.variables, l.top)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
