package spool

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/logs"
)

// bench is a FIFO, its spool, and its log.
type bench struct {
	t       *testing.T
	fifo    [2]int
	path    string
	options logs.Options
	spool   *Spool
	log     *logs.Writer
}

func newBench(t *testing.T) *bench {
	dir := t.TempDir()
	b := &bench{t: t, path: filepath.Join(dir, "spool"), options: logs.Options{Path: filepath.Join(dir, "log"), MaxFiles: 1}}
	b.check(unix.Pipe2(b.fifo[:], unix.O_NONBLOCK|unix.O_CLOEXEC))
	t.Cleanup(func() { _, _ = unix.Close(b.fifo[0]), unix.Close(b.fifo[1]) })
	b.spool = New(b.path, b.warn)
	b.open()
	return b
}

func (b *bench) warn(what string, err error) { b.t.Errorf("%s: %v", what, err) }

func (b *bench) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// open opens the log as a new supervisor does.
func (b *bench) open() {
	var err error
	b.log, err = logs.OpenWriter(b.options)
	b.check(err)
	b.t.Cleanup(func() { _ = b.log.Close() })
}

// take takes text through the FIFO.
func (b *bench) take(text string) []byte {
	b.t.Helper()
	n, err := unix.Write(b.fifo[1], []byte(text))
	b.check(err)
	got := make([]byte, n)
	n, err = b.spool.Fill(b.fifo[0], got)
	b.check(err)
	if string(got[:n]) != text {
		b.t.Fatalf("%d bytes came out of the FIFO, want %d", n, len(text))
	}
	return got
}

// succeed does what the next supervisor does.
func (b *bench) succeed() {
	b.t.Helper()
	b.open()
	var err error
	b.spool, err = Recover(b.path, b.options.Path, b.warn)
	b.check(err)
	b.log.SetJournal(logs.Stdout, b.spool)
	b.check(b.spool.Replay(func(text []byte) error { return b.log.Write(logs.Stdout, text, time.Now()) }))
}

// logged is what the log has, entry by entry.
func (b *bench) logged() (lines []string) {
	b.check(logs.Read(context.Background(), b.options.Path, logs.Query{Tail: -1}, func(e logs.Entry) error {
		lines = append(lines, string(e.Line))
		return nil
	}))
	return lines
}

// dying is a journal whose supervisor is killed in a moment of the append: the spool hears nothing any more.
type dying struct {
	*Spool
	before bool // in Begin, before the header is written
}

func (d dying) Begin(n int64, file fs.FileInfo, at, length int64) {
	if !d.before {
		d.Spool.Begin(n, file, at, length)
	}
}
func (d dying) Done(int64) {}

// Whatever of an append was done when the supervisor was killed, its successor logs each line once.
func TestKilledInAnAppend(t *testing.T) {
	long := strings.Repeat("x", logs.MaxLine+5)
	chunk := "two\n\n" + long + "\nbroken \xff\nfour\nthe beginning of"
	entries := []string{"one\n", "two\n", "\n", long[:logs.MaxLine], "xxxxx\n", "broken \ufffd\n", "four\n", "the beginning of a line\n", "last\n"}
	for _, c := range []struct {
		name   string
		before bool
		change func(b *bench, whole int64) // whole is the size of the log before the append
	}{
		{"before the intent", true, func(b *bench, whole int64) { b.check(os.Truncate(b.options.Path, whole)) }},
		{"before the append", false, func(b *bench, whole int64) { b.check(os.Truncate(b.options.Path, whole)) }},
		{"within its first entry", false, func(b *bench, whole int64) { b.check(os.Truncate(b.options.Path, whole+5)) }},
		{"within its third entry", false, func(b *bench, whole int64) { b.check(os.Truncate(b.options.Path, whole+1000)) }},
		{"before its last byte", false, func(b *bench, _ int64) {
			info, err := os.Stat(b.options.Path)
			b.check(err)
			b.check(os.Truncate(b.options.Path, info.Size()-1))
		}},
		{"after the append", false, func(*bench, int64) {}},
		{"after the append, and the log is longer now", false, func(b *bench, _ int64) {
			w, err := logs.OpenWriter(b.options)
			b.check(err)
			b.check(w.Write(logs.Stderr, []byte("of another output\n"), time.Now()))
			b.check(w.Close())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.log.SetJournal(logs.Stdout, b.spool)
			b.check(b.log.Write(logs.Stdout, b.take("one\n"), time.Now()))
			info, err := os.Stat(b.options.Path)
			b.check(err)
			b.log.SetJournal(logs.Stdout, dying{b.spool, c.before})
			b.check(b.log.Write(logs.Stdout, b.take(chunk), time.Now()))
			c.change(b, info.Size())
			b.succeed()
			b.check(b.log.Write(logs.Stdout, b.take(" a line\nlast\n"), time.Now()))
			var got []string
			for _, line := range b.logged() {
				if line != "of another output\n" {
					got = append(got, line)
				}
			}
			if fmt.Sprintf("%.20q", got) != fmt.Sprintf("%.20q", entries) {
				t.Errorf("logged: %.20q, want %.20q", got, entries)
			}
			b.spool.Idle()
			b.succeed() // nothing is left to log
			if again := b.logged(); len(again) < len(got) || len(again) > len(got)+1 {
				t.Errorf("logged then: %.20q", again)
			}
		})
	}
}

