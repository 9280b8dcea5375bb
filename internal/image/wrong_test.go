package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestWrongLayers: whatever is wrong with a layer's bytes, the message says that they are not those that were asked for.
func TestWrongLayers(t *testing.T) {
	mismatch := regexp.MustCompile(`layer sha256:[0-9a-f]{64}: digest mismatch: got sha256:[0-9a-f]{64}: `)
	for name, c := range map[string]struct {
		spoil func(blob []byte) []byte
		says  *regexp.Regexp
		is    func(error) bool
	}{
		"not gzip":              {func(b []byte) []byte { return bytes.Repeat([]byte{'x'}, len(b)) }, mismatch, errdefs.IsInvalidArgument},
		"zeros":                 {func(b []byte) []byte { return make([]byte, len(b)) }, mismatch, errdefs.IsInvalidArgument},
		"a byte of the magic":   {func(b []byte) []byte { b[0] ^= 1; return b }, mismatch, errdefs.IsInvalidArgument},
		"a byte of the header":  {func(b []byte) []byte { b[4] ^= 1; return b }, mismatch, errdefs.IsInvalidArgument},
		"a byte near the start": {func(b []byte) []byte { b[20] ^= 0x10; return b }, mismatch, errdefs.IsInvalidArgument},
		"a byte in the middle":  {func(b []byte) []byte { b[len(b)/2] ^= 0x40; return b }, mismatch, errdefs.IsInvalidArgument},
		"a byte of the sum":     {func(b []byte) []byte { b[len(b)-6] ^= 1; return b }, mismatch, errdefs.IsInvalidArgument},
		"truncated":             {func(b []byte) []byte { return b[:len(b)-20] }, regexp.MustCompile(`layer sha256:[0-9a-f]{64}: truncated: got \d+ of \d+ bytes`), errdefs.IsDataLoss},
		"truncated a lot":       {func(b []byte) []byte { return b[:5] }, regexp.MustCompile(`truncated: got 5 of \d+ bytes`), errdefs.IsDataLoss},
		"empty":                 {func([]byte) []byte { return nil }, regexp.MustCompile(`truncated: got 0 of \d+ bytes`), errdefs.IsDataLoss},
		"longer":                {func(b []byte) []byte { return append(b, "more"...) }, regexp.MustCompile(`more than the \d+ bytes`), errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
			var text strings.Builder
			for i := range 20_000 { // more than the buffers of those who read it
				fmt.Fprintln(&text, i*7919%10007)
			}
			target := r.build(t, here, tarOf(t, file("a", text.String())))
			r.tag("app:1", target)
			var m ocispec.Manifest
			decode(t, r.blobs[target.Digest], &m)
			whole := r.blobs[m.Layers[0].Digest]
			r.blobs[m.Layers[0].Digest] = c.spoil(slices.Clone(whole))
			_, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
			if err == nil || !c.says.MatchString(err.Error()) || !c.is(err) {
				t.Errorf("want %v, got %v", c.says, err)
			}
			left, err := s.blobs(inNamespace(ctx))
			if list := unfinished(t, s); err != nil || len(list) != 0 || len(left) != 0 {
				t.Errorf("left: %v, %v, %v", list, left, err)
			}
			r.blobs[m.Layers[0].Digest] = whole
			if _, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{}); err != nil {
				t.Errorf("the same image, now right: %v", err)
			}
		})
	}
}

