package image

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPlatforms: platforms of one index come one after the other, and none takes another's place.
func TestPlatforms(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	shared := tarOf(t, file("shared", "x"))
	foreign, own := r.build(t, other, shared, tarOf(t, file("own", "other"))), r.build(t, here, shared, tarOf(t, file("own", "here")))
	statement := r.build(t, ocispec.Platform{OS: "unknown", Architecture: "unknown"}, tarOf(t, file("a", "x")))
	statement.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	r.tag("app:1", r.index(t, statement, foreign, own))
	ref := r.host() + "/app:1"

	first, err := s.Pull(ctx, ref, PullOptions{Platform: &other})
	if err != nil || first.Platform.Architecture != other.Architecture {
		t.Fatalf("the other platform: %+v, %v", first, err)
	}
	if img, err := s.Get(ctx, ref, nil); err != nil || img.Platform.Architecture != other.Architecture {
		t.Errorf("the only platform that is here: %+v, %v", img, err)
	}
	if _, err := s.Get(ctx, ref, &here); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("a platform that is not here: %v", err)
	}
	second, err := s.Pull(ctx, ref, PullOptions{})
	if err != nil || second.Platform.Architecture != here.Architecture || second.ID != first.ID {
		t.Fatalf("the host's platform: %+v, %v", second, err)
	}
	if img, err := s.Get(ctx, ref, nil); err != nil || img.Platform.Architecture != here.Architecture {
		t.Errorf("the host's platform has come: %+v, %v", img, err)
	}
	if err := s.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	for _, platform := range []ocispec.Platform{here, other} {
		img, err := s.Get(ctx, ref, &platform)
		if err != nil {
			t.Errorf("%s after collection: %v", platform.Architecture, err)
			continue
		}
		if _, err := s.Rootfs(ctx, img); err != nil {
			t.Errorf("%s after collection: %v", platform.Architecture, err)
		}
	}
	if blobs, err := s.blobs(inNamespace(ctx)); err != nil || len(blobs) != 8 { // the index, and of each: manifest, configuration, own layer; one layer is shared
		t.Errorf("%d blobs, %v", len(blobs), err)
	}
	if _, err := s.Remove(ctx, ref, false); err != nil {
		t.Fatal(err)
	}
	if ids := s.layers.ids(); len(ids) != 0 {
		t.Errorf("layers left: %v", ids)
	}
}

