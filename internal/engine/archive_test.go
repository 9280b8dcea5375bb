package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// outside is a directory with a root in it, and a secret beside the root.
func outside(t *testing.T) (dir string, root *rootView) {
	t.Helper()
	dir = t.TempDir()
	for _, d := range []string{"root/etc", "root/srv", "secret"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"secret/file": "host", "root/etc/file": "inside"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return dir, &rootView{fd: fd}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func archive(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Size, h.Linkname = int64(len(content)), ""
		} else {
			content = ""
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func extractTo(root *rootView, dir string, r io.Reader, o ExtractOptions) error {
	x := &extractor{ctx: context.Background(), root: root.fd, dir: slashed(dir), options: o, uid: -1, gid: -1}
	return x.extract(tar.NewReader(r))
}

func TestStatStaysInside(t *testing.T) {
	dir, root := outside(t)
	symlink(t, dir+"/secret", dir+"/root/absolute")
	symlink(t, "../../../../.."+dir+"/secret/file", dir+"/root/srv/relative")
	symlink(t, "/proc/self/root", dir+"/root/magic")
	symlink(t, "etc", dir+"/root/to-etc")
	symlink(t, "to-etc/file", dir+"/root/chain")
	c := &Container{ID: "c"}
	for name, want := range map[string]string{
		"/etc/file": "file", "etc/../etc/file": "file", "/to-etc/file": "file", "/../../etc": "etc", "/": "/", "/etc/.": ".",
		"/absolute/file": "", "/srv/relative/": "", "/no/such": "", "/etc/file/x": "", "": "", "a\x00b": "",
	} {
		fd, stat, err := root.stat(c, name)
		if want == "" {
			if !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v, %v", name, stat, err)
			}
			continue
		}
		if err != nil || stat.Name != want {
			t.Errorf("%q: %v, %v", name, stat, err)
			continue
		}
		_ = unix.Close(fd)
	}
	for name, want := range map[string]string{"/chain": "/to-etc/file", "/to-etc": "/etc", "/absolute": dir + "/secret"} {
		fd, stat, err := root.stat(c, name)
		if err != nil || stat.LinkTarget != want || stat.Mode&os.ModeSymlink == 0 {
			t.Errorf("link %s: %+v, %v; want %s", name, stat, err, want)
			continue
		}
		_ = unix.Close(fd)
	}
}

// TestArchiveRoundTrip reads a tree, writes it elsewhere, and compares.
func TestArchiveRoundTrip(t *testing.T) {
	dir, root := outside(t)
	src := dir + "/root/srv"
	if err := os.MkdirAll(src+"/deep/er", 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(src+"/deep/file", bytes.Repeat([]byte("x"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(src+"/deep/file", src+"/same"); err != nil {
		t.Fatal(err)
	}
	symlink(t, "/etc/file", src+"/link")
	if err := unix.Mkfifo(src+"/pipe", 0o640); err != nil { // opened for reading, it would hang
		t.Fatal(err)
	}
	if err := unix.Mknod(src+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(src+"/deep/file", 1234, 4321); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(src+"/deep/er", 0o1777); err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1_000_000_000, 5000)
	for _, name := range []string{"/deep/file", "/deep/er", "/deep"} {
		if err := os.Chtimes(src+name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	fd, _, err := root.stat(&Container{}, "/srv")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	a := newArchiver(t.Context(), &b)
	if err := a.tree(fd, "copy"); err != nil {
		t.Fatal(err)
	}
	if err := a.tar.Close(); err != nil {
		t.Fatal(err)
	}
	if err := extractTo(root, "/", &b, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "/deep", "/deep/er", "/deep/file", "/same", "/link", "/pipe", "/null"} {
		var want, got unix.Stat_t
		if err := unix.Lstat(src+name, &want); err != nil {
			t.Fatal(err)
		}
		if err := unix.Lstat(dir+"/root/copy"+name, &got); err != nil {
			t.Error(err)
			continue
		}
		if got.Mode != want.Mode || got.Uid != want.Uid || got.Gid != want.Gid || got.Size != want.Size && want.Mode&unix.S_IFMT == unix.S_IFREG ||
			got.Rdev != want.Rdev || got.Mtim != want.Mtim || got.Nlink != want.Nlink {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestExtractStaysInside(t *testing.T) {
	for name, c := range map[string]struct {
		headers []tar.Header
		refused bool
	}{
		"dots":            {[]tar.Header{{Name: "../../secret/file", Typeflag: tar.TypeReg, Linkname: "x"}}, true},
		"absolute":        {[]tar.Header{{Name: "/secret/file", Typeflag: tar.TypeReg, Linkname: "x"}}, false},
		"through a link":  {[]tar.Header{{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "SECRET"}, {Name: "out/file", Typeflag: tar.TypeReg, Linkname: "x"}}, true},
		"over a link":     {[]tar.Header{{Name: "file", Typeflag: tar.TypeSymlink, Linkname: "SECRET/file"}, {Name: "file", Typeflag: tar.TypeReg, Linkname: "x"}}, false},
		"mode of a link":  {[]tar.Header{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "SECRET"}, {Name: "d", Typeflag: tar.TypeDir, Mode: 0o777}}, false},
		"hard link":       {[]tar.Header{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "SECRET"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "d/file"}, {Name: "h", Typeflag: tar.TypeReg, Linkname: "x"}}, true},
		"hard link, dots": {[]tar.Header{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../secret/file"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, root := outside(t)
			for i := range c.headers {
				c.headers[i].Linkname = strings.ReplaceAll(c.headers[i].Linkname, "SECRET", dir+"/secret")
			}
			err := extractTo(root, "/srv", archive(t, c.headers...), ExtractOptions{})
			if (err != nil) != c.refused {
				t.Errorf("got %v", err)
			}
			text, err := os.ReadFile(dir + "/secret/file")
			if err != nil || string(text) != "host" {
				t.Errorf("the secret is %q, %v", text, err)
			}
			entries, err := os.ReadDir(dir + "/secret")
			if err != nil || len(entries) != 1 {
				t.Errorf("beside it there is %v, %v", entries, err)
			}
			if info, err := os.Stat(dir + "/secret"); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("its directory is %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestExtractReplaces(t *testing.T) {
	dir, root := outside(t)
	file := tar.Header{Name: "etc", Typeflag: tar.TypeReg, Linkname: "now a file", Mode: 0o644}
	if err := extractTo(root, "/", archive(t, file), ExtractOptions{KeepKinds: true}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a directory by a file: %v", err)
	}
	if err := extractTo(root, "/etc", archive(t, tar.Header{Name: "file", Typeflag: tar.TypeDir, Mode: 0o755}), ExtractOptions{KeepKinds: true}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a file by a directory: %v", err)
	}
	if err := extractTo(root, "/", archive(t, file), ExtractOptions{}); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(dir + "/root/etc"); err != nil || string(text) != "now a file" {
		t.Errorf("%q, %v", text, err)
	}
	for name, r := range map[string]io.Reader{"text": strings.NewReader(strings.Repeat("no archive ", 100)), "cut": io.LimitReader(archive(t, file), 515)} {
		if err := extractTo(root, "/srv", r, ExtractOptions{}); err == nil {
			t.Errorf("%s was extracted", name)
		}
	}
}

// TestSwapper copies both ways while directories are swapped for links that lead out.
func TestSwapper(t *testing.T) {
	dir, root := outside(t)
	srv := dir + "/root/srv"
	if err := os.Mkdir(srv+"/a", 0o755); err != nil {
		t.Fatal(err)
	}
	symlink(t, dir+"/secret", srv+"/b")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, srv+"/a", unix.AT_FDCWD, srv+"/b", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 500 {
		_ = extractTo(root, "/srv/a", archive(t, tar.Header{Name: "file", Typeflag: tar.TypeReg, Linkname: "swapped", Mode: 0o777}), ExtractOptions{}) // may meet a link
		var b bytes.Buffer
		if fd, _, err := root.stat(&Container{}, "/srv/a/file"); err == nil {
			a := newArchiver(t.Context(), &b)
			_ = a.tree(fd, "file")
			_ = unix.Close(fd)
		}
		if bytes.Contains(b.Bytes(), []byte("host")) {
			t.Fatal("the secret was read")
		}
	}
	close(stop)
	<-stopped
	if text, err := os.ReadFile(dir + "/secret/file"); err != nil || string(text) != "host" {
		t.Errorf("the secret is %q, %v", text, err)
	}
	if info, err := os.Stat(dir + "/secret/file"); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
}

func TestChanges(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"lower/etc", "lower/gone", "lower/opaque", "lower/keep", "upper/etc", "upper/new/sub", "upper/opaque", "upper/keep", "upper/proc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"lower/etc/changed", "lower/etc/removed", "lower/opaque/hidden", "upper/etc/changed", "upper/etc/added", "upper/keep/place", "upper/opaque/fresh"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"upper/etc/removed", "upper/gone", "upper/never-was"} {
		if err := unix.Mknod(filepath.Join(dir, f), unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Setxattr(dir+"/upper/opaque", "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	lower, err := stack([]string{dir + "/lower"})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lower)
	got, err := changes(t.Context(), dir+"/upper", lower, map[string]bool{"/proc": true, "/keep/place": true})
	if err != nil {
		t.Fatal(err)
	}
	want := []container.FilesystemChange{
		{Path: "/etc", Kind: container.ChangeModify},
		{Path: "/etc/added", Kind: container.ChangeAdd},
		{Path: "/etc/changed", Kind: container.ChangeModify},
		{Path: "/etc/removed", Kind: container.ChangeDelete},
		{Path: "/gone", Kind: container.ChangeDelete},
		{Path: "/new", Kind: container.ChangeAdd},
		{Path: "/new/sub", Kind: container.ChangeAdd},
		{Path: "/opaque", Kind: container.ChangeModify},
		{Path: "/opaque/fresh", Kind: container.ChangeAdd},
		{Path: "/opaque/hidden", Kind: container.ChangeDelete},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
