package tarfs

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestContent(t *testing.T) {
	plain, empty := filepath.Join(t.TempDir(), "plain"), filepath.Join(t.TempDir(), "empty")
	for name, text := range map[string]string{plain: "some text\n", empty: ""} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{plain, empty, "/proc/cpuinfo", "/proc/self/mountinfo", "/proc/sys/kernel/ostype", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		r, n, err := Content(file, info.Size())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(r)
		if err != nil || int64(len(got)) != n || !sameKind(string(got), string(want)) {
			t.Errorf("%s: %d of %d bytes, want %d (%v)", name, len(got), n, len(want), err)
		}
		_ = file.Close()
	}
}

// sameKind compares what two readings of one file give: numbers in it may have changed.
func sameKind(a, b string) bool {
	first := func(s string) string { return strings.SplitN(s, "\n", 2)[0] }
	return first(a) == first(b) && strings.Count(a, "\n") == strings.Count(b, "\n")
}

// TestContentOfAFileThatGrows states what there was, and gives no more.
func TestContentOfAFileThatGrows(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("12345"); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	r, n, err := Content(file, 3)
	if err != nil || n != 3 {
		t.Fatal(n, err)
	}
	if got, err := io.ReadAll(r); string(got) != "123" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestEndlessContent: what has no end is an error, not a wait.
func TestEndlessContent(t *testing.T) {
	file, err := os.Open("/proc/kmsg")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, _, err := Content(file, 0); err == nil {
		t.Error("the kernel's log, which goes on, was read to an end")
	}
}
