package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// dockerArchive is what "docker save" of old wrote: one image of these names and layers.
func dockerArchive(t testing.TB, names []string, layers ...[]byte) []byte {
	t.Helper()
	config := ocispec.Image{Platform: here, RootFS: ocispec.RootFS{Type: "layers"}}
	entries := []entry{}
	paths := []string{}
	for i, plain := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		path := fmt.Sprintf("%d/layer.tar", i)
		paths = append(paths, path)
		entries = append(entries, file(path, string(plain)))
	}
	manifest := []map[string]any{{"Config": "config.json", "RepoTags": names, "Layers": paths}}
	return tarOf(t, append(entries, file("config.json", jsonOf(t, config)), file("manifest.json", jsonOf(t, manifest)))...)
}

// layout is an OCI archive of what a registry has under an index of these manifests.
func layout(t testing.TB, r *registry, index ocispec.Index) []byte {
	t.Helper()
	entries := []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", jsonOf(t, index))}
	for d, text := range r.blobs {
		entries = append(entries, file("blobs/sha256/"+d.Encoded(), string(text)))
	}
	return tarOf(t, entries...)
}

func jsonOf(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// nothingLeft checks that a failed load left no blob, layer, name or unfinished work.
func nothingLeft(t testing.TB, s *Store) {
	t.Helper()
	ctx := inNamespace(context.Background())
	if open, err := s.content.ListStatuses(ctx); err != nil || len(open) != 0 {
		t.Errorf("unfinished blobs: %v, %v", open, err)
	}
	if held, err := s.leases.List(ctx); err != nil || len(held) != 0 {
		t.Errorf("leases: %v, %v", held, err)
	}
	if blobs, err := s.blobs(ctx); err != nil || len(blobs) != 0 {
		t.Errorf("blobs left: %v, %v", blobs, err)
	}
	if left, err := os.ReadDir(s.layers.dir); err != nil || len(left) != 0 {
		t.Errorf("layers left: %v, %v", left, err)
	}
	if ingests, err := os.ReadDir(filepath.Join(s.o.Root, "content", "ingest")); err != nil && !errors.Is(err, os.ErrNotExist) || len(ingests) != 0 {
		t.Errorf("ingests left: %v, %v", ingests, err)
	}
}

func TestLoad(t *testing.T) {
	ctx := context.Background()
	lower, upper := tarOf(t, file("a", "low"), file("b", "b")), tarOf(t, file("a", "top"))
	r := newRegistry(t)
	target := r.build(t, here, lower, upper)
	named := func(names ...string) ocispec.Index {
		i := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
		i.SchemaVersion = 2
		for _, name := range names {
			d := target
			if name != "" {
				d.Annotations = map[string]string{"io.containerd.image.name": name}
			}
			i.Manifests = append(i.Manifests, d)
		}
		return i
	}
	for name, c := range map[string]struct {
		archive []byte
		names   []string
	}{
		"docker, one name":       {dockerArchive(t, []string{"app:1"}, lower, upper), []string{"docker.io/library/app:1"}},
		"docker, two names":      {dockerArchive(t, []string{"app:1", "app:2"}, lower, upper), []string{"docker.io/library/app:1", "docker.io/library/app:2"}},
		"docker, no name":        {dockerArchive(t, nil, lower, upper), nil},
		"docker, compressed":     {gzipped(t, dockerArchive(t, []string{"app:1"}, lower, upper)), []string{"docker.io/library/app:1"}},
		"docker, gzip layers":    {dockerArchiveOf(t, gzipped, lower, upper), []string{"docker.io/library/app:1"}},
		"OCI, one name":          {layout(t, r, named("docker.io/library/app:1")), []string{"docker.io/library/app:1"}},
		"OCI, three names":       {layout(t, r, named("docker.io/library/c:1", "docker.io/library/a:1", "localhost/b:1")), []string{"docker.io/library/a:1", "docker.io/library/c:1", "localhost/b:1"}},
		"OCI, no name":           {layout(t, r, named("")), nil},
		"OCI, a name and none":   {layout(t, r, named("docker.io/library/app:1", "")), []string{"docker.io/library/app:1"}},
		"OCI, a name that is no": {layout(t, r, named("NO NAME")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			for range 2 { // the second time everything is there
				list, err := s.Load(ctx, bytes.NewReader(c.archive), nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(list) != 1 || !slices.Equal(list[0].Names, c.names) {
					t.Fatalf("images: %+v", list)
				}
			}
			list, err := s.List(ctx)
			if err != nil || len(list) != 1 {
				t.Fatalf("list: %v, %v", list, err)
			}
			if err := s.Collect(ctx); err != nil {
				t.Fatal(err)
			}
			dirs, err := s.Rootfs(ctx, list[0])
			if err != nil || len(dirs) != 2 {
				t.Fatalf("rootfs: %v, %v", dirs, err)
			}
			if text, err := os.ReadFile(filepath.Join(dirs[0], "a")); string(text) != "top" {
				t.Errorf("%q, %v", text, err)
			}
			if _, err := s.Remove(ctx, list[0].ID.String(), true); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, s)
		})
	}
}

// dockerArchiveOf is an archive of "app:1" whose layers are compressed.
func dockerArchiveOf(t testing.TB, compress func(testing.TB, []byte) []byte, layers ...[]byte) []byte {
	t.Helper()
	plain := dockerArchive(t, []string{"app:1"}, layers...)
	var entries []entry
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return tarOf(t, entries...)
		}
		text, readErr := io.ReadAll(r)
		if err = errors.Join(err, readErr); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, "layer.tar") {
			text = compress(t, text)
		}
		entries = append(entries, file(h.Name, string(text)))
	}
}

