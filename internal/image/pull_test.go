package image

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	timeZero time.Time
	here     = ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	other    = ocispec.Platform{OS: "linux", Architecture: "s390x"}
)

func TestPullUseRemove(t *testing.T) {
	ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
	lower, upper := tarOf(t, dir("etc"), file("etc/a", "low"), file("etc/b", "b")), tarOf(t, file("etc/a", "top"), file("etc/.wh.b", ""))
	r.tag("app:1", r.build(t, here, lower, upper))
	img, err := s.Pull(ctx, r.host()+"/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{r.host() + "/app:1"}; !slices.Equal(img.Names, want) || !slices.Equal(img.Config.Config.Cmd, []string{"/bin/sh"}) {
		t.Errorf("names %q, command %q", img.Names, img.Config.Config.Cmd)
	}
	dirs, err := s.Rootfs(ctx, img)
	if err != nil || len(dirs) != 2 {
		t.Fatalf("rootfs: %q, %v", dirs, err)
	}
	if text, err := os.ReadFile(filepath.Join(dirs[0], "etc/a")); string(text) != "top" {
		t.Errorf("topmost first: %q, %v", text, err)
	}
	for _, ref := range []string{img.ID.String(), img.ID.Encoded()[:8], r.host() + "/app@" + img.ID.String()} {
		if got, err := s.Get(ctx, ref, nil); err != nil || got.ID != img.ID {
			t.Errorf("get %s: %v", ref, err)
		}
	}
	if tagged, err := s.Tag(ctx, r.host()+"/app:1", "second"); err != nil || !slices.Contains(tagged.Names, "docker.io/library/second:latest") {
		t.Fatalf("tag: %+v, %v", tagged, err)
	}
	if _, err := s.Remove(ctx, img.ID.String(), false); !errdefs.IsConflict(err) {
		t.Errorf("remove an image of two names by its ID: %v", err)
	}
	if gone, err := s.Remove(ctx, "second", false); err != nil || len(gone) != 1 || gone[0].Untagged == "" {
		t.Errorf("untag: %v, %v", gone, err)
	}
	if err := s.Hold(ctx, "c1", img); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(ctx, img.ID.String(), false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove a held image: %v", err)
	}
	if err := s.Release(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	if gone, err := s.Remove(ctx, img.ID.String(), false); err != nil || len(gone) != 2 || gone[1].Deleted != img.ID.String() {
		t.Errorf("remove: %v, %v", gone, err)
	}
	if _, err := os.Stat(dirs[0]); !os.IsNotExist(err) {
		t.Errorf("the layer is still there: %v", err)
	}
	if blobs, err := s.blobs(inNamespace(ctx)); err != nil || len(blobs) != 0 {
		t.Errorf("blobs left: %v, %v", blobs, err)
	}
}

// TestPullRefuses: what a registry answers wrongly leaves nothing behind and has the class that the API needs.
func TestPullRefuses(t *testing.T) {
	status := func(code int, part string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, q *http.Request) bool {
			if strings.Contains(q.URL.Path, part) {
				w.WriteHeader(code)
				return true
			}
			return false
		}
	}
	for name, c := range map[string]struct {
		ref   string
		spoil func(t *testing.T, r *registry, m ocispec.Manifest)
		is    func(error) bool
		says  string
	}{
		"unknown name":     {ref: "/none:1", is: errdefs.IsNotFound, says: "not found"},
		"bad reference":    {ref: "/UPPER:1", is: errdefs.IsInvalidArgument, says: "invalid reference format"},
		"needs a login":    {spoil: func(_ *testing.T, r *registry, _ ocispec.Manifest) { r.setHook(status(401, "/v2/")) }, is: errdefs.IsUnauthorized, says: "denied"},
		"forbidden":        {spoil: func(_ *testing.T, r *registry, _ ocispec.Manifest) { r.setHook(status(403, "/v2/")) }, is: errdefs.IsUnauthorized, says: "denied"},
		"unreachable":      {spoil: func(_ *testing.T, r *registry, _ ocispec.Manifest) { r.Close() }, is: errdefs.IsUnavailable, says: "cannot be reached"},
		"missing layer":    {spoil: func(_ *testing.T, r *registry, m ocispec.Manifest) { delete(r.blobs, m.Layers[0].Digest) }, is: errdefs.IsNotFound, says: "layer sha256:"},
		"wrong layer":      {spoil: func(t *testing.T, r *registry, m ocispec.Manifest) { r.blobs[m.Layers[0].Digest] = same(t, r, m) }, is: errdefs.IsInvalidArgument, says: "mismatch"},
		"truncated layer":  {spoil: func(_ *testing.T, r *registry, m ocispec.Manifest) { cut(r, m.Layers[0], 20) }, is: anyError, says: "layer sha256:"},
		"truncated config": {spoil: func(_ *testing.T, r *registry, m ocispec.Manifest) { cut(r, m.Config, 2) }, is: anyError, says: "fetch sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r, s := context.Background(), newRegistry(t), newStore(t, Options{})
			target := r.build(t, here, tarOf(t, file("a", strings.Repeat("some content ", 50))))
			r.tag("app:1", target)
			var m ocispec.Manifest
			decode(t, r.blobs[target.Digest], &m)
			if c.spoil != nil {
				c.spoil(t, r, m)
			}
			if c.ref == "" {
				c.ref = "/app:1"
			}
			_, err := s.Pull(ctx, r.host()+c.ref, PullOptions{})
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want %q, got %v", c.says, err)
			}
			if left, err := os.ReadDir(s.layers.dir); err != nil || len(left) != 0 {
				t.Errorf("left in the layers' directory: %v, %v", left, err)
			}
			if err := s.Collect(ctx); err != nil {
				t.Error(err)
			}
			if blobs, err := s.blobs(inNamespace(ctx)); err != nil || len(blobs) != 0 {
				t.Errorf("blobs left: %v, %v", blobs, err)
			}
		})
	}
}

func decode(t testing.TB, text []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

func anyError(err error) bool { return err != nil }

func cut(r *registry, d ocispec.Descriptor, n int) {
	r.blobs[d.Digest] = r.blobs[d.Digest][:len(r.blobs[d.Digest])-n]
}

// same is another blob of the same size and content.
func same(t *testing.T, r *registry, m ocispec.Manifest) []byte {
	t.Helper()
	text := slices.Clone(r.blobs[m.Layers[0].Digest])
	text[4] ^= 1 // the time in gzip's header: the content is the same, the blob is not
	return text
}
