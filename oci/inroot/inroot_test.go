package inroot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "a"), 0o755), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
		os.Symlink("../../../file", filepath.Join(dir, "a", "up")), os.Symlink("/file", filepath.Join(dir, "a", "absolute")),
		os.Symlink("/etc/passwd", filepath.Join(dir, "out")),
	); err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	var want unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "file"), &want); err != nil {
		t.Fatal(err)
	}
	for path, err := range map[string]error{
		"file": nil, "/file": nil, "../file": nil, "a/up": nil, "a/absolute": nil, "out": unix.ENOENT, "file/x": unix.ENOTDIR, "none": unix.ENOENT,
	} {
		fd, got := Open(root, path, unix.O_PATH, 0)
		if got != err {
			t.Errorf("%s: %v, want %v", path, got, err)
		}
		if got != nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Ino != want.Ino {
			t.Errorf("%s is inode %d (%v), want %d", path, st.Ino, err, want.Ino)
		}
		_ = unix.Close(fd)
	}
	if _, err := Open(root, "a/up", unix.O_PATH, unix.RESOLVE_NO_SYMLINKS); err != unix.ELOOP {
		t.Errorf("a link, with none allowed: %v", err)
	}
}

// TestOpenAmidRenames: what others rename meanwhile, anywhere, does not keep a path with ".." from being opened.
func TestOpenAmidRenames(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"root/a/b", "other/x"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	stop, ended := make(chan struct{}), make(chan error)
	go func() {
		x, y := filepath.Join(dir, "other/x"), filepath.Join(dir, "other/y")
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
				if err := errors.Join(os.Rename(x, y), os.Rename(y, x)); err != nil {
					ended <- err
					return
				}
			}
		}
	}()
	for range 20000 {
		fd, err := Open(root, "a/b/../../a/b/..", unix.O_PATH, 0)
		if err != nil {
			t.Error(err)
			break
		}
		_ = unix.Close(fd)
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