func TestLoadIndex(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	foreign := r.build(t, other, tarOf(t, file("own", "other")))
	index := r.index(t, foreign, r.build(t, here, tarOf(t, file("own", "here"))))
	delete(r.blobs, foreign.Digest) // archives may leave out platforms
	index.Annotations = map[string]string{"io.containerd.image.name": "docker.io/library/app:1"}
	top := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{index}}
	top.SchemaVersion = 2
	list, err := s.Load(ctx, bytes.NewReader(layout(t, r, top)), nil)
	if err != nil || len(list) != 1 || list[0].ID != index.Digest || list[0].Platform.Architecture != here.Architecture {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := s.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rootfs(ctx, list[0].Image); err != nil {
		t.Error(err)
	}
}

// TestLoadRefuses: a bad archive is the caller's fault, says what is wrong, and leaves nothing.
func TestLoadRefuses(t *testing.T) {
	r := newRegistry(t)
	target := r.build(t, here, tarOf(t, file("a", strings.Repeat("x", 5000))))
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{target}}
	index.SchemaVersion = 2
	whole, docker := layout(t, r, index), dockerArchive(t, []string{"app:1"}, tarOf(t, file("a", strings.Repeat("x", 5000))))
	var m ocispec.Manifest
	decode(t, r.blobs[target.Digest], &m)
	without := func(d digest.Digest) []byte {
		text := r.blobs[d]
		delete(r.blobs, d)
		defer func() { r.blobs[d] = text }()
		return layout(t, r, index)
	}
	strange := func(change func(d *ocispec.Descriptor)) []byte {
		i := index
		i.Manifests = slices.Clone(i.Manifests)
		change(&i.Manifests[0])
		return layout(t, r, i)
	}
	evil := tarOf(t, file("../evil", "x"))
	for name, archive := range map[string][]byte{
		"nothing":                 {},
		"text":                    []byte("this is no archive"),
		"zeros":                   make([]byte, 2048),
		"gzip of text":            gzipped(t, []byte("this is no archive")),
		"gzip cut in its header":  gzipped(t, whole)[:6],
		"gzip cut short":          gzipped(t, whole)[:300],
		"cut in a blob":           docker[:3000],
		"cut in a header":         docker[:len(docker)-1700],
		"another tar":             tarOf(t, file("a", "x")),
		"OCI without an index":    tarOf(t, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)),
		"OCI of another version":  tarOf(t, file("oci-layout", `{"imageLayoutVersion":"9.0.0"}`), file("index.json", "{}")),
		"OCI without an image":    tarOf(t, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", `{"schemaVersion":2}`)),
		"OCI without its JSON":    tarOf(t, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", `{{{`)),
		"without the manifest":    without(target.Digest),
		"without the config":      without(m.Config.Digest),
		"without the layer":       without(m.Layers[0].Digest),
		"a digest as path":        strange(func(d *ocispec.Descriptor) { d.Digest = "sha256:../../../x" }),
		"a digest of nothing":     strange(func(d *ocispec.Descriptor) { d.Digest = "" }),
		"a digest of sha512":      strange(func(d *ocispec.Descriptor) { d.Digest = digest.SHA512.FromString("x") }),
		"a layer as image":        strange(func(d *ocispec.Descriptor) { *d = m.Layers[0] }),
		"a huge manifest":         strange(func(d *ocispec.Descriptor) { d.Size = 1 << 40 }),
		"docker, no images":       tarOf(t, file("manifest.json", "[]")),
		"docker, a missing layer": tarOf(t, file("manifest.json", `[{"Config":"c","Layers":["l"]}]`), file("c", "{}")),
		"docker, layer escapes":   dockerArchive(t, []string{"app:1"}, evil),
		"docker, a bad name":      dockerArchive(t, []string{"NO NAME"}, tarOf(t, file("a", "x"))),
		"docker, a link to no":    tarOf(t, file("manifest.json", "[]"), link(tar.TypeSymlink, "l", "none")),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			list, err := s.Load(context.Background(), bytes.NewReader(archive), nil)
			if !errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), "load: ") {
				t.Errorf("%v, %v", list, err)
			}
			nothingLeft(t, s)
		})
	}
}

