package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// smallDisk starts an engine whose state is on a file system of its own, of some MiB.
func smallDisk(t *testing.T, part string, mebibytes int) *daemon {
	t.Helper()
	dir := t.TempDir()
	mounted := filepath.Join(dir, part)
	if err := os.Mkdir(mounted, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", mounted, "tmpfs", 0, "size="+strconv.Itoa(mebibytes)+"m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, "the supervisor is gone", func() bool { return syscall.Unmount(mounted, 0) == nil })
	})
	d, err := startDaemon(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill takes every block of the file system that holds a part of the engine's directory, and returns what gives them back.
func (d *daemon) fill(t *testing.T, part string) (free func()) {
	t.Helper()
	path := filepath.Join(d.dir, part, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 1; size /= 16 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// noise is a layer of a file that does not compress.
func noise(t *testing.T, bytesOf int) []byte {
	t.Helper()
	content := make([]byte, bytesOf)
	_, _ = rand.Read(content)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "noise", Typeflag: tar.TypeReg, Size: int64(bytesOf), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// refused runs a command that a full disk must stop, with a message that says so.
func refused(t *testing.T, d *daemon, code int, about string, args ...string) {
	t.Helper()
	for _, name := range []string{"gantry", "docker"} {
		r := command(name, d, args...)
		if r.code != code || !strings.Contains(r.err, "no space left on device") || !strings.Contains(r.err, about) {
			t.Errorf("%s %q: exit %d, want %d and a word about %s and the disk: %s%s", name, args, r.code, code, about, r.out, r.err)
		}
	}
}

// TestBadDisk lets the disk of an engine run full in front of everything that it does.
func TestBadDisk(t *testing.T) {
	d := smallDisk(t, "root", 64)
	alive(t, d)
	unchanged(t, d)
	image := imageOf(t, noise(t, 4<<20)).start(t)
	must(t, command("gantry", d, "create", "--name", "waits", "-v", "kept:/data", "toolbox", "echo", "started"))
	must(t, command("gantry", d, "create", "--name", "goes", "toolbox", "true"))
	must(t, command("gantry", d, "volume", "create", "idle"))
	runs := must(t, command("gantry", d, "run", "-d", "--name", "runs", "toolbox", "sh", "-c",
		`i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo "$i: a line that is long enough to need a new block of the disk before long"; sleep 0.001; done; echo last`))

	free := d.fill(t, "root")
	before := must(t, command("gantry", d, "ps", "-aq", "--no-trunc"))
	refused(t, d, 1, strings.TrimSuffix(image, ":1"), "pull", image)
	refused(t, d, 125, strings.TrimSuffix(image, ":1"), "run", "--rm", image)
	refused(t, d, 125, "create", "run", "--rm", "toolbox", "true")
	refused(t, d, 1, "container", "create", "toolbox", "true")
	refused(t, d, 1, "waits", "start", "waits")
	if got := must(t, command("gantry", d, "exec", "runs", "echo", "in")); got != "in" {
		t.Errorf("exec: %q", got)
	}
	if got := must(t, command("gantry", d, "ps", "-q", "--no-trunc")); got != runs {
		t.Errorf("%q runs, and %q should", got, runs)
	}
	if got := must(t, command("gantry", d, "ps", "-aq", "--no-trunc")); got != before {
		t.Errorf("there are the containers %q, and were %q", got, before)
	}
	lines := strings.Count(command("gantry", d, "logs", "runs").out, "\n")
	if err := d.kill(); err != nil { // an engine must start on a full disk, or nobody can clean it
		t.Fatal(err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	must(t, command("gantry", d, "rm", "goes"))
	must(t, command("gantry", d, "volume", "rm", "idle"))
	free()

	eventually(t, "lines are logged again", func() bool { return strings.Count(command("gantry", d, "logs", "runs").out, "\n") > lines })
	must(t, command("gantry", d, "exec", "runs", "touch", "/tmp/stop"))
	if got := must(t, command("gantry", d, "wait", "runs")); got != "0" {
		t.Errorf("the container that wrote while the disk was full ended with %s", got)
	}
	if got := must(t, command("gantry", d, "logs", "--tail", "1", "runs")); got != "last" {
		t.Errorf("its last line is %q", got)
	}
	if got := must(t, command("gantry", d, "start", "-a", "waits")); got != "started" {
		t.Errorf("the container that could not start says %q", got)
	}
	must(t, command("gantry", d, "pull", image))
	alive(t, d)
	must(t, command("gantry", d, "rm", "-f", "waits", "runs"))
	must(t, command("gantry", d, "rmi", image))
	must(t, command("gantry", d, "volume", "rm", "kept"))
	must(t, command("gantry", d, "run", "--plan", "toolbox", "true")) // see unchanged
}

// TestBadRunDisk does the same to the directory of what runs.
func TestBadRunDisk(t *testing.T) {
	d := smallDisk(t, "run", 2)
	alive(t, d)
	unchanged(t, d)
	runs := must(t, command("gantry", d, "run", "-d", "toolbox", "sh", "-c", "while [ ! -e /tmp/stop ]; do echo line; sleep 0.01; done; echo last"))
	must(t, command("gantry", d, "create", "--name", "waits", "toolbox", "echo", "started"))
	free := d.fill(t, "run")
	refused(t, d, 125, "container", "run", "--rm", "toolbox", "true")
	refused(t, d, 1, "waits", "start", "waits")
	if got := must(t, command("gantry", d, "ps", "-q", "--no-trunc")); got != runs {
		t.Errorf("%q runs, and %q should", got, runs)
	}
	if r := command("gantry", d, "exec", runs, "true"); r.code != 0 && !strings.Contains(r.err, "no space left on device") {
		t.Errorf("exec: exit %d: %s", r.code, r.err)
	}
	free()
	must(t, command("gantry", d, "exec", runs, "touch", "/tmp/stop"))
	if got := must(t, command("gantry", d, "wait", runs)); got != "0" {
		t.Errorf("the container that ran while the disk was full ended with %s", got)
	}
	if got := must(t, command("gantry", d, "logs", "--tail", "1", runs)); got != "last" {
		t.Errorf("its last line is %q", got)
	}
	if got := must(t, command("gantry", d, "start", "-a", "waits")); got != "started" {
		t.Errorf("the container that could not start says %q", got)
	}
	must(t, command("gantry", d, "rm", "-f", "waits", runs))
	alive(t, d)
}
