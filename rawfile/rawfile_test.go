package rawfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int{0, 1, 1023, 1024, 1025, 4096, 4097, 1 << 20} {
		path := filepath.Join(dir, "file")
		want := bytes.Repeat([]byte("0123456789abcdef\n"), size/17+1)[:size]
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d, %v", size, len(got), err)
		}
	}
	if text, err := Read("/proc/self/maps"); err != nil || !strings.HasSuffix(string(text), "\n") {
		t.Errorf("/proc/self/maps: %q, %v", text, err)
	}
}

func TestReadFails(t *testing.T) {
	for path, want := range map[string]error{
		"/nonexistent": os.ErrNotExist, t.TempDir(): unix.EISDIR, "/proc/self/mem": unix.EIO, "/etc/passwd/x": unix.ENOTDIR, "a\x00b": unix.EINVAL,
	} {
		text, err := Read(path)
		var failed *os.PathError
		if !errors.Is(err, want) || !errors.As(err, &failed) || failed.Path != path || text != nil {
			t.Errorf("%q: %q, %v, want %v", path, text, err, want)
		}
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, want := range []string{"a longer text", "short", ""} {
		if err := Write(path, []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var failed *os.PathError
	if err := Write("/dev/full", []byte("x"), 0); !errors.Is(err, unix.ENOSPC) || !errors.As(err, &failed) || failed.Path != "/dev/full" {
		t.Errorf("/dev/full: %v", err)
	}
	if err := Write("/nonexistent/x", nil, 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("/nonexistent/x: %v", err)
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := Open(path, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Name() != path {
		t.Errorf("it is called %s", f.Name())
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v", flags, err)
	}
	if _, err := Open(path, os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, os.ErrExist) {
		t.Errorf("again: %v", err)
	}
}
