package image

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// namesIn are all names of a store, hidden ones too.
func namesIn(t testing.TB, s *Store) []string {
	t.Helper()
	list, err := s.names.List(inNamespace(context.Background()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return names
}

// TestNothingNamedUnverified: an archive of which one image is rejected names none, whatever is wrong and wherever it
// stands.
func TestNothingNamedUnverified(t *testing.T) {
	r := newRegistry(t)
	good := r.build(t, here, tarOf(t, file("a", "good")))
	good.Annotations = map[string]string{"io.containerd.image.name": "docker.io/library/good:1"}
	named := func(d ocispec.Descriptor) ocispec.Descriptor {
		d.Annotations = map[string]string{"io.containerd.image.name": "docker.io/library/bad:1"}
		return d
	}
	manifest := func(change func(m *ocispec.Manifest)) ocispec.Descriptor {
		var m ocispec.Manifest
		decode(t, r.blobs[good.Digest], &m)
		change(&m)
		return r.putJSON(t, m.MediaType, m)
	}
	sized := func(d ocispec.Descriptor, more int64) ocispec.Descriptor {
		d.Size += more
		return d
	}
	s := newStore(t, Options{})
	unknown := good
	unknown.MediaType = "application/vnd.unknown+json"
	for name, bad := range map[string]ocispec.Descriptor{
		"an unknown media type":           unknown,
		"no media type":                   {Digest: good.Digest, Size: good.Size},
		"an index of an unknown type":     r.index(t, unknown),
		"a manifest that is too long":     sized(good, -1),
		"a manifest that is too short":    sized(good, 1),
		"a config that is too long":       manifest(func(m *ocispec.Manifest) { m.Config.Size-- }),
		"a config that is too short":      manifest(func(m *ocispec.Manifest) { m.Config.Size++ }),
		"a layer that is too long":        manifest(func(m *ocispec.Manifest) { m.Layers[0].Size-- }),
		"a layer that is too short":       manifest(func(m *ocispec.Manifest) { m.Layers[0].Size++ }),
		"a layer of size 0":               manifest(func(m *ocispec.Manifest) { m.Layers[0].Size = 0 }),
		"an index with a wrong size":      r.index(t, sized(good, 7)),
		"another platform's wrong size":   r.index(t, good, sized(r.build(t, other, tarOf(t, file("a", "other"))), 1)),
		"a layer that is missing":         manifest(func(m *ocispec.Manifest) { m.Layers[0].Digest = digest.FromString("missing") }),
		"an index of other platforms":     r.index(t, r.build(t, other, tarOf(t, file("a", "x"))), r.build(t, ocispec.Platform{OS: "linux", Architecture: "mips"}, tarOf(t, file("b", "x")))),
		"a diff id of other content":      otherDiffID(t, r, good),
		"a manifest with too many layers": manifest(func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }),
	} {
		t.Run(name, func(t *testing.T) {
			for _, order := range [][]ocispec.Descriptor{{named(bad)}, {good, named(bad)}, {named(bad), good}} {
				index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: order}
				index.SchemaVersion = 2
				list, err := s.Load(context.Background(), bytes.NewReader(layout(t, r, index)), nil)
				if !errdefs.IsInvalidArgument(err) {
					t.Errorf("loaded %+v, %v", list, err)
				}
				if names := namesIn(t, s); len(names) != 0 {
					t.Errorf("named: %v", names)
				}
				nothingLeft(t, s)
			}
		})
	}
}

// otherDiffID is an image whose configuration says that its layer is another.
func otherDiffID(t testing.TB, r *registry, image ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	var m ocispec.Manifest
	var config ocispec.Image
	decode(t, r.blobs[image.Digest], &m)
	decode(t, r.blobs[m.Config.Digest], &config)
	config.RootFS.DiffIDs[0] = digest.FromString("other")
	m.Config = r.putJSON(t, ocispec.MediaTypeImageConfig, config)
	return r.putJSON(t, m.MediaType, m)
}

