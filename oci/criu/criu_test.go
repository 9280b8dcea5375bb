package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is also criu: called as "swrk 3" it serves one request, as the script in its environment says.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "swrk" {
		serve(os.NewFile(3, "socket"))
		return
	}
	os.Exit(m.Run())
}

func serve(conn *os.File) {
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	if err != nil {
		os.Exit(3)
	}
	if file := os.Getenv("CRIU_TEST_REQUEST"); file != "" {
		if err := os.WriteFile(file, buf[:n], 0o600); err != nil {
			os.Exit(4)
		}
	}
	reply := func(m *message) { _, _ = conn.Write(*m) }
	answer := func(kind Kind, success bool) *message {
		m := &message{}
		m.number(1, int64(kind))
		m.number(2, map[bool]int64{true: 1}[success])
		return m
	}
	switch os.Getenv("CRIU_TEST_PLAY") {
	case "mute":
		fmt.Fprintln(os.Stderr, "Error (criu/kerndat.c:1): no such kernel")
		os.Exit(1)
	case "garbage":
		_, _ = conn.Write([]byte{0xff, 0xff})
	case "refuse":
		m := answer(Dump, false)
		m.number(7, int64(unix.EBUSY))
		m.text(9, "not today")
		reply(m)
	case "version":
		v := &message{}
		v.number(1, 3)
		v.number(2, 17)
		v.number(4, 1)
		m := answer(Version, true)
		m.bytes(10, *v)
		reply(m)
	case "restore":
		told := &message{}
		told.text(1, "orphan-pts-master")
		told.number(2, 77)
		m := answer(notify, true)
		m.bytes(5, *told)
		null, _ := os.Open("/dev/null")
		_ = unix.Sendmsg(3, *m, unix.UnixRights(int(null.Fd())), nil, 0)
		if n, err := conn.Read(buf); err != nil || n == 0 {
			os.Exit(5)
		}
		restored := &message{}
		restored.number(1, 77)
		m = answer(Restore, true)
		m.bytes(4, *restored)
		reply(m)
	}
}

func play(t *testing.T, name string, r *Request) (*Answer, error) {
	t.Helper()
	t.Setenv("CRIU_TEST_PLAY", name)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r.Program = self
	return r.Do(t.Context())
}

func TestAnswers(t *testing.T) {
	a, err := play(t, "version", &Request{Kind: Version})
	if err != nil || a.Major != 3 || a.Minor != 17 || a.Patch != 1 || !a.AtLeast(3, 16) || a.AtLeast(4, 0) {
		t.Errorf("version: %+v, %v", a, err)
	}
	var script, link string
	var pid int
	a, err = play(t, "restore", &Request{Kind: Restore, Options: &Options{}, Notify: func(s string, p int, f *os.File) error {
		script, pid = s, p
		link, _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		return f.Close()
	}})
	if err != nil || a.Pid != 77 || script != "orphan-pts-master" || pid != 77 || link != "/dev/null" {
		t.Errorf("restore: %+v, %v; told %q %d %q", a, err, script, pid, link)
	}
}

func TestFailures(t *testing.T) {
	for name, want := range map[string]string{
		"mute":    "no such kernel",
		"garbage": "malformed",
		"refuse":  "not today: device or resource busy",
		"version": "unexpected answer",
	} {
		if _, err := play(t, name, &Request{Kind: Dump, Options: &Options{}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := (&Request{Program: "/nonexistent/criu", Kind: Version}).Do(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without criu: %v", err)
	}
	stop := errors.New("stop")
	if _, err := play(t, "restore", &Request{Kind: Restore, Notify: func(string, int, *os.File) error { return stop }}); !errors.Is(err, stop) {
		t.Errorf("a notification that fails: %v", err)
	}
}

// TestRequest reads back what criu would read.
func TestRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "request")
	t.Setenv("CRIU_TEST_REQUEST", file)
	o := &Options{
		ImagesDir: 9, Pid: 42, Root: "/r", LeaveRunning: true, TCPEstablished: true, CgroupMode: modes["soft"], EmptyNS: unix.CLONE_NEWNET,
		ExtMounts: []Pair{{"/a", "/a"}}, External: []string{"net[5]:extRootNetNS"}, InheritFDs: []InheritFD{{"k", 4}}, PageServer: PageServer{"h", 27},
		LSMProfile: "apparmor:p", LSMMountContext: "c",
	}
	if _, err := play(t, "refuse", &Request{Kind: Dump, Options: o}); err == nil {
		t.Fatal("no error")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	request, err := fields(text)
	if err != nil || Kind(request[1].number) != Dump {
		t.Fatalf("%v: %v", request, err)
	}
	opts, err := fields(request[2].bytes)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int]uint64{1: 9, 2: 42, 3: 1, 4: 0, 5: 1, 12: 1, 24: 1, 34: 3, 38: unix.CLONE_NEWNET} {
		if opts[id].number != want {
			t.Errorf("option %d: %d, want %d", id, opts[id].number, want)
		}
	}
	for id, want := range map[int]string{13: "/r", 23: "\n\x02/a\x12\x02/a", 27: "\n\x01k\x10\x04", 37: "net[5]:extRootNetNS", 11: "\n\x01h\x10\x1b", 53: "apparmor:p", 63: "c"} {
		if string(opts[id].bytes) != want {
			t.Errorf("option %d: %q, want %q", id, opts[id].bytes, want)
		}
	}
}

func FuzzFields(f *testing.F) {
	f.Add([]byte("\x08\x01\x10\x01"))
	f.Add((&Options{Root: "/r"}).encode())
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = fields(text) })
}
