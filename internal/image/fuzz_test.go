package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// layerSeeds are streams of every kind of entry, right and evil.
func layerSeeds(t testing.TB) [][]byte {
	attributes := file("x", "x")
	attributes.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.opaque": "y"}
	device := entry{tar.Header{Name: "dev", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}
	fifo := entry{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""}
	long := file(strings.Repeat("long/", 50)+"name", "x")
	return [][]byte{
		nil, make([]byte, 1024),
		tarOf(t, dir("."), dir("a"), file("a/b", "content"), link(tar.TypeSymlink, "l", "a/b"), link(tar.TypeLink, "h", "a/b")),
		tarOf(t, file(".wh.a", ""), file("a/f", "x"), file("a/.wh..wh..opq", ""), file("a/.wh.g", "")),
		tarOf(t, link(tar.TypeSymlink, "l", "/"), file("l/secret", "x"), file("../secret", "x")),
		tarOf(t, link(tar.TypeSymlink, "l", ".."), link(tar.TypeLink, "h", "l/secret"), file("h", "x")),
		tarOf(t, file("a/b", "x"), link(tar.TypeSymlink, "a", ".."), file("a/secret", "x"), dir("a"), file("a/c", "y")),
		tarOf(t, attributes, device, fifo, long), sparse(t, "s", 4096), sparse(t, "s", 1<<40),
		gzipped(t, tarOf(t, file("a", "x"))),
	}
}

// FuzzUnpack: whatever the stream is, nothing outside the layer changes, its limits hold and no descriptor is left open.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("not a tar"))
	for _, seed := range layerSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(unpackSafely)
}

// FuzzEntries likewise for streams of right form, of a few names and targets that are in each other's way.
func FuzzEntries(f *testing.F) {
	names := []string{".", "a", "a/b", "a/b/c", "b", "b/c", "l", "l/a", "l/b/c", ".wh.a", "a/.wh.b", "l/.wh.a", "a/.wh..wh..opq", ".wh..wh..opq", "secret", "../secret", "/a", "c"}
	targets := []string{"a", "b", "a/b", "..", "/", ".", "../secret", "l", "secret", "/proc/self/cwd", "c"}
	types := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar}
	f.Add([]byte{1, 1, 0, 6, 2, 0, 7, 0, 0})
	f.Add([]byte{6, 2, 3, 14, 0, 0, 6, 1, 0, 9, 0, 0, 2, 0, 0, 12, 0, 0})
	f.Fuzz(func(t *testing.T, program []byte) {
		var entries []entry
		for ; len(program) >= 3 && len(entries) < 100; program = program[3:] {
			e := file(names[int(program[0])%len(names)], "")
			e.Typeflag, e.Mode = types[int(program[1])%len(types)], int64(program[2])
			if e.Typeflag == tar.TypeSymlink || e.Typeflag == tar.TypeLink {
				e.Linkname = targets[int(program[2])%len(targets)]
			}
			entries = append(entries, e)
		}
		unpackSafely(t, tarOf(t, entries...))
	})
}

// unpackSafely unpacks a stream beside a file that must not change, and checks what must hold for any.
func unpackSafely(t *testing.T, stream []byte) {
	const maxEntries, maxBytes = 64, 1 << 20
	base, err := os.MkdirTemp("", "fuzz-unpack-") // 0700: what is in there may be set-user-ID
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(base); err != nil {
			t.Errorf("remove: %v", err)
		}
	}()
	root, secret := filepath.Join(base, "fs"), filepath.Join(base, "secret")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte("untouched"), 0o640); err != nil {
		t.Fatal(err)
	}
	var before, after unix.Stat_t
	if err := unix.Stat(secret, &before); err != nil {
		t.Fatal(err)
	}
	open := openFiles(t)
	plain, err := decompress(bytes.NewReader(stream))
	if err != nil {
		return
	}
	bound := &bounded{ctx: context.Background(), r: plain, limit: maxBytes}
	first := &unpacker{entries: maxEntries, left: maxBytes}
	if err := first.unpack(root, bound); err == nil {
		unpackUpon(t, base, first, stream, maxEntries, maxBytes)
	}
	_ = plain.Close() // most inputs are no right streams: what counts follows

	if now := openFiles(t); now > open { // connections of tests before may end meanwhile
		t.Errorf("%d descriptors, %d before", now, open)
	}
	if err := unix.Stat(secret, &after); err != nil || after.Ino != before.Ino || after.Nlink != 1 || after.Mode != before.Mode || after.Mtim != before.Mtim || after.Ctim != before.Ctim {
		t.Errorf("the file beside the layer: %+v, %v", after, err)
	}
	if list, err := os.ReadDir(base); err != nil || len(list) != 2 {
		t.Errorf("beside the layer: %v, %v", list, err)
	}
	checkBounds(t, root, maxEntries, maxBytes)
}

