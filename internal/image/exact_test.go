package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestUnpackExactly: what the kernel says of each file is what the stream said, under any umask.
func TestUnpackExactly(t *testing.T) {
	old := unix.Umask(0o077)
	t.Cleanup(func() { unix.Umask(old) })
	when := time.Date(1999, 12, 31, 23, 59, 58, 123456789, time.UTC)
	early := time.Date(1969, 7, 20, 20, 17, 40, 0, time.UTC)
	long := strings.Repeat("long/", 60) + strings.Repeat("n", 255)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	device := func(kind byte, name string, major, minor int64) entry {
		return entry{tar.Header{Name: name, Typeflag: kind, Mode: 0o660, Uid: 3, Gid: 6, Devmajor: major, Devminor: minor, ModTime: when, Format: tar.FormatPAX}, ""}
	}
	attributes := func(e entry, list map[string]string) entry {
		e.PAXRecords = map[string]string{}
		for key, value := range list {
			e.PAXRecords["SCHILY.xattr."+key] = value
		}
		return e
	}
	as := func(e entry, mode int64, uid, gid int, at time.Time) entry {
		e.Mode, e.Uid, e.Gid, e.ModTime, e.Format = mode, uid, gid, at, tar.FormatPAX
		return e
	}
	for _, c := range []struct {
		entry
		kind uint32
		drop []string // attributes that are not kept
	}{
		{as(dir("."), 0o711, 1, 2, when), unix.S_IFDIR, nil},
		{as(dir("d"), 0o2775, 0, 50, when), unix.S_IFDIR, nil},
		{as(dir("d/sticky"), 0o1777, 0, 0, early), unix.S_IFDIR, nil},
		{as(file("d/plain", "content"), 0o644, 1000, 1001, when), unix.S_IFREG, nil},
		{as(file("d/empty", ""), 0, 4294967294, 4294967294, early), unix.S_IFREG, nil},
		{as(file("d/setuid", "x"), 0o4755, 0, 0, when), unix.S_IFREG, nil},
		{as(file("d/setgid", "x"), 0o2711, 1000, 42, when), unix.S_IFREG, nil},
		{as(file(long, "deep"), 0o600, 0, 0, when), unix.S_IFREG, nil},
		{as(file("d/\xff name\n", "x"), 0o644, 0, 0, when), unix.S_IFREG, nil},
		{as(link(tar.TypeSymlink, "d/dangling", "/nowhere/at all"), 0o777, 7, 8, when), unix.S_IFLNK, nil},
		{as(link(tar.TypeSymlink, "d/longlink", strings.Repeat("x/", 1000)), 0o777, 0, 0, early), unix.S_IFLNK, nil},
		{device(tar.TypeChar, "d/null", 1, 3), unix.S_IFCHR, nil},
		{device(tar.TypeChar, "d/big", 511, 0xfffff), unix.S_IFCHR, nil},
		{device(tar.TypeBlock, "d/loop", 7, 0), unix.S_IFBLK, nil},
		{device(tar.TypeFifo, "d/fifo", 0, 0), unix.S_IFIFO, nil},
		{attributes(as(file("d/cap", "x"), 0o755, 5, 5, when), map[string]string{"security.capability": capability, "user.a": "b"}), unix.S_IFREG, nil},
		{attributes(as(dir("d/attr"), 0o755, 0, 0, when), map[string]string{"user.x": "y\x01", "trusted.x": "z"}), unix.S_IFDIR, nil},
		{attributes(as(link(tar.TypeSymlink, "d/lattr", "cap"), 0o777, 0, 0, when), map[string]string{"trusted.l": "1", "user.l": "2"}), unix.S_IFLNK, []string{"user.l"}},
		{attributes(device(tar.TypeFifo, "d/fattr", 0, 0), map[string]string{"user.f": "1"}), unix.S_IFIFO, []string{"user.f"}},
		{attributes(as(file("d/overlay", "x"), 0o644, 0, 0, when), map[string]string{"trusted.overlay.opaque": "y", "user.overlay.whiteout": "y"}), unix.S_IFREG, []string{"trusted.overlay.opaque", "user.overlay.whiteout"}},
	} {
		t.Run(strings.TrimPrefix(c.Name[:min(12, len(c.Name))], "d/"), func(t *testing.T) {
			// What comes after an entry must not change it.
			root, err := unpackInto(t, unpacker{entries: 100, left: 1 << 20}, c.entry, file("d/after", "x"))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(root, c.Name)
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("%o %o %d:%d %d:%d %s", st.Mode&unix.S_IFMT, st.Mode&0o7777, st.Uid, st.Gid, unix.Major(st.Rdev), unix.Minor(st.Rdev), time.Unix(st.Mtim.Unix()).UTC())
			want := fmt.Sprintf("%o %o %d:%d %d:%d %s", c.kind, c.Mode, c.Uid, c.Gid, c.Devmajor, c.Devminor, c.ModTime)
			if got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
			attributes := map[string]string{}
			for key, value := range c.PAXRecords {
				if name := strings.TrimPrefix(key, "SCHILY.xattr."); !slices.Contains(c.drop, name) {
					attributes[name] = value
				}
			}
			if got := xattrsOf(t, path); !maps.Equal(got, attributes) {
				t.Errorf("attributes %q, want %q", got, attributes)
			}
			switch c.kind {
			case unix.S_IFREG:
				if text, err := os.ReadFile(path); string(text) != c.content {
					t.Errorf("content %q, %v", text, err)
				}
			case unix.S_IFLNK:
				if to, err := os.Readlink(path); to != c.Linkname {
					t.Errorf("target %q, %v", to, err)
				}
			}
		})
	}
}