// TestWrongContent: layers that are what their digests say, but not what they should be.
func TestWrongContent(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, r *registry, m *ocispec.Manifest, config *ocispec.Image)
		says   string
	}{
		"a diff id of other content": {func(_ *testing.T, _ *registry, _ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[0] = digest.FromString("other")
		}, "unpacked digest mismatch"},
		"fewer diff ids": {func(_ *testing.T, _ *registry, _ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = nil }, "1 layers, its configuration 0"},
		"a diff id of sha512": {func(_ *testing.T, _ *registry, _ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[0] = digest.SHA512.FromString("x")
		}, "only sha256"},
		"a diff id as path": {func(_ *testing.T, _ *registry, _ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[0] = "sha256:../../x"
		}, "invalid checksum digest"},
		"a diff id of none": {func(_ *testing.T, _ *registry, _ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = "" }, "invalid checksum digest"},
		"a layer of no digest": {func(_ *testing.T, _ *registry, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].Digest = "nonsense"
		}, "invalid checksum digest"},
		"a layer of sha512": {func(_ *testing.T, _ *registry, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].Digest = digest.SHA512.FromString("x")
		}, "only sha256"},
		"a layer of less than nothing": {func(_ *testing.T, _ *registry, m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Size = -1 }, "-1 bytes"},
		"a thousand layers": {func(_ *testing.T, _ *registry, m *ocispec.Manifest, c *ocispec.Image) {
			m.Layers, c.RootFS.DiffIDs = slices.Repeat(m.Layers, 1000), slices.Repeat(c.RootFS.DiffIDs, 1000)
		}, "1000 layers, more than 499"},
		"no tar": {func(t *testing.T, r *registry, m *ocispec.Manifest, c *ocispec.Image) {
			text := bytes.Repeat([]byte("no tar "), 1000)
			m.Layers[0] = r.put(ocispec.MediaTypeImageLayerGzip, gzipped(t, text))
			c.RootFS.DiffIDs[0] = digest.FromBytes(text)
		}, "read tar"},
		"gzip cut short": {func(t *testing.T, r *registry, m *ocispec.Manifest, _ *ocispec.Image) {
			text := r.blobs[m.Layers[0].Digest]
			m.Layers[0] = r.put(ocispec.MediaTypeImageLayerGzip, text[:len(text)-10])
		}, "unexpected EOF"},
		"something after the gzip": {func(t *testing.T, r *registry, m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0] = r.put(ocispec.MediaTypeImageLayerGzip, append(slices.Clone(r.blobs[m.Layers[0].Digest]), "trailing garbage"...))
		}, "layer sha256:"},
		"a bomb": {func(t *testing.T, r *registry, m *ocispec.Manifest, c *ocispec.Image) {
			text := tarOf(t, file("a", strings.Repeat("\x00", 2<<20)))
			m.Layers[0] = r.put(ocispec.MediaTypeImageLayerGzip, gzipped(t, text))
			c.RootFS.DiffIDs[0] = digest.FromBytes(text)
		}, "limit"},
		"another kind of document": {func(_ *testing.T, _ *registry, m *ocispec.Manifest, _ *ocispec.Image) {
			m.MediaType = ocispec.MediaTypeImageIndex
		}, "fields of a manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{MaxLayerBytes: 1 << 20})
			var m ocispec.Manifest
			var config ocispec.Image
			decode(t, r.blobs[r.build(t, here, tarOf(t, file("a", "x"))).Digest], &m)
			decode(t, r.blobs[m.Config.Digest], &config)
			c.change(t, r, &m, &config)
			m.Config = r.putJSON(t, ocispec.MediaTypeImageConfig, config)
			r.tag("app:1", r.putJSON(t, m.MediaType, m))
			_, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want %q, got %v", c.says, err)
			}
			if left := unfinished(t, s); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestTwoKindsInOne: a document that is a manifest to one reader and an index to another is refused.
func TestTwoKindsInOne(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	var both map[string]any
	decode(t, r.blobs[r.build(t, here, tarOf(t, file("a", "x"))).Digest], &both)
	both["manifests"] = []any{}
	r.tag("app:1", r.putJSON(t, ocispec.MediaTypeImageManifest, both))
	if _, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a manifest with manifests: %v", err)
	}
}

// TestForeignURLs: an image that says where else its layers are makes us ask nobody.
func TestForeignURLs(t *testing.T) {
	ctx, r, s, elsewhere := context.Background(), newRegistry(t), newStore(t, Options{}), newRegistry(t)
	var m ocispec.Manifest
	decode(t, r.blobs[r.build(t, here, tarOf(t, file("a", "x"))).Digest], &m)
	m.Layers[0].URLs = []string{elsewhere.URL + "/secret"}
	r.tag("app:1", r.putJSON(t, m.MediaType, m))
	if _, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{}); err != nil {
		t.Error(err)
	}
	if len(elsewhere.gets) != 0 {
		t.Errorf("asked elsewhere: %v", elsewhere.gets)
	}
}

// TestRegistryErrors: the class of an error is what the registry answered, at whichever request it did.
func TestRegistryErrors(t *testing.T) {
	for code, is := range map[int]func(error) bool{
		400: errdefs.IsInvalidArgument, 405: errdefs.IsInvalidArgument, 451: errdefs.IsInvalidArgument, 304: errdefs.IsUnavailable, 429: errdefs.IsUnavailable,
		401: errdefs.IsUnauthorized, 403: errdefs.IsUnauthorized, 404: errdefs.IsNotFound,
		500: errdefs.IsUnavailable, 502: errdefs.IsUnavailable, 503: errdefs.IsUnavailable,
	} {
		for _, part := range []string{"/manifests/", "/blobs/"} {
			t.Run(fmt.Sprint(code, part), func(t *testing.T) {
				ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
				r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
				r.setHook(func(w http.ResponseWriter, q *http.Request) bool {
					if strings.Contains(q.URL.Path, part) {
						w.WriteHeader(code)
						return true
					}
					return false
				})
				_, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
				if !is(err) || strings.Contains(err.Error(), "cannot be reached") {
					t.Errorf("%v", err)
				}
				if unknown := strings.Contains(err.Error(), "manifest unknown"); unknown != (code == 404 && part == "/manifests/") {
					t.Errorf("manifest unknown: %v", err)
				}
			})
		}
	}
}