// TestMissingPlatform: the message says which there are, and does not say that there is no such image.
func TestMissingPlatform(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	arm := ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	r.tag("app:1", r.index(t, r.build(t, other, tarOf(t, file("a", "x"))), r.build(t, arm, tarOf(t, file("b", "x")))))
	_, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{Platform: &ocispec.Platform{OS: "linux", Architecture: "riscv64"}})
	if !errdefs.IsNotFound(err) || strings.Contains(err.Error(), "manifest unknown") {
		t.Errorf("%v", err)
	}
	for _, part := range []string{"no matching manifest for linux/riscv64", "linux/s390x, linux/arm/v7"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

// TestSecondPlatformFails: what came of a platform whose pull failed goes, the other stays.
func TestSecondPlatformFails(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	foreign := r.build(t, other, tarOf(t, file("own", "other")))
	r.tag("app:1", r.index(t, foreign, r.build(t, here, tarOf(t, file("own", "here")))))
	ref := r.host() + "/app:1"
	if _, err := s.Pull(ctx, ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	decode(t, r.blobs[foreign.Digest], &m)
	delete(r.blobs, m.Layers[0].Digest)
	if _, err := s.Pull(ctx, ref, PullOptions{Platform: &other}); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	if err := s.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if blobs, err := s.blobs(inNamespace(ctx)); err != nil || len(blobs) != 4 {
		t.Errorf("%d blobs, %v", len(blobs), err)
	}
	if img, err := s.Get(ctx, ref, nil); err != nil {
		t.Error(err)
	} else if _, err := s.Rootfs(ctx, img); err != nil {
		t.Error(err)
	}
}

// record keeps what a pull or load reports, by layer.
type record struct {
	mu   sync.Mutex
	list map[string][]Progress
}

func (r *record) add(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		r.list = map[string][]Progress{}
	}
	r.list[p.ID] = append(r.list[p.ID], p)
}

func (r *record) states(id string) (states []string) {
	for _, p := range r.list[id] {
		if len(states) == 0 || states[len(states)-1] != p.Status {
			states = append(states, p.Status)
		}
	}
	return states
}

// TestProgress: the states of a layer are docker's, in docker's order, and a bar ends full.
func TestProgress(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	target := r.build(t, here, tarOf(t, file("a", strings.Repeat("x", 1<<20))))
	r.tag("app:1", target)
	var m ocispec.Manifest
	decode(t, r.blobs[target.Digest], &m)
	layer := m.Layers[0]
	pulled := func() *record {
		seen := &record{}
		if _, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{Progress: seen.add}); err != nil {
			t.Fatal(err)
		}
		return seen
	}
	first := pulled()
	if got, want := first.states(short(layer.Digest)), []string{"Pulling fs layer", "Downloading", "Download complete", "Extracting", "Pull complete"}; !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	full := func(p Progress) bool {
		return p.Status == "Downloading" && p.Current == layer.Size && p.Total == layer.Size
	}
	if !slices.ContainsFunc(first.list[short(layer.Digest)], full) {
		t.Errorf("the bar never was full: %+v", first.list)
	}
	again := pulled()
	if got, want := again.states(short(layer.Digest)), []string{"Pulling fs layer", "Already exists"}; !slices.Equal(got, want) {
		t.Errorf("again:\n got %q\nwant %q", got, want)
	}
	// The blob is here, the unpacked layer is not, as after a crash of the machine.
	img, err := s.Get(ctx, r.host()+"/app:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.layers.take(img.Layers[0]); err != nil {
		t.Fatal(err)
	}
	unpacked := pulled()
	if got, want := unpacked.states(short(layer.Digest)), []string{"Pulling fs layer", "Extracting", "Pull complete"}; !slices.Equal(got, want) {
		t.Errorf("unpacked again:\n got %q\nwant %q", got, want)
	}
	if n := r.gets["/v2/app/blobs/"+layer.Digest.String()]; n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}
}

// TestWaiting: who finds a layer being fetched says so, and does not fetch it too.
func TestWaiting(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	target := r.build(t, here, tarOf(t, file("a", "x")))
	r.tag("app:1", target)
	var m ocispec.Manifest
	decode(t, r.blobs[target.Digest], &m)
	path := "/v2/app/blobs/" + m.Layers[0].Digest.String()
	waits := make(chan struct{})
	r.setHook(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path == path {
			<-waits
		}
		return false
	})
	var once sync.Once
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{Progress: func(p Progress) {
				if p.Status == "Waiting" {
					once.Do(func() { close(waits) })
				}
			}})
			errs <- err
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := r.gets[path]; n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}
}

// TestOpaqueRoot: a layer may hide all that is below it, which overlay does not know for a whole layer.
func TestOpaqueRoot(t *testing.T) {
	ctx, r, root := context.Background(), newRegistry(t), t.TempDir()
	s, err := Open(ctx, Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	r.tag("app:1", r.build(t, here, tarOf(t, file("old", "x")), tarOf(t, file(".wh..wh..opq", ""), file("new", "x")), tarOf(t, file("top", "x"))))
	img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"pulled", "opened again"} {
		want := fmt.Sprint([]string{s.layers.fs(img.Layers[2]), s.layers.fs(img.Layers[1])})
		if dirs, err := s.Rootfs(ctx, img); err != nil || fmt.Sprint(dirs) != want {
			t.Errorf("%s:\n got %v, %v\nwant %v", when, dirs, err, want)
		}
		if when == "pulled" {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = newStore(t, Options{Root: root})
		}
	}
}

// TestForeignIndex: an index without the host's platform is not pulled unasked, also if it has only one.
func TestForeignIndex(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	r.tag("app:1", r.index(t, r.build(t, other, tarOf(t, file("own", "other")))))
	ref := r.host() + "/app:1"
	if img, err := s.Pull(ctx, ref, PullOptions{}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no matching manifest for linux/") {
		t.Errorf("pulled %+v, %v", img, err)
	}
	if _, err := s.Pull(ctx, ref, PullOptions{Platform: &other}); err != nil {
		t.Errorf("asked for: %v", err)
	}
}
