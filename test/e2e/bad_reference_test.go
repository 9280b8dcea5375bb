package e2e

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// anyManifest answers every request for a manifest with one body, whatever is asked for.
func anyManifest(media string, body func() []byte) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", media)
			w.Header().Set("Content-Length", fmt.Sprint(len(body())))
			if r.Method != http.MethodHead {
				_, _ = w.Write(body())
			}
		})
	}
}

// TestBadReferences pulls by a digest that the registry answers with something else, and indexes that lead nowhere.
func TestBadReferences(t *testing.T) {
	const oci = "application/vnd.oci.image."
	index := func(entries ...map[string]any) []byte {
		return encoded(t, map[string]any{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": entries})
	}
	entry := func(digest string, size int, platform string) map[string]any {
		return map[string]any{"mediaType": oci + "manifest.v1+json", "digest": digest, "size": size, "platform": map[string]any{"os": "linux", "architecture": platform}}
	}
	other := "sha256:" + strings.Repeat("2", 64)
	for _, c := range []struct {
		name, suffix, message, media string
		body                         func(g *registry) []byte
	}{
		{"another manifest", "@" + other, "", oci + "manifest.v1+json", func(g *registry) []byte { return g.manifest }},
		{"no such digest", "@" + other, "not found", "", nil},
		{"other platforms only", ":1", "s390x", oci + "index.v1+json", func(g *registry) []byte {
			return index(entry(digestOf(g.manifest), len(g.manifest), "s390x"), entry(digestOf(g.manifest), len(g.manifest), "ppc64le"))
		}},
		{"no platform", ":1", "", oci + "index.v1+json", func(*registry) []byte { return index() }},
		{"missing manifest", ":1", other[:19], oci + "index.v1+json", func(g *registry) []byte { return index(entry(other, 500, runtime.GOARCH)) }},
		{"index in an index", ":1", "", oci + "index.v1+json", func(*registry) []byte {
			e := entry(other, 500, runtime.GOARCH)
			e["mediaType"] = oci + "index.v1+json"
			return index(e)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			unchanged(t, shared)
			g := imageOf(t, archive(t, file("reference")))
			if c.body != nil {
				g.wrap = anyManifest(c.media, func() []byte { return c.body(g) })
			}
			image := strings.TrimSuffix(g.start(t), ":1") + c.suffix
			both(t, func(t *testing.T, do func(args ...string) result) {
				if r := do("pull", image); r.code != 1 || !strings.Contains(r.err, strings.TrimSuffix(image, ":1")) || !strings.Contains(r.err, c.message) {
					t.Errorf("exit %d: %s; want a word about %q", r.code, r.err, c.message)
				}
			})
		})
	}
}