// TestWrongManifestAnswers: what a registry answers in place of a manifest is its fault, whether it is asked for a tag or a
// digest, and is not called a missing image. A manifest without end is not read to its end.
func TestWrongManifestAnswers(t *testing.T) {
	endless := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		for q.Method == http.MethodGet {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}
	sized := func(size, digest string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			if digest != "" {
				w.Header().Set("Docker-Content-Digest", digest)
			}
			w.Header().Set("Content-Length", size)
		}
	}
	right := digest.FromString("x").String()
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		says   string
	}{
		"huge":                      {sized("5000000", right), "a manifest of 5000000 bytes"},
		"huge, without a digest":    {sized("5000000", ""), "a manifest of 5000000 bytes"},
		"a little too big":          {sized("4194305", right), "a manifest of 4194305 bytes"},
		"without end":               {endless, "more than 4194304 bytes"},
		"a malformed digest":        {sized("100", "sha256:xyz"), "a digest that is not valid"},
		"a digest as path":          {sized("100", "sha256:../../x"), "a digest that is not valid"},
		"a digest that is no such":  {sized("100", "nonsense"), "a digest that is not valid"},
		"a digest of another kind":  {sized("100", digest.SHA512.FromString("x").String()), "a digest that is not valid"},
		"a digest, cut to one part": {sized("100", "sha256:"), "a digest that is not valid"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
			r.setHook(func(w http.ResponseWriter, q *http.Request) bool {
				if strings.Contains(q.URL.Path, "/manifests/") {
					c.answer(w, q)
					return true
				}
				return false
			})
			for _, ref := range []string{":1", "@" + right} {
				_, err := s.Pull(ctx, r.host()+"/app"+ref, PullOptions{})
				if !errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\x1b") {
					t.Errorf("%s: want %q, got %v", ref, c.says, err)
				}
			}
			nothingLeft(t, s)
		})
	}
}