// unpackUpon unpacks a stream again, onto the layer that it made, by either way, and removes what came of it.
func unpackUpon(t *testing.T, base string, first *unpacker, stream []byte, maxEntries int, maxBytes int64) {
	t.Helper()
	below, err := openLower([]string{filepath.Join(base, "fs")})
	if err != nil {
		t.Fatal(err)
	}
	defer below.close()
	upper := filepath.Join(base, "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	plain, err := decompress(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	bound := &bounded{ctx: context.Background(), r: plain, limit: maxBytes}
	_ = (&unpacker{entries: int64(maxEntries), left: maxBytes, lower: below}).unpack(upper, bound) // may be no right stream
	_ = plain.Close()                                                                              // likewise
	checkBounds(t, upper, maxEntries, maxBytes)
	layer := &unpacked{dir: base, implied: first.implied, unresolved: first.unresolved}
	if _, err := layer.complete(below); err != nil {
		t.Errorf("complete a layer by itself: %v", err)
	}
	if err := os.RemoveAll(upper); err != nil {
		t.Error(err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func checkBounds(t *testing.T, root string, maxEntries int, maxBytes int64) {
	t.Helper()
	entries, used, seen := -1, int64(0), map[uint64]bool{} // the root is none
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG && !seen[st.Ino] {
			seen[st.Ino] = true
			used += st.Size
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if entries > maxEntries || used > maxBytes {
		t.Errorf("%d entries, %d bytes", entries, used)
	}
}

// FuzzLoad: whatever the archive is, loading it ends with images that can be used and removed, or with an error that
// leaves nothing behind.
func FuzzLoad(f *testing.F) {
	t := testing.TB(f)
	layer := tarOf(t, file("a", "x"))
	r := newRegistry(t)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{r.build(t, here, layer), r.index(t, r.build(t, other, layer))}}
	index.SchemaVersion = 2
	for _, seed := range [][]byte{
		{},
		layout(t, r, index), dockerArchive(t, []string{"app:1", "app:2"}, layer, tarOf(t, file(".wh.a", ""))),
		gzipped(t, dockerArchive(t, nil, layer)), dockerArchive(t, []string{"app:1"}, tarOf(t, file("../x", "x"))),
		tarOf(t, file("manifest.json", "[]")), tarOf(t, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", "{}")),
	} {
		f.Add(seed)
	}
	s := newStore(t, Options{MaxLayerBytes: 1 << 20, MaxLayerEntries: 64})
	f.Fuzz(func(t *testing.T, archive []byte) {
		ctx := context.Background()
		list, err := s.Load(ctx, bytes.NewReader(archive), nil)
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("not the archive's fault: %v", err)
		}
		for _, img := range list {
			if _, err := s.Rootfs(ctx, img.Image); err != nil && len(img.Layers) > 0 {
				t.Errorf("image %s: %v", img.ID, err)
			}
		}
		all, err := s.List(ctx)
		if err != nil {
			t.Error(err)
		}
		ids := map[digest.Digest]bool{}
		for _, img := range all {
			if ids[img.ID] {
				continue
			}
			ids[img.ID] = true
			if _, err := s.Remove(ctx, img.ID.String(), true); err != nil {
				t.Errorf("remove %s: %v", img.ID, err)
			}
		}
		nothingLeft(t, s)
	})
}
