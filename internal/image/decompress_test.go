package image

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
)

// compressed is what a program of this machine makes of text.
func compressed(t testing.TB, text []byte, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return out
}

func zstandard(t testing.TB, text []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(text, nil)
}

// TestLoadCompressions: archives and their layers may be compressed with all that Docker documents for load.
func TestLoadCompressions(t *testing.T) {
	ctx := context.Background()
	random := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // never fails
	layer := tarOf(t, file("a", string(random)+strings.Repeat("content ", 1000)))
	plain := dockerArchive(t, []string{"app:1"}, layer)
	for name, compress := range map[string]func(testing.TB, []byte) []byte{
		"none":    func(_ testing.TB, text []byte) []byte { return text },
		"gzip":    gzipped,
		"zstd":    zstandard,
		"bzip2":   func(t testing.TB, text []byte) []byte { return compressed(t, text, "bzip2") },
		"xz":      func(t testing.TB, text []byte) []byte { return compressed(t, text, "xz", "-0") },
		"xz -9e":  func(t testing.TB, text []byte) []byte { return compressed(t, text, "xz", "-9e") },
		"xz, x86": func(t testing.TB, text []byte) []byte { return compressed(t, text, "xz", "--x86", "--lzma2=preset=0") },
		"xz, delta": func(t testing.TB, text []byte) []byte {
			return compressed(t, text, "xz", "--delta", "--lzma2=preset=0")
		},
		"xz, sha256, blocks": func(t testing.TB, text []byte) []byte {
			return compressed(t, text, "xz", "-0", "--check=sha256", "--block-size=65536")
		},
		"xz, two streams": func(t testing.TB, text []byte) []byte {
			half := len(text) / 2
			return append(compressed(t, text[:half], "xz", "-0"), compressed(t, text[half:], "xz", "-0", "--check=none")...)
		},
		"bzip2, two streams": func(t testing.TB, text []byte) []byte {
			half := len(text) / 2
			return append(compressed(t, text[:half], "bzip2"), compressed(t, text[half:], "bzip2")...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for what, archive := range map[string][]byte{"archive": compress(t, plain), "layer": dockerArchiveOf(t, compress, layer)} {
				s := newStore(t, Options{})
				list, err := s.Load(ctx, bytes.NewReader(archive), nil)
				if err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				if info, err := os.Stat(s.layers.fs(list[0].Layers[0]) + "/a"); err != nil || info.Size() != 308_000 {
					t.Errorf("%s: %v, %v", what, info, err)
				}
			}
		})
	}
}

// TestLoadBadCompression: compressed data that is cut, damaged or of another format is rejected by name, leaves nothing,
// and does not keep the next load from succeeding.
func TestLoadBadCompression(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	random := make([]byte, 50_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // never fails
	plain := dockerArchive(t, []string{"app:1"}, tarOf(t, file("a", string(random))))
	archives := map[string][]byte{
		"gzip": gzipped(t, plain), "zstd": zstandard(t, plain), "bzip2": compressed(t, plain, "bzip2"), "xz": compressed(t, plain, "xz", "-0"),
	}
	try := func(t *testing.T, archive []byte, says string) {
		t.Helper()
		if list, err := s.Load(ctx, bytes.NewReader(archive), nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v, %v", says, list, err)
		}
		nothingLeft(t, s)
	}
	for name, whole := range archives {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{7, 12, 100, len(whole) / 2, len(whole) - 20, len(whole) - 1} {
				says := "the " + name + " data is truncated"
				if name == "bzip2" { // it may look like a wrong checksum
					says = "the bzip2 data is "
				}
				try(t, whole[:n], says)
			}
			for _, at := range []int{len(whole) / 3, len(whole) / 2, len(whole) * 3 / 4} {
				damaged := bytes.Clone(whole)
				for i := range 8 {
					damaged[at+i] ^= 0xff
				}
				try(t, damaged, "the "+name+" data is ")
			}
			if _, err := s.Load(ctx, bytes.NewReader(whole), nil); err != nil {
				t.Errorf("the next load: %v", err)
			}
			if _, err := s.Remove(ctx, "app:1", false); err != nil {
				t.Error(err)
			}
		})
	}
	for name, magic := range map[string]string{
		"lz4": "\x04\x22\x4d\x18", "lzip": "LZIP\x01", "lzma": "\x5d\x00\x00\x80\x00", "7z": "7z\xbc\xaf\x27\x1c", "zip": "PK\x03\x04", "compress": "\x1f\x9d\x90",
	} {
		t.Run(name, func(t *testing.T) { try(t, append([]byte(magic), random...), "compressed with "+name) })
	}
}

// TestDecompressionBounds: what is small and becomes big is read no further than the bound, and a decompressor's memory
// has a bound, too.
func TestDecompressionBounds(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{MaxLayerBytes: 1 << 20})
	zeros := dockerArchive(t, nil, tarOf(t, file("a", strings.Repeat("\x00", 8<<20))))
	for name, archive := range map[string][]byte{
		"gzip": gzipped(t, zeros), "zstd": zstandard(t, zeros), "bzip2": compressed(t, zeros, "bzip2"), "xz": compressed(t, zeros, "xz", "-0"),
	} {
		if list, err := s.Load(ctx, bytes.NewReader(archive), nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "limit") {
			t.Errorf("%s: %v, %v", name, list, err)
		}
		nothingLeft(t, s)
	}
	wide := compressed(t, zeros[:1<<20], "xz", "--lzma2=preset=0,dict=256MiB")
	if _, err := s.Load(ctx, bytes.NewReader(wide), nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "the xz data is damaged") && !strings.Contains(err.Error(), "exceeds max") {
		t.Errorf("a dictionary that is too big: %v", err)
	}
}

// FuzzDecompress: whatever the bytes are, decompression ends, with all of them read or an error of its own class.
func FuzzDecompress(f *testing.F) {
	text := bytes.Repeat([]byte("some text, some text; "), 100)
	f.Add(text)
	f.Add(gzipped(f, text))
	f.Add(zstandard(f, text))
	f.Add(compressed(f, text, "bzip2"))
	f.Add(compressed(f, text, "xz", "-0"))
	f.Add(compressed(f, text, "xz", "-0", "--x86", "--lzma2=preset=0", "--check=sha256"))
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46"))
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := decompress(bytes.NewReader(data))
		if err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(z, 64<<20))
			_ = z.Close() // reading has failed or not
		}
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v", err)
		}
	})
}
