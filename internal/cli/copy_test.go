package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// archived makes an archive; a regular file's content is its Linkname.
func archived(t testing.TB, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname, h.Size = h.Linkname, "", int64(len(h.Linkname))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func same(name string) string { return name }

// TestExtractStaysInside has archives that try to write, link or change what is outside of the destination.
func TestExtractStaysInside(t *testing.T) {
	reg, dir, symlink, hard := byte(tar.TypeReg), byte(tar.TypeDir), byte(tar.TypeSymlink), byte(tar.TypeLink)
	for name, entries := range map[string][]tar.Header{
		"parent":                {{Typeflag: reg, Name: "../secret", Linkname: "bad"}},
		"parent in the middle":  {{Typeflag: reg, Name: "a/../../secret", Linkname: "bad"}},
		"directory above":       {{Typeflag: dir, Name: "../", Mode: 0o777}},
		"through a link":        {{Typeflag: symlink, Name: "l", Linkname: ".."}, {Typeflag: reg, Name: "l/secret", Linkname: "bad"}},
		"through an absolute":   {{Typeflag: symlink, Name: "l", Linkname: "OUTSIDE"}, {Typeflag: reg, Name: "l/secret", Linkname: "bad"}},
		"through two links":     {{Typeflag: symlink, Name: "a", Linkname: "b"}, {Typeflag: symlink, Name: "b", Linkname: ".."}, {Typeflag: reg, Name: "a/secret", Linkname: "bad"}},
		"through a link inside": {{Typeflag: dir, Name: "d"}, {Typeflag: symlink, Name: "l", Linkname: "d"}, {Typeflag: reg, Name: "l/file", Linkname: "bad"}},
		"directory on a link":   {{Typeflag: symlink, Name: "l", Linkname: ".."}, {Typeflag: dir, Name: "l", Mode: 0o777}},
		"new directory by link": {{Typeflag: symlink, Name: "l", Linkname: ".."}, {Typeflag: dir, Name: "l/new"}},
		"hard link to parent":   {{Typeflag: hard, Name: "h", Linkname: "../secret"}, {Typeflag: reg, Name: "h", Linkname: "bad"}},
		"hard link by a link":   {{Typeflag: symlink, Name: "l", Linkname: ".."}, {Typeflag: hard, Name: "h", Linkname: "l/secret"}},
		"hard link to absolute": {{Typeflag: hard, Name: "h", Linkname: "OUTSIDE/secret"}},
		"hard link to the root": {{Typeflag: hard, Name: "h", Linkname: "/"}},
		"unknown kind":          {{Typeflag: 'Z', Name: "z"}},
		"device out of range":   {{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1 << 40, Format: tar.FormatGNU}},
		"file over directory":   {{Typeflag: dir, Name: "d"}, {Typeflag: reg, Name: "d", Linkname: "x"}},
		"directory over file":   {{Typeflag: reg, Name: "d", Linkname: "x"}, {Typeflag: dir, Name: "d"}},
	} {
		t.Run(name, func(t *testing.T) {
			outside, dst := newOutside(t)
			for i := range entries {
				entries[i].Linkname = strings.Replace(entries[i].Linkname, "OUTSIDE", outside, 1)
			}
			if err := extract(archived(t, entries...), dst, same); err == nil {
				t.Error("it was extracted")
			}
			checkOutside(t, outside)
		})
	}
}

// TestExtractHarmless has archives that look like an escape and are not one.
func TestExtractHarmless(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"absolute":                {{Typeflag: tar.TypeReg, Name: "/etc/x", Linkname: "text"}},
		"replaced link":           {{Typeflag: tar.TypeSymlink, Name: "secret", Linkname: "../secret"}, {Typeflag: tar.TypeReg, Name: "secret", Mode: 0o777, Linkname: "bad"}},
		"hard link to a link":     {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../secret"}, {Typeflag: tar.TypeLink, Name: "h", Mode: 0o777, Linkname: "l"}, {Typeflag: tar.TypeReg, Name: "h", Linkname: "bad"}},
		"times of a link":         {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../secret", ModTime: time.Unix(5, 0)}},
		"the destination itself":  {{Typeflag: tar.TypeDir, Name: "./", Mode: 0o777}},
		"time before the epoch":   {{Typeflag: tar.TypeReg, Name: "x", ModTime: time.Unix(-5, 0), Format: tar.FormatPAX}},
		"closed directory, twice": {{Typeflag: tar.TypeDir, Name: "d", Mode: 0o500}, {Typeflag: tar.TypeReg, Name: "d/x", Linkname: "x"}, {Typeflag: tar.TypeDir, Name: "d", Mode: 0o700}},
	} {
		t.Run(name, func(t *testing.T) {
			outside, dst := newOutside(t)
			if err := extract(archived(t, entries...), dst, same); err != nil {
				t.Error(err)
			}
			checkOutside(t, outside)
		})
	}
}

// newOutside makes a directory with a file that nothing may touch, and the destination in it.
func newOutside(t testing.TB) (outside, dst string) {
	t.Helper()
	outside = t.TempDir()
	dst = filepath.Join(outside, "dst")
	err := errors.Join(os.Mkdir(dst, 0o755), os.WriteFile(outside+"/secret", []byte("secret"), 0o640),
		os.Chtimes(outside+"/secret", time.Unix(1000, 0), time.Unix(1000, 0)), os.Chmod(outside, 0o750))
	if err != nil {
		t.Fatal(err)
	}
	return outside, dst
}

func checkOutside(t testing.TB, outside string) {
	t.Helper()
	text, err := os.ReadFile(outside + "/secret")
	if err != nil || string(text) != "secret" {
		t.Errorf("the file outside: %q, %v", text, err)
	}
	info, err := os.Lstat(outside + "/secret")
	if err != nil {
		t.Fatal(err)
	}
	if links := info.Sys().(*syscall.Stat_t).Nlink; links != 1 || info.Mode() != 0o640 || info.ModTime().Unix() != 1000 {
		t.Errorf("the file outside: %d names, %v, %v", links, info.Mode(), info.ModTime())
	}
	if dir, err := os.Stat(outside); err != nil || dir.Mode().Perm() != 0o750 {
		t.Errorf("the directory outside: %v, %v", dir, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 2 {
		t.Errorf("the directory outside has %v, %v", entries, err)
	}
	if info, err := os.Stat(outside + "/dst"); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the destination: %v, %v", info, err)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(archived(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, tar.Header{Typeflag: tar.TypeReg, Name: "l/secret", Linkname: "x"}).Bytes())
	f.Add(archived(f, tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, tar.Header{Typeflag: tar.TypeLink, Name: "d/h", Linkname: "../secret"}).Bytes())
	f.Add(archived(f, tar.Header{Typeflag: tar.TypeFifo, Name: "/a/../../p"}).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		outside, dst := newOutside(t)
		_ = extract(bytes.NewReader(data), dst, renamer("d", "e"))
		checkOutside(t, outside)
	})
}

// TestPackAndExtract copies a tree with a file of every kind and compares.
func TestPackAndExtract(t *testing.T) {
	src, dst := t.TempDir()+"/tree", t.TempDir()
	old := time.Unix(1_000_000, 0)
	capability := string([]byte{0, 0, 0, 2, 0, 4, 0, 0, 19: 0})
	if err := errors.Join(os.MkdirAll(src+"/closed/d", 0o755), os.WriteFile(src+"/file", []byte("text"), 0o4711), os.Link(src+"/file", src+"/hard"),
		os.Chmod(src+"/file", fs.ModeSetuid|0o711), unix.Setxattr(src+"/file", capAttribute, []byte(capability), 0), os.Symlink("/nowhere", src+"/link"),
		unix.Mkfifo(src+"/fifo", 0o604), unix.Mknod(src+"/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))), os.WriteFile(src+"/closed/x", nil, 0),
		unix.Mknod(src+"/socket", unix.S_IFSOCK|0o600, 0),
		os.Chtimes(src+"/file", old, old), os.Chmod(src+"/closed", 0o1500), os.Chtimes(src+"/closed", old, old)); err != nil {
		t.Fatal(err)
	}
	from, err := localSource(src, false)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var out []string
	if err := pack(&b, from, renamer("tree", "new"), func(path string) { out = append(out, path) }); err != nil {
		t.Fatal(err)
	}
	if err := extract(&b, dst, same); err != nil {
		t.Fatal(err)
	}
	if len(out) != 1 || out[0] != src+"/socket" {
		t.Errorf("left out: %v", out)
	}
	for _, name := range []string{"file", "hard", "link", "fifo", "null", "closed", "closed/d", "closed/x"} {
		var a, b unix.Stat_t
		if err := errors.Join(unix.Lstat(src+"/"+name, &a), unix.Lstat(dst+"/new/"+name, &b)); err != nil {
			t.Error(err)
		}
		if a.Mode != b.Mode || a.Rdev != b.Rdev || a.Mtim.Sec != b.Mtim.Sec || a.Nlink != b.Nlink {
			t.Errorf("%s: %+v, want %+v", name, b, a)
		}
	}
	value := make([]byte, 64)
	if n, err := unix.Getxattr(dst+"/new/hard", capAttribute, value); err != nil || string(value[:n]) != capability {
		t.Errorf("capabilities: %v, %v", value[:n], err)
	}
	if _, err := os.Lstat(dst + "/new/socket"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
}

func TestRenamer(t *testing.T) {
	for _, c := range []struct{ from, to, name, want string }{
		{"a", "b", "a/a", "b/a"},
		{"a", "b", "a/", "b/"},
		{"a", "b", "ab", "ab"},
		{".", "b", "./x", "b/x"},
		{".", "b", "./", "b/"},
		{"/", "b", "/x", "b/x"},
		{"/", "b", "x", "b/x"},
		{"/", "/", "/x", "x"},
		{".", "b", ".x", ".x"},
	} {
		if got := renamer(c.from, c.to)(c.name); got != c.want {
			t.Errorf("%s to %s: %s is %s, want %s", c.from, c.to, c.name, got, c.want)
		}
	}
}

func TestPlace(t *testing.T) {
	file, dir := copyPath{path: "/s/f", exists: true}, copyPath{path: "/s/d", exists: true, isDir: true}
	for _, c := range []struct {
		src, dst  copyPath
		dir, name string
		err       error
	}{
		{file, dir, "/s/d", "f", nil},
		{dir, dir, "/s/d", "d", nil},
		{dir, file, "", "", errCannotCopy},
		{file, file, "/s", "f", nil},
		{file, copyPath{path: "/x/new"}, "/x", "new", nil},
		{dir, copyPath{path: "/x/new/"}, "/x", "new", nil},
		{file, copyPath{path: "/x/new/"}, "", "", errNoDirectory},
		{file, copyPath{path: "/x/new/."}, "", "", errNoDirectory},
		{copyPath{path: "/s/f", rename: "l"}, copyPath{path: "/x/new"}, "/x", "new", nil},
	} {
		where, rename, err := place(c.src, c.dst)
		if where != c.dir || !errors.Is(err, c.err) || err == nil && rename(c.src.base()) != c.name {
			t.Errorf("%+v to %+v: %s, %v", c.src, c.dst, where, err)
		}
	}
}