// TestLoadAfterCut: what a cut load called its blobs is not taken for those of the next one.
func TestLoadAfterCut(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	first := dockerArchive(t, []string{"app:1"}, tarOf(t, file("a", strings.Repeat("x", 100_000))))
	second := dockerArchive(t, []string{"app:1"}, tarOf(t, file("a", strings.Repeat("y", 100_000))))
	if _, err := s.Load(ctx, bytes.NewReader(first[:60_000]), nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("cut: %v", err)
	}
	img, err := s.Load(ctx, bytes.NewReader(second), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(s.layers.fs(img[0].Layers[0]), "a")); err != nil || strings.Trim(string(text), "y") != "" {
		t.Errorf("content of another archive, %v", err)
	}
}

// TestLoadsAtOnce: loads do not disturb each other, though their archives use the same names within.
func TestLoadsAtOnce(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	var group errgroup.Group
	for i := range 4 {
		plain := tarOf(t, file("a", fmt.Sprint(i)))
		archive := dockerArchive(t, []string{fmt.Sprintf("app:%d", i)}, plain)
		group.Go(func() error {
			list, err := s.Load(ctx, bytes.NewReader(archive), nil)
			if err == nil && (len(list) != 1 || list[0].Layers[0] != digest.FromBytes(plain)) {
				err = fmt.Errorf("load %d: %+v", i, list)
			}
			return err
		})
		group.Go(func() error { // the same again, but cut
			_, err := s.Load(ctx, bytes.NewReader(archive[:len(archive)/2]), nil)
			if errdefs.IsInvalidArgument(err) {
				return nil
			}
			return fmt.Errorf("cut: %w", err)
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 4 {
		t.Errorf("%d images, %v", len(list), err)
	}
}

// TestLoadLimits: an archive that has little in blobs, but much to remember, is refused.
func TestLoadLimits(t *testing.T) {
	s := newStore(t, Options{MaxLayerBytes: 1 << 20})
	zeros := strings.Repeat("\x00", 5<<20)
	if _, err := s.Load(context.Background(), bytes.NewReader(gzipped(t, tarOf(t, file("blob", zeros)))), nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("more bytes than four layers: %v", err)
	}
	nothingLeft(t, s)
	i := &importing{blobs: 10}
	if err := i.check(10 + maxArchiveExtra); err != nil {
		t.Error(err)
	}
	if err := i.check(11 + maxArchiveExtra); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a byte too many beside the blobs: %v", err)
	}
}

// TestLoadCanceled: a caller that goes away is no bad archive.
func TestLoadCanceled(t *testing.T) {
	s := newStore(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	archive := dockerArchive(t, nil, tarOf(t, file("a", strings.Repeat("x", 100_000))))
	cut := &cancelAt{Reader: bytes.NewReader(archive), left: 50_000, cancel: cancel}
	if _, err := s.Load(ctx, cut, nil); !errors.Is(err, context.Canceled) || errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	nothingLeft(t, s)
}

type cancelAt struct {
	io.Reader
	left   int
	cancel context.CancelFunc
}

func (c *cancelAt) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p[:min(len(p), 4096)])
	if c.left -= n; c.left < 0 {
		c.cancel()
	}
	return n, err
}