// TestRegistryText: what a registry writes in its errors cannot do anything to a terminal.
func TestRegistryText(t *testing.T) {
	for _, part := range []string{"/manifests/", "/blobs/"} {
		ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
		r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
		r.setHook(func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.Contains(q.URL.Path, part) {
				return false
			}
			if part == "/manifests/" && q.Method == http.MethodHead { // whose answer has no body
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				return true
			}
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"\u001b[2J\u001b]0;title\u0007 pay\nsudo: \u009b31m"}]}`))
			return true
		})
		_, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
		if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "pay sudo") {
			t.Errorf("%s: %q", part, err)
		}
		for _, c := range fmt.Sprint(err) {
			if c < ' ' || c >= 0x7f && c < 0xa0 {
				t.Errorf("%s: %q has %q", part, err, c)
			}
		}
	}
}

// TestDeadline: a caller's deadline is not the registry's fault.
func TestDeadline(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
	r.setHook(func(_ http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, "/blobs/") {
			<-q.Context().Done()
		}
		return false
	})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
	if !errdefs.IsDeadlineExceeded(err) || errdefs.IsUnavailable(err) || strings.Contains(err.Error(), "reached") {
		t.Errorf("%v", err)
	}
}

// TestBrokenConnection: a transfer that breaks off, each time that it is resumed, is the registry's fault.
func TestBrokenConnection(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	r.tag("app:1", r.build(t, here, tarOf(t, file("a", "x"))))
	r.setHook(func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.Contains(q.URL.Path, "/blobs/") {
			return false
		}
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write([]byte("a little"))
		panic(http.ErrAbortHandler)
	})
	_, pullErr := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
	if !errdefs.IsUnavailable(pullErr) {
		t.Errorf("%v", pullErr)
	}
	if left, err := s.blobs(inNamespace(ctx)); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestCompressions: gzip, gzip of several members, zstd and none, whatever the media type says.
func TestCompressions(t *testing.T) {
	plain := tarOf(t, file("a", strings.Repeat("content ", 1000)))
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, blob := range map[string][]byte{
		"gzip": gzipped(t, plain), "zstd": encoder.EncodeAll(plain, nil), "none": plain,
		"members": append(gzipped(t, plain[:700]), gzipped(t, plain[700:])...),
		"frames":  append(encoder.EncodeAll(plain[:700], nil), encoder.EncodeAll(plain[700:], nil)...),
		"stored": func() []byte {
			var b bytes.Buffer
			z, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := z.Write(plain); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
			var m ocispec.Manifest
			decode(t, r.blobs[r.build(t, here, plain).Digest], &m)
			m.Layers[0] = r.put(ocispec.MediaTypeImageLayerZstd, blob)
			r.tag("app:1", r.putJSON(t, m.MediaType, m))
			img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if text, err := os.ReadFile(filepath.Join(s.layers.fs(img.Layers[0]), "a")); len(text) != 8000 {
				t.Errorf("%d bytes, %v", len(text), err)
			}
		})
	}
}

func TestDamagedStore(t *testing.T) {
	ctx, r, root := context.Background(), newRegistry(t), t.TempDir()
	s := newStore(t, Options{Root: root})
	r.tag("good:1", r.build(t, here, tarOf(t, file("good", "x"))))
	good, err := s.Pull(ctx, r.host()+"/good:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(path string, text []byte) error{
		"flipped":   func(p string, text []byte) error { text[len(text)/2] ^= 1; return os.WriteFile(p, text, 0o600) },
		"truncated": func(p string, text []byte) error { return os.WriteFile(p, text[:len(text)/2], 0o600) },
		"gone":      func(p string, _ []byte) error { return os.Remove(p) },
	} {
		for _, what := range []string{"manifest", "config"} {
			t.Run(name+" "+what, func(t *testing.T) {
				ref := fmt.Sprintf("%s-%s", name, what)
				r.tag(ref+":1", r.build(t, here, tarOf(t, file(ref, "x"))))
				bad, err := s.Pull(ctx, r.host()+"/"+ref+":1", PullOptions{})
				if err != nil {
					t.Fatal(err)
				}
				var m ocispec.Manifest
				decode(t, r.blobs[bad.ID], &m)
				of := bad.ID
				if what == "config" {
					of = m.Config.Digest
				}
				path := filepath.Join(root, "content", "blobs", "sha256", of.Encoded())
				text, err := os.ReadFile(path)
				if err == nil {
					err = os.Remove(path) // it is read-only
				}
				if err == nil && name != "gone" {
					err = damage(path, text)
				}
				if err != nil {
					t.Fatal(err)
				}
				s.mu.Lock()
				s.forget()
				s.mu.Unlock()
				if _, err := s.Get(ctx, ref, nil); !errdefs.IsNotFound(err) { // its name has the registry in it
					t.Errorf("get by another name: %v", err)
				}
				if _, err := s.Get(ctx, r.host()+"/"+ref+":1", nil); !errdefs.IsDataLoss(err) {
					t.Errorf("get: %v", err)
				}
				if id, err := s.ID(r.host() + "/" + ref + ":1"); id != bad.ID {
					t.Errorf("id %s, %v", id, err)
				}
				if list, err := s.List(ctx); err != nil || len(list) != 1 || list[0].ID != good.ID {
					t.Errorf("list: %v, %v", list, err)
				}
				if err := s.Collect(ctx); err != nil {
					t.Errorf("collect: %v", err)
				}
				if !s.layers.has(bad.Layers[0]) || !s.layers.has(good.Layers[0]) {
					t.Error("a layer was collected that the damaged image may have had")
				}
				if _, err := s.Remove(ctx, r.host()+"/"+ref+":1", false); err != nil {
					t.Errorf("remove: %v", err)
				}
				if s.layers.has(bad.Layers[0]) || !s.layers.has(good.Layers[0]) {
					t.Error("the layer of the damaged image is still here, or of the good one is not")
				}
				if again, err := s.Pull(ctx, r.host()+"/"+ref+":1", PullOptions{}); err != nil || again.ID != bad.ID {
					t.Errorf("pull it again: %v", err)
				}
				if _, err := s.Remove(ctx, r.host()+"/"+ref+":1", false); err != nil {
					t.Errorf("remove: %v", err)
				}
			})
		}
	}
}

// TestIndexOfSHA512: entries of an index that cannot be stored do not keep the others from being used.
func TestIndexOfSHA512(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	strange, nonsense := r.build(t, other, tarOf(t, file("a", "x"))), r.build(t, ocispec.Platform{OS: "linux", Architecture: "mips"}, tarOf(t, file("b", "x")))
	strange.Digest, nonsense.Digest = digest.SHA512.FromString("x"), "nonsense"
	r.tag("app:1", r.index(t, strange, nonsense, r.build(t, here, tarOf(t, file("c", "x")))))
	if _, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	if err := s.Collect(ctx); err != nil {
		t.Error(err)
	}
	if _, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{Platform: &other}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a manifest of sha512: %v", err)
	}
}
