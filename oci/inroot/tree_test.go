package inroot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func openDir(t *testing.T, name string) int {
	t.Helper()
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// TestTree compares what the tree finds with what a process finds once the mounts are made.
func TestTree(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"root/etc/passwd": "image", "root/etc/group": "image group", "root/usr/lib/x": "x", "etc/passwd": "mounted", "file": "one file", "deep/etc/passwd": "deep",
	} {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"root/link": "etc", "root/absolute": "/etc", "root/out": "../../../etc", "root/loop": "loop", "root/usr/etc": "../etc/", "root/broken": "/none/there", "etc/back": "/etc/passwd",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		mounts [][2]string // destination, source; "": an empty directory
		files  map[string]string
	}{
		{"no mounts", nil, map[string]string{
			"/etc/passwd": "image", "link/passwd": "image", "/absolute/passwd": "image", "/out/passwd": "image", "/usr/etc/passwd": "image",
			"/../../etc/passwd": "image", "/loop": "!too many levels of symbolic links", "/none": "!no such file or directory", "/etc/passwd/x": "!not a directory", "/broken/x": "!no such file or directory",
		}},
		{"a file", [][2]string{{"/etc/passwd", "file"}}, map[string]string{"/etc/passwd": "one file", "/link/passwd": "one file", "/etc/group": "image group"}},
		{"a directory", [][2]string{{"/etc", "etc"}}, map[string]string{"/etc/passwd": "mounted", "/usr/etc/passwd": "mounted", "/etc/group": "!no such file or directory", "/etc/back": "mounted"}},
		{"over a link", [][2]string{{"/absolute", "etc"}}, map[string]string{"/etc/passwd": "mounted"}},
		{"a file in a directory", [][2]string{{"/etc", "etc"}, {"/etc/passwd", "file"}}, map[string]string{"/etc/passwd": "one file"}},
		{"a directory over a file", [][2]string{{"/etc/passwd", "file"}, {"/etc", "etc"}}, map[string]string{"/etc/passwd": "mounted"}},
		{"what is missing is made", [][2]string{{"/new/place", "etc"}}, map[string]string{"/new/place/passwd": "mounted", "/new/place/../place/passwd": "mounted"}},
		{"nothing", [][2]string{{"/etc", ""}}, map[string]string{"/etc/passwd": "!no such file or directory"}},
		{"a link in a mount", [][2]string{{"/etc", "etc"}, {"/etc/back", "file"}}, map[string]string{"/etc/passwd": "one file"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := NewTree(openDir(t, filepath.Join(dir, "root")))
			for _, m := range test.mounts {
				fd := -1
				if m[1] != "" {
					fd = openDir(t, filepath.Join(dir, m[1]))
				}
				if _, err := tree.Mount(m[0], fd); err != nil {
					t.Fatal(err)
				}
			}
			for name, want := range test.files {
				if got := read(tree, name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func read(tree *Tree, name string) string {
	fd, err := tree.Open(name)
	if err != nil {
		return "!" + err.Error()
	}
	defer unix.Close(fd)
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "!" + err.Error()
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		return "!" + err.Error()
	}
	return string(text)
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestTreeClosesAll walks many ways and has no more open descriptors than before.
func TestTreeClosesAll(t *testing.T) {
	tree := NewTree(openDir(t, "/"))
	if _, err := tree.Mount("/etc/hosts", openDir(t, "/proc/version")); err != nil {
		t.Fatal(err)
	}
	walk := func() {
		for _, name := range []string{"/etc/hosts", "/bin/sh", "/none/x", "/etc/passwd/x", "/usr/../bin/../etc"} {
			if fd, err := tree.Open(name); err == nil {
				_ = unix.Close(fd)
			}
			_, _ = tree.Path(name)
		}
	}
	walk()
	before := descriptors(t)
	for range 50 {
		walk()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors were open, and %d are", before, after)
	}
}

// TestTreeTellsCrossings: a path that leads into a mount is noticed, also where only a link leads there.
func TestTreeTellsCrossings(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "etc"), 0o755), os.MkdirAll(filepath.Join(dir, "data"), 0o755), os.Symlink("etc", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for path, crossed := range map[string]bool{"/data": false, "/etc": true, "/etc/passwd": true, "/link": true, "/link/passwd": true, "/none": false, "/": false} {
		tree := NewTree(openDir(t, dir))
		if _, err := tree.Mount("/etc", -1); err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Path(path); err != nil || tree.Crossed() != crossed {
			t.Errorf("%s: crossed %v, want %v (%v)", path, tree.Crossed(), crossed, err)
		}
	}
}