// TestWrongSizesOfKnownBlobs: an image is rejected for its wrong sizes also where its blobs are here already; the image
// that they came with stays as it is, and its blobs are not fetched again.
func TestWrongSizesOfKnownBlobs(t *testing.T) {
	for name, change := range map[string]func(m *ocispec.Manifest){
		"config":          func(m *ocispec.Manifest) { m.Config.Size++ },
		"layer":           func(m *ocispec.Manifest) { m.Layers[0].Size += 100 },
		"layer, negative": func(m *ocispec.Manifest) { m.Layers[0].Size = -1 },
		"layer, 0":        func(m *ocispec.Manifest) { m.Layers[0].Size = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
			good := r.build(t, here, tarOf(t, file("a", "x")))
			r.tag("good:1", good)
			if _, err := s.Pull(ctx, r.host()+"/good:1", PullOptions{}); err != nil {
				t.Fatal(err)
			}
			var m ocispec.Manifest
			decode(t, r.blobs[good.Digest], &m)
			change(&m)
			r.tag("bad:1", r.putJSON(t, m.MediaType, m))
			r.gets = map[string]int{}
			if img, err := s.Pull(ctx, r.host()+"/bad:1", PullOptions{}); !errdefs.IsInvalidArgument(err) || errdefs.IsDataLoss(err) {
				t.Errorf("pulled %+v, %v", img, err)
			}
			for path := range r.gets {
				if strings.Contains(path, "/blobs/") {
					t.Errorf("fetched %s", path)
				}
			}
			if names := namesIn(t, s); !slices.Equal(names, []string{r.host() + "/good:1"}) {
				t.Errorf("names: %v", names)
			}
			img, err := s.Get(ctx, r.host()+"/good:1", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Rootfs(ctx, img); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPullWrongPlatform: an image without an index that is of another platform than the one asked for gets no name, and
// its layers are not fetched.
func TestPullWrongPlatform(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	r.tag("app:1", r.build(t, other, tarOf(t, file("a", "x"))))
	if img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{Platform: &here}); !errdefs.IsNotFound(err) {
		t.Errorf("pulled %+v, %v", img, err)
	}
	if names := namesIn(t, s); len(names) != 0 {
		t.Errorf("named: %v", names)
	}
	nothingLeft(t, s)
}

// TestPlatformsOnly: an image that was pulled for other platforms only is listed, tagged and removed like others.
func TestPlatformsOnly(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	mips := ocispec.Platform{OS: "linux", Architecture: "mips"}
	target := r.index(t, r.build(t, other, tarOf(t, file("a", "x"))), r.build(t, mips, tarOf(t, file("a", "y"))))
	r.tag("app:1", target)
	for _, p := range []ocispec.Platform{other, mips} {
		if _, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{Platform: &p}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(ctx, r.host()+"/app:1", nil); !errdefs.IsNotFound(err) {
		t.Errorf("get for this host: %v", err)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 1 || list[0].ID != target.Digest {
		t.Errorf("list: %v, %v", list, err)
	}
	if img, err := s.Tag(ctx, r.host()+"/app:1", "app:2"); err != nil || img.ID != target.Digest || len(img.Names) != 2 {
		t.Errorf("tag: %+v, %v", img, err)
	}
	if plan, err := s.Removal("app:2"); err != nil || plan.Last || plan.ID != target.Digest {
		t.Errorf("%+v, %v", plan, err)
	}
	if _, err := s.Remove(ctx, target.Digest.String(), true); err != nil {
		t.Error(err)
	}
	nothingLeft(t, s)
}

// TestTagUnusable: what cannot be used gets no further name, and the name keeps its image.
func TestTagUnusable(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	for _, name := range []string{"good", "bad"} {
		r.tag(name+":1", r.build(t, here, tarOf(t, file(name, "x"))))
	}
	good, err := s.Pull(ctx, r.host()+"/good:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bad, err := s.Pull(ctx, r.host()+"/bad:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tag(ctx, good.ID.String(), "app:1"); err != nil {
		t.Fatal(err)
	}
	if err := s.drop(inNamespace(ctx), bad.ID); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.forget()
	s.mu.Unlock()
	if img, err := s.Tag(ctx, bad.ID.String(), "app:1"); !errdefs.IsDataLoss(err) {
		t.Errorf("tagged %+v, %v", img, err)
	}
	if img, err := s.Get(ctx, "app:1", nil); err != nil || img.ID != good.ID {
		t.Errorf("app:1 is %+v, %v", img, err)
	}
}

// TestRemoveUnusable: a name that cannot be resolved, as earlier programs left it, can be removed.
func TestRemoveUnusable(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	target := ocispec.Descriptor{MediaType: "application/vnd.unknown+json", Digest: digest.FromString("x"), Size: 1}
	if err := s.setName(inNamespace(ctx), "docker.io/library/app:1", target); err != nil {
		t.Fatal(err)
	}
	if removed, err := s.Remove(ctx, "app:1", false); err != nil || len(removed) != 2 {
		t.Errorf("%v, %v", removed, err)
	}
	if names := namesIn(t, s); len(names) != 0 {
		t.Errorf("names: %v", names)
	}
}

// TestNamesOfReferences: which names a reference stands for when it is removed, as docker has it.
func TestNamesOfReferences(t *testing.T) {
	d := "sha256:" + strings.Repeat("a", 64)
	all := []string{"docker.io/library/app:1", "docker.io/library/app:2", "docker.io/library/app@" + d, "docker.io/library/one:1", "docker.io/library/one@" + d, "r.test/app:1"}
	for ref, want := range map[string][]string{
		"app:1":                      {"docker.io/library/app:1"},
		"docker.io/library/app:2":    {"docker.io/library/app:2"},
		"app":                        nil,
		"app@" + d:                   {"docker.io/library/app:1", "docker.io/library/app:2", "docker.io/library/app@" + d},
		"docker.io/library/app@" + d: {"docker.io/library/app:1", "docker.io/library/app:2", "docker.io/library/app@" + d},
		"app:1@" + d:                 {"docker.io/library/app:1"},
		"one:1":                      {"docker.io/library/one:1", "docker.io/library/one@" + d},
		"r.test/app@" + d:            {"r.test/app:1"},
		"r.test/app:1":               {"r.test/app:1"},
		"other@" + d:                 nil,
		"NO NAME":                    nil,
		strings.Repeat("a", 64):      nil,
	} {
		if got := sameReferences(ref, all); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", ref, got, want)
		}
	}
}

// TestRemoveByRepoDigest: name@digest removes the names of that repository, and the image with the last of them.
func TestRemoveByRepoDigest(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	target := r.build(t, here, tarOf(t, file("a", "x")))
	r.tag("app:1", target)
	repository := r.host() + "/app"
	if _, err := s.Pull(ctx, repository+":1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{repository + ":2", "mine:1"} {
		if _, err := s.Tag(ctx, target.Digest.String(), name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Remove(ctx, target.Digest.String(), false); !errdefs.IsConflict(err) {
		t.Errorf("by ID, with several names: %v", err)
	}
	removed, err := s.Remove(ctx, repository+"@"+target.Digest.String(), false)
	if want := []Removed{{Untagged: repository + ":1"}, {Untagged: repository + ":2"}}; err != nil || !slices.Equal(removed, want) {
		t.Errorf("%v, %v", removed, err)
	}
	removed, err = s.Remove(ctx, "mine@"+target.Digest.String(), false)
	if want := []Removed{{Untagged: "docker.io/library/mine:1"}, {Deleted: target.Digest.String()}}; err != nil || !slices.Equal(removed, want) {
		t.Errorf("%v, %v", removed, err)
	}
	nothingLeft(t, s)
}

// TestLoadedNames: a load tells the names that the archive gave, not those that the image had before.
func TestLoadedNames(t *testing.T) {
	ctx, s := context.Background(), newStore(t, Options{})
	layer := tarOf(t, file("a", "x"))
	for _, c := range []struct{ names, loaded, all []string }{
		{[]string{"app:2", "app:1"}, []string{"docker.io/library/app:2", "docker.io/library/app:1"}, []string{"docker.io/library/app:1", "docker.io/library/app:2"}},
		{[]string{"app:3"}, []string{"docker.io/library/app:3"}, []string{"docker.io/library/app:1", "docker.io/library/app:2", "docker.io/library/app:3"}},
		{nil, nil, []string{"docker.io/library/app:1", "docker.io/library/app:2", "docker.io/library/app:3"}},
	} {
		list, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, c.names, layer)), nil)
		if err != nil || len(list) != 1 || !slices.Equal(list[0].Loaded, c.loaded) || !slices.Equal(list[0].Names, c.all) {
			t.Errorf("%v: %+v, %v", c.names, list, err)
		}
	}
}
