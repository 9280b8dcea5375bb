package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// registry is a registry of one process: it serves what it was given, by the distribution specification.
type registry struct {
	*httptest.Server

	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	tags  map[string]ocispec.Descriptor // by repository:tag
	// hook may answer in the registry's place: it returns true then.
	hook func(http.ResponseWriter, *http.Request) bool
	gets map[string]int // by path
}

func newRegistry(t testing.TB) *registry {
	t.Helper()
	r := &registry{blobs: map[digest.Digest][]byte{}, tags: map[string]ocispec.Descriptor{}, gets: map[string]int{}}
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *registry) host() string { return strings.TrimPrefix(r.URL, "http://") }

func (r *registry) setHook(hook func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hook = hook
}

func (r *registry) serve(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	if q.Method == http.MethodGet {
		r.gets[q.URL.Path]++
	}
	hook := r.hook
	r.mu.Unlock()
	if hook != nil && hook(w, q) {
		return
	}
	parts := strings.Split(strings.TrimPrefix(q.URL.Path, "/v2/"), "/")
	if len(parts) != 3 {
		http.NotFound(w, q)
		return
	}
	r.mu.Lock()
	desc, tagged := r.tags[parts[0]+":"+parts[2]]
	if !tagged {
		desc.Digest = digest.Digest(parts[2])
	}
	text, found := r.blobs[desc.Digest]
	r.mu.Unlock()
	if !found {
		http.NotFound(w, q)
		return
	}
	if parts[1] == "manifests" {
		var m struct{ MediaType string }
		_ = json.Unmarshal(text, &m) // a manifest of ours
		w.Header().Set("Content-Type", m.MediaType)
	}
	w.Header().Set("Docker-Content-Digest", desc.Digest.String())
	http.ServeContent(w, q, "", timeZero, bytes.NewReader(text))
}

func (r *registry) put(mediaType string, text []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[d.Digest] = text
	return d
}

func (r *registry) putJSON(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return r.put(mediaType, text)
}

func (r *registry) tag(name string, d ocispec.Descriptor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tags[name] = d
}

// build stores an image of gzip layers made of these tar streams, and returns its manifest.
func (r *registry) build(t testing.TB, platform ocispec.Platform, layers ...[]byte) ocispec.Descriptor {
	t.Helper()
	config := ocispec.Image{Platform: platform, Config: ocispec.ImageConfig{Cmd: []string{"/bin/sh"}}, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, plain := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		m.Layers = append(m.Layers, r.put(ocispec.MediaTypeImageLayerGzip, gzipped(t, plain)))
	}
	m.Config = r.putJSON(t, ocispec.MediaTypeImageConfig, config)
	d := r.putJSON(t, m.MediaType, m)
	d.Platform = &platform
	return d
}

func (r *registry) index(t testing.TB, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	i := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests}
	return r.putJSON(t, i.MediaType, i)
}

func gzipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// entry is one of a tar stream; its content is what the header's size says, cut or padded by no one.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}, content}
}

func dir(name string) entry {
	return entry{tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Mode: 0o777, Linkname: target}, ""}
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newStore(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