// TestUnpackAttributeRefused: an attribute that cannot be set, but for those that containers do without, is an error.
func TestUnpackAttributeRefused(t *testing.T) {
	e := file("a", "x")
	e.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "nonsense"}
	if _, err := unpackInto(t, unpacker{entries: 9, left: 9}, e); err == nil || !strings.Contains(err.Error(), "security.capability") {
		t.Errorf("a capability that is none: %v", err)
	}
}

func TestUnpackHardLinks(t *testing.T) {
	when := time.Unix(1_000_000_000, 5)
	original := file("a/original", "x")
	original.ModTime, original.Format = when, tar.FormatPAX
	root, err := unpackInto(t, unpacker{entries: 100, left: 100}, original, link(tar.TypeLink, "b/first", "a/original"),
		link(tar.TypeLink, "second", "./b/first"), link(tar.TypeSymlink, "s", "nowhere"), link(tar.TypeLink, "t", "s"))
	if err != nil {
		t.Fatal(err)
	}
	inode := func(name string) (st unix.Stat_t) {
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if a, b, c := inode("a/original"), inode("b/first"), inode("second"); a.Ino != b.Ino || a.Ino != c.Ino || a.Nlink != 3 || !time.Unix(a.Mtim.Unix()).Equal(when) {
		t.Errorf("inodes %d, %d, %d, links %d, time %v", a.Ino, b.Ino, c.Ino, a.Nlink, a.Mtim)
	}
	if s, u := inode("s"), inode("t"); s.Ino != u.Ino || s.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("a hard link to a symbolic link: inodes %d and %d", s.Ino, u.Ino)
	}
}

// TestDirectories: their modes are not the umask's, and their times not of what is put into them, however they were named.
func TestDirectories(t *testing.T) {
	old := unix.Umask(0o077)
	t.Cleanup(func() { unix.Umask(old) })
	when := time.Unix(1_000_000_000, 0)
	timed := func(name string) entry {
		e := dir(name)
		e.ModTime = when
		return e
	}
	root, err := unpackInto(t, unpacker{entries: 100, left: 100},
		dir("real"), link(tar.TypeSymlink, "link", "real"), timed("link/sub"), file("real/sub/f", "x"), // by way of a link
		timed("gone"), link(tar.TypeSymlink, "gone", "real"), // not a directory any more
		timed("again"), file("again", "x"), file("again2/f", "x"), // nor this
		timed("remade"), file("remade", "x"), link(tar.TypeSymlink, "remade", "real"),
		file("made/up/f", "x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"real/sub": true, "real": false, "again": false} {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || info.ModTime().Equal(when) != want {
			t.Errorf("time of %s: %v, %v", name, info.ModTime(), err)
		}
	}
	for _, name := range []string{"made", "made/up"} {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("mode of %s: %v, %v", name, info.Mode(), err)
		}
	}
}

// TestUnpackEnds: a stream is read with or without the blocks of zeros that end it.
func TestUnpackEnds(t *testing.T) {
	whole := tarOf(t, file("a", "x"))
	for _, stream := range [][]byte{whole, whole[:1024], append(slices.Clone(whole), make([]byte, 10240)...), nil} {
		if err := (&unpacker{entries: 9, left: 9}).unpack(t.TempDir(), bytes.NewReader(stream)); err != nil {
			t.Errorf("%d bytes: %v", len(stream), err)
		}
	}
	if err := (&unpacker{entries: 9, left: 9}).unpack(t.TempDir(), bytes.NewReader(whole[:512])); err == nil {
		t.Error("a stream that ends within a file was taken for whole")
	}
}

// BenchmarkUnpack: a layer of 2000 files of 8 KiB, from gzip to its verified directory, without syncing.
func BenchmarkUnpack(b *testing.B) {
	entries := []entry{}
	for i := range 2000 {
		if i%50 == 0 {
			entries = append(entries, dir(fmt.Sprintf("d%d", i/50)))
		}
		entries = append(entries, file(fmt.Sprintf("d%d/f%d", i/50, i), strings.Repeat(fmt.Sprintf("some text %d, ", i*7919), 8192/16)))
	}
	plain := tarOf(b, entries...)
	blob := gzipped(b, plain)
	s := newStore(b, Options{})
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		whole, err := s.layers.unpack(b.Context(), digest.FromBytes(plain), bytes.NewReader(blob), nil)
		if err == nil {
			err = whole.discard()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
