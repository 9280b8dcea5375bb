package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// merged unpacks layers, lowest first, and returns the files (with their content) and directories (with a slash) that
// the kernel's overlay shows of them.
func merged(t *testing.T, layers ...[]entry) []string {
	t.Helper()
	var dirs []string
	for _, entries := range layers {
		root := t.TempDir()
		if err := (&unpacker{entries: 1000, left: 1 << 20}).unpack(root, bytes.NewReader(tarOf(t, entries...))); err != nil {
			t.Fatalf("unpack: %v", err)
		}
		dirs = slices.Insert(dirs, 0, root)
	}
	dirs = append(dirs, t.TempDir()) // overlay wants two at least
	at := t.TempDir()
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(dirs, ":")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	var list []string
	if err := filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == at {
			return err
		}
		name := strings.TrimPrefix(path, at+"/")
		switch {
		case d.IsDir():
			name += "/"
		case d.Type().IsRegular():
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name += "=" + string(text)
		default:
			name += fmt.Sprintf(" %v", d.Type())
		}
		list = append(list, name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestWhiteouts: a whiteout hides what lower layers have and nothing of its own layer, wherever it is in the stream.
func TestWhiteouts(t *testing.T) {
	lower := []entry{dir("a"), file("a/old", "old"), dir("a/sub"), file("a/sub/old", "old"), file("b", "low")}
	all := []string{"a/", "a/old=old", "a/sub/", "a/sub/old=old", "b=low"}
	for name, c := range map[string]struct {
		upper []entry
		want  []string
	}{
		"none":                                  {nil, all},
		"a file":                                {[]entry{file(".wh.b", "")}, all[:4]},
		"a directory":                           {[]entry{file(".wh.a", "")}, all[4:]},
		"nothing":                               {[]entry{file(".wh.none", "")}, all},
		"in a directory without an entry":       {[]entry{file("a/sub/.wh.old", "")}, []string{"a/", "a/old=old", "a/sub/", "b=low"}},
		"twice":                                 {[]entry{file(".wh.b", ""), file(".wh.b", "")}, all[:4]},
		"before a file":                         {[]entry{file(".wh.b", ""), file("b", "new")}, append(slices.Clone(all[:4]), "b=new")},
		"after a file":                          {[]entry{file("b", "new"), file(".wh.b", "")}, append(slices.Clone(all[:4]), "b=new")},
		"after a link":                          {[]entry{link(tar.TypeSymlink, "b", "a"), file(".wh.b", "")}, append(slices.Clone(all[:4]), "b L---------")},
		"before a directory":                    {[]entry{file(".wh.a", ""), dir("a")}, []string{"a/", "b=low"}},
		"after a directory":                     {[]entry{dir("a"), file(".wh.a", "")}, []string{"a/", "b=low"}},
		"before what is in a directory":         {[]entry{file(".wh.a", ""), file("a/new", "new")}, []string{"a/", "a/new=new", "b=low"}},
		"after what is in a directory":          {[]entry{file("a/new", "new"), file(".wh.a", "")}, []string{"a/", "a/new=new", "b=low"}},
		"between":                               {[]entry{file("a/1", "1"), file(".wh.a", ""), file("a/2", "2")}, []string{"a/", "a/1=1", "a/2=2", "b=low"}},
		"before what is deeper":                 {[]entry{file(".wh.a", ""), file("a/sub/new", "new")}, []string{"a/", "a/sub/", "a/sub/new=new", "b=low"}},
		"before a whiteout within":              {[]entry{file(".wh.a", ""), file("a/.wh.old", "")}, []string{"a/", "b=low"}},
		"a directory as a file and back":        {[]entry{file(".wh.a", ""), dir("a"), file("a", "x"), dir("a")}, []string{"a/", "b=low"}},
		"opaque":                                {[]entry{dir("a"), file("a/.wh..wh..opq", ""), file("a/new", "new")}, []string{"a/", "a/new=new", "b=low"}},
		"opaque after its files":                {[]entry{file("a/new", "new"), file("a/.wh..wh..opq", "")}, []string{"a/", "a/new=new", "b=low"}},
		"opaque without a directory's entry":    {[]entry{file("a/.wh..wh..opq", "")}, []string{"a/", "b=low"}},
		"opaque in a whiteout":                  {[]entry{file(".wh.a", ""), file("a/.wh..wh..opq", "")}, []string{"a/", "b=low"}},
		"opaque with whiteouts below":           {[]entry{file("a/sub/.wh.old", ""), file("a/.wh.old", ""), file("a/.wh..wh..opq", ""), file("b/c/.wh.d", ""), file("b/.wh..wh..opq", "")}, []string{"a/", "a/sub/", "b/", "b/c/"}},
		"opaque below":                          {[]entry{file("a/sub/.wh..wh..opq", "")}, []string{"a/", "a/old=old", "a/sub/", "b=low"}},
		"a file in place of a directory":        {[]entry{file("a", "x")}, []string{"a=x", "b=low"}},
		"a directory in place of a file":        {[]entry{dir("b")}, append(slices.Clone(all[:4]), "b/")},
		"another driver's":                      {[]entry{file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x")}, all},
		"a whiteout through a link of the same": {[]entry{dir("a"), link(tar.TypeSymlink, "l", "a"), file("l/.wh.old", "")}, []string{"a/", "a/sub/", "a/sub/old=old", "b=low", "l L---------"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := slices.Sorted(slices.Values(c.want))
			if got := merged(t, lower, c.upper); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
				t.Errorf("\n got %q\nwant %q", got, want)
			}
		})
	}
}

// TestManyWhiteouts: 100000 of them take a time that grows with their number, not with its square; see CVE-2026-95838.
func TestManyWhiteouts(t *testing.T) {
	entries := slices.Repeat([]entry{file("a/.wh..wh..opq", ""), file("a/.wh.b", "")}, 50_000)
	root := t.TempDir()
	if err := (&unpacker{entries: 1 << 20, left: 1}).unpack(root, bytes.NewReader(tarOf(t, entries...))); err != nil {
		t.Fatal(err)
	}
}

// TestReplaced: an entry that replaces a directory or a link is the one that later entries mean.
func TestReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		want    []string
	}{
		"a directory by a hard link": {[]entry{file("f", "x"), file("d/a", "a"), link(tar.TypeLink, "d", "f"), dir("d"), file("d/b", "b")}, []string{"d/", "d/b=b", "f=x"}},
		"a link by a directory":      {[]entry{dir("t"), link(tar.TypeSymlink, "l", "t"), file("l/a", "a"), dir("l"), file("l/b", "b")}, []string{"l/", "l/b=b", "t/", "t/a=a"}},
		"a link by a link":           {[]entry{dir("t"), dir("u"), link(tar.TypeSymlink, "l", "t"), file("l/a", "a"), link(tar.TypeSymlink, "l", "u"), file("l/b", "b")}, []string{"l L---------", "t/", "t/a=a", "u/", "u/b=b"}},
		"a link behind a link":       {[]entry{dir("t"), dir("u"), link(tar.TypeSymlink, "k", "t"), link(tar.TypeSymlink, "l", "k"), file("l/a", "a"), link(tar.TypeSymlink, "k", "u"), file("l/b", "b")}, []string{"k L---------", "l L---------", "t/", "t/a=a", "u/", "u/b=b"}},
		"a directory behind a link":  {[]entry{file("t/x/a", "a"), link(tar.TypeSymlink, "l", "t"), file("l/x/b", "b"), file("t", "f"), dir("t"), file("l/x/c", "c")}, []string{"l L---------", "t/", "t/x/", "t/x/c=c"}},
		"a file by itself":           {[]entry{file("a", "1"), file("a", "2")}, []string{"a=2"}},
		"a file with a hard link":    {[]entry{file("a", "1"), link(tar.TypeLink, "b", "a"), file("a", "2")}, []string{"a=2", "b=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := merged(t, c.entries); !slices.Equal(got, c.want) {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
		})
	}
}

// xattrsOf lists the extended attributes of a file itself, but for those of a security module.
func xattrsOf(t *testing.T, path string) map[string]string {
	t.Helper()
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = string(value[:n])
	}
	return maps.Clone(found)
}
