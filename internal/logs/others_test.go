package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// following is a reader that follows a log; next returns what it read, line by line.
type following struct {
	t     *testing.T
	lines chan string
}

func follow(t *testing.T, path string) *following {
	f := &following{t, make(chan string, 100)}
	go func() {
		_ = Read(t.Context(), path, Query{Tail: -1, Follow: true}, func(e Entry) error { f.lines <- string(e.Line); return nil })
	}()
	return f
}

func (f *following) expect(want string) {
	f.t.Helper()
	select {
	case got := <-f.lines:
		if got != want {
			f.t.Fatalf("the follower read %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		f.t.Fatalf("the follower never reads %q", want)
	}
}

// TestOthersChangeTheLog: what logrotate and people do to the file while it is written and followed.
func TestOthersChangeTheLog(t *testing.T) {
	check := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("long", 30) + "\n"
	for _, c := range []struct {
		name    string
		change  func(t *testing.T, path string)
		second  string
		current string // all that the current file holds then
	}{
		{"truncate", func(t *testing.T, path string) { check(t, os.Truncate(path, 0)) }, "2\n", "2\n"},
		{"truncate, then more than before", func(t *testing.T, path string) { check(t, os.Truncate(path, 0)) }, long, long},
		{"copy and truncate", func(t *testing.T, path string) {
			check(t, os.WriteFile(path+".1", []byte(content(t, path)), 0o600))
			check(t, os.Truncate(path, 0))
		}, "2\n", "2\n"},
		{"truncate and append at once", func(t *testing.T, path string) { // the follower sees only the result
			check(t, os.WriteFile(path, appendEntry(nil, []byte(long), Stdout, nil, []byte("2026-03-01T12:00:00Z")), 0o600))
		}, "2\n", long + "2\n"},
		{"rename", func(t *testing.T, path string) { check(t, os.Rename(path, path+"-20261130")) }, "2\n", "2\n"},
		{"rename as rotation does", func(t *testing.T, path string) {
			check(t, os.Rename(path+".1", path+".2"))
			check(t, os.Rename(path, path+".1"))
		}, "2\n", "2\n"},
		{"rename and create", func(t *testing.T, path string) {
			check(t, os.Rename(path, path+"-20261130"))
			check(t, os.WriteFile(path, nil, 0o600))
		}, "2\n", "2\n"},
		{"delete", func(t *testing.T, path string) { check(t, os.Remove(path)) }, "2\n", "2\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			w := open(t, Options{Path: path, MaxSize: 450, MaxFiles: 3})
			for i := range 4 {
				write(t, w, Stdout, fmt.Sprintf("old %d\n", i), noon)
			}
			check(t, w.rotate()) // there is an older file: nobody reads it twice
			write(t, w, Stdout, "1\n", noon)
			f := follow(t, path)
			for i := range 4 {
				f.expect(fmt.Sprintf("old %d\n", i))
			}
			f.expect("1\n")
			c.change(t, path)
			if strings.HasPrefix(c.current, long) && c.current != long {
				f.expect(long)
			}
			write(t, w, Stdout, c.second, noon)
			f.expect(c.second)
			var current []string
			for line := range strings.Lines(content(t, path)) {
				e, err := parse([]byte(strings.TrimSuffix(line, "\n")))
				check(t, err)
				current = append(current, string(e.Line))
			}
			if got := strings.Join(current, ""); got != c.current {
				t.Errorf("the current file holds %q, want %q", got, c.current)
			}
			write(t, w, Stdout, "3\n", noon) // the size counted again, this is no rotation
			f.expect("3\n")
			if _, err := os.Stat(path + ".3"); err == nil {
				t.Error("there are more files than allowed")
			}
		})
	}
}

// TestFullDisk fills the log's disk: there is a mark of the lines that are lost, where they are missing.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		room func(t *testing.T, w *Writer)
	}{
		{"with more output", func(t *testing.T, w *Writer) { write(t, w, Stdout, "after\n", noon) }},
		{"without more output", func(*testing.T, *Writer) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
			path := filepath.Join(dir, "log")
			w := open(t, Options{Path: path})
			line := strings.Repeat("x", 999) + "\n"
			sent, failed, failedBytes := 0, 0, 0
			for _, size := range []int{1000, 1000, 30} { // until not even a mark has room
				for errors := 0; errors < 2; sent++ {
					if err := w.Write(Stdout, []byte(line[1000-size:]), noon); err != nil {
						errors++
						failed, failedBytes = failed+1, failedBytes+size
					}
				}
			}
			if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=1m"); err != nil {
				t.Fatal(err)
			}
			c.room(t, w)
			lost, lostBytes, text := 0, 0, ""
			f := follow(t, path)
			for lost < failed { // a mark may have been written while there was still room for one
				select {
				case text = <-f.lines:
				case <-time.After(10 * time.Second):
					t.Fatalf("there are marks of %d lines; %d were lost", lost, failed)
				}
				var lines, bytes int
				var noun string
				if n, _ := fmt.Sscanf(text, "gantry: %d %s of output (%d bytes) since 2", &lines, &noun, &bytes); n == 3 {
					lost, lostBytes = lost+lines, lostBytes+bytes
				}
			}
			if lost != failed || lostBytes != failedBytes {
				t.Errorf("there are marks of %d lines, %d bytes; %d lines, %d bytes were lost", lost, lostBytes, failed, failedBytes)
			}
			if !strings.HasSuffix(text, " are missing here: the log could not be written: no space left on device\n") {
				t.Errorf("the mark is %q", text)
			}
			write(t, w, Stdout, "end\n", noon)
			if c.name == "with more output" {
				f.expect("after\n")
			}
			f.expect("end\n")
			if got := len(collect(t, path, Query{Tail: -1})) - strings.Count(content(t, path), "missing"); c.name == "without more output" && got != sent-failed+1 {
				t.Errorf("%d lines of %d are in the log, %d were lost", got, sent+1, failed)
			}
		})
	}
}

// TestPartOfAChunkIsWritten: of a chunk that the disk has no room for, the whole lines that fit are kept.
func TestPartOfAChunkIsWritten(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	path := filepath.Join(dir, "log")
	w := open(t, Options{Path: path})
	const lines = 800
	if err := w.Write(Stdout, []byte(strings.Repeat("0123456789012345678901234567890123456789\n", lines)), noon); err == nil {
		t.Fatal("it all fits")
	}
	kept := len(collect(t, path, Query{Tail: -1}))
	if kept < 400 || strings.Count(content(t, path), "\n") != kept {
		t.Errorf("%d whole lines of %d are kept in %d bytes", kept, lines, len(content(t, path)))
	}
	if err := w.Close(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("lacks %d lines (%d bytes)", lines-kept, 41*(lines-kept))) {
		t.Errorf("close: %v", err)
	}
}