// Others rename the log while there is no supervisor: the append stands in the renamed file.
func TestRenamedAfterAnAppend(t *testing.T) {
	b := newBench(t)
	b.log.SetJournal(logs.Stdout, dying{b.spool, false})
	b.check(b.log.Write(logs.Stdout, b.take("one\n"), time.Now()))
	b.check(os.Rename(b.options.Path, b.options.Path+".1"))
	b.succeed()
	b.check(b.log.Write(logs.Stdout, b.take("two\n"), time.Now()))
	text, err := os.ReadFile(b.options.Path)
	b.check(err)
	if !bytes.Contains(text, []byte("two")) || bytes.Contains(text, []byte("one")) {
		t.Errorf("the new log: %s", text)
	}
}

// A spool that is of no use costs what it held, and no more.
func TestDamaged(t *testing.T) {
	for name, text := range map[string]string{
		"no spool": strings.Repeat("x", 100), "beyond its end": magic + strings.Repeat("\x07", 56), "negative": magic + strings.Repeat("\xff", 56),
	} {
		path := filepath.Join(t.TempDir(), "spool")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Recover(path, path+".log", func(string, error) {}); err == nil {
			t.Errorf("%s: it was taken for a spool", name)
		}
	}
	// Killed before the header was written.
	path := filepath.Join(t.TempDir(), "spool")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Recover(path, path+".log", func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("it was not removed: %v", err)
	}
}

// What is logged takes no room, and an idle spool has no descriptor.
func TestFreed(t *testing.T) {
	b := newBench(t)
	b.log.SetJournal(logs.Stdout, b.spool)
	line := strings.Repeat("x", 99) + "\n"
	for range 1000 {
		b.check(b.log.Write(logs.Stdout, b.take(strings.Repeat(line, 100)), time.Now()))
		var st syscall.Stat_t
		b.check(syscall.Stat(b.path, &st))
		if st.Blocks*512 > freeAt+(128<<10) {
			t.Fatalf("%d bytes are in use, of %d", st.Blocks*512, st.Size)
		}
	}
	if _, err := b.spool.Fill(b.fifo[0], make([]byte, 10)); err != unix.EAGAIN {
		t.Errorf("read an empty FIFO: %v", err)
	}
	b.spool.Idle()
	var st syscall.Stat_t
	b.check(syscall.Stat(b.path, &st))
	if st.Blocks*512 > 8<<10 || b.spool.fd != -1 {
		t.Errorf("idle: %d bytes, descriptor %d", st.Blocks*512, b.spool.fd)
	}
	b.succeed()
	if n := len(b.logged()); n != 100_000 {
		t.Errorf("%d lines are logged", n)
	}
}

// A spool that cannot be made, or grow, does not stop the output.
func TestCannotBeKept(t *testing.T) {
	b := newBench(t)
	warned := 0
	b.spool = New(filepath.Join(b.path, "missing"), func(string, error) { warned++ })
	b.log.SetJournal(logs.Stdout, b.spool)
	for i := range 3 {
		b.check(b.log.Write(logs.Stdout, b.take(fmt.Sprintf("line %d\n", i)), time.Now()))
	}
	if got := b.logged(); len(got) != 3 || warned != 1 {
		t.Errorf("logged: %q, with %d warnings", got, warned)
	}
	if err := b.spool.Remove(); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

// Someone removes the file: the output goes on without it, with one complaint.
func TestRemovedByOthers(t *testing.T) {
	b := newBench(t)
	warned := 0
	b.spool = New(b.path, func(string, error) { warned++ })
	b.log.SetJournal(logs.Stdout, b.spool)
	for i := range 4 {
		b.check(b.log.Write(logs.Stdout, b.take(fmt.Sprintf("line %d\nbegin ", i)), time.Now()))
		if i == 1 {
			b.spool.Idle()
			b.check(os.Remove(b.path))
		}
	}
	if got := b.logged(); len(got) != 4 || got[3] != "begin line 3\n" || warned != 1 {
		t.Errorf("logged: %q, with %d warnings", got, warned)
	}
}

// A full filesystem takes a part of the output; the rest is read without the spool.
func TestFull(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("mount a tmpfs: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	warned := 0
	b.path = filepath.Join(dir, "spool")
	b.spool = New(b.path, func(string, error) { warned++ })
	b.log.SetJournal(logs.Stdout, b.spool)
	var want strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	n, err := unix.Write(b.fifo[1], []byte(want.String()))
	b.check(err)
	buf := make([]byte, 32<<10)
	for left := n; left > 0; {
		n, err := b.spool.Fill(b.fifo[0], buf)
		b.check(err)
		b.check(b.log.Write(logs.Stdout, buf[:n], time.Now()))
		left -= n
	}
	b.check(b.log.Flush(logs.Stdout))
	if got := strings.Join(b.logged(), ""); got != want.String()[:n] || warned != 1 {
		t.Errorf("%d of %d bytes are logged, with %d warnings", len(got), n, warned)
	}
	b.spool.Idle()
	b.succeed()
	if got := strings.Join(b.logged(), ""); got != want.String()[:n] {
		t.Errorf("then %d of %d bytes are logged", len(got), n)
	}
}
