package image

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPullRepairs: pulling an image again replaces those of its blobs that were damaged.
func TestPullRepairs(t *testing.T) {
	for name, damage := range map[string]func(path string, text []byte) error{
		"flipped": func(p string, text []byte) error {
			text[len(text)/2] ^= 1
			return os.WriteFile(p, text, 0o600)
		},
		"truncated": func(p string, text []byte) error { return os.WriteFile(p, text[:len(text)/2], 0o600) },
		"gone":      func(string, []byte) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
			target := r.build(t, here, tarOf(t, file("a", strings.Repeat("some content ", 100))))
			r.tag("app:1", target)
			img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var m ocispec.Manifest
			decode(t, r.blobs[target.Digest], &m)
			for _, d := range []ocispec.Descriptor{target, m.Config, m.Layers[0]} {
				path := filepath.Join(s.o.Root, "content", "blobs", "sha256", d.Digest.Encoded())
				if err := os.Remove(path); err != nil { // it is read-only
					t.Fatal(err)
				}
				if err := damage(path, bytes.Clone(r.blobs[d.Digest])); err != nil {
					t.Fatal(err)
				}
			}
			if gone, _, err := s.layers.take(img.Layers[0]); err != nil || os.RemoveAll(gone) != nil {
				t.Fatal(err)
			}
			again, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Collect(ctx); err != nil {
				t.Error(err)
			}
			if _, err := s.Rootfs(ctx, again); err != nil {
				t.Error(err)
			}
			for d, text := range r.blobs {
				if have, err := os.ReadFile(filepath.Join(s.o.Root, "content", "blobs", "sha256", d.Encoded())); !bytes.Equal(have, text) {
					t.Errorf("blob %s: %d bytes of %d, %v", d, len(have), len(text), err)
				}
			}
		})
	}
}

// TestLayersClosed: users of the host reach no file of an image, set-user-ID or not; see CVE-2021-41091, 2021-41103.
func TestLayersClosed(t *testing.T) {
	ctx, r := context.Background(), newRegistry(t)
	open := t.TempDir()
	for _, dir := range []string{open, filepath.Dir(open)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(open, "images")
	s := newStore(t, Options{Root: root})
	r.tag("app:1", r.build(t, here, tarOf(t, file("readable", "x"))))
	img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nobody := func(path string) error {
		cmd := exec.Command("test", "-e", path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd.Run()
	}
	if err := nobody(root); err != nil {
		t.Fatalf("the test's own directory must be open: %v", err)
	}
	if err := nobody(filepath.Join(s.layers.fs(img.Layers[0]), "readable")); err == nil {
		t.Error("a file of a layer can be reached by everybody")
	}
}

// TestZstdWindow: a frame that wants more memory than the bound is refused before it gets any.
func TestZstdWindow(t *testing.T) {
	frame := func(log byte) []byte { // RFC 8878, 3.1.1: magic, no flags, a window of 1<<log, one last empty block
		return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 1, 0, 0}
	}
	for log, ok := range map[byte]bool{20: true, 27: true, 28: false, 41: false} {
		r, err := decompress(bytes.NewReader(frame(log)))
		if err == nil {
			_, err = r.Read(make([]byte, 1))
			_ = r.Close() // the error that counts is that of reading
		}
		if (err == nil || err.Error() == "EOF") != ok {
			t.Errorf("a window of 1<<%d: %v", log, err)
		}
	}
}
