package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// registry serves one image "evil:1", whose parts a test has spoiled.
type registry struct {
	manifest []byte
	layer    []byte                                                    // the last one, packed
	blobs    map[string][]byte                                         // by digest
	wrap     func(next http.Handler) http.Handler                      // what else is wrong; may be nil
	serve    func(w http.ResponseWriter, r *http.Request, body []byte) // how a body is sent; nil: as it is
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// imageOf makes a good image of layers, which are plain archives.
func imageOf(t *testing.T, layers ...[]byte) *registry {
	t.Helper()
	g := &registry{blobs: map[string][]byte{}}
	var diffIDs []string
	list := []map[string]any{}
	for _, layer := range layers {
		diffIDs = append(diffIDs, digestOf(layer))
		g.layer = packed(t, layer)
		g.blobs[digestOf(g.layer)] = g.layer
		list = append(list, map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digestOf(g.layer), "size": len(g.layer)})
	}
	config := encoded(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Cmd": []string{"/x"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	g.blobs[digestOf(config)] = config
	g.manifest = encoded(t, map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": list,
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digestOf(config), "size": len(config)},
	})
	return g
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func packed(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	if _, err := zip.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// archive packs entries as they are, whatever they are called.
func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "evil\n"
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
func link(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}

func hard(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
}

// start serves the registry and returns the image's name.
func (g *registry) start(t *testing.T) string {
	t.Helper()
	var handler http.Handler = http.HandlerFunc(g.answer)
	if g.wrap != nil {
		handler = g.wrap(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return strings.TrimPrefix(server.URL, "http://") + "/evil:1"
}

func (g *registry) answer(w http.ResponseWriter, r *http.Request) {
	var body []byte
	switch path := r.URL.Path; {
	case path == "/v2/":
		return
	case path == "/v2/evil/manifests/1" || path == "/v2/evil/manifests/"+digestOf(g.manifest):
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", digestOf(g.manifest))
		body = g.manifest
	case strings.HasPrefix(path, "/v2/evil/blobs/") && g.blobs[path[len("/v2/evil/blobs/"):]] != nil:
		body = g.blobs[path[len("/v2/evil/blobs/"):]]
		w.Header().Set("Content-Type", "application/octet-stream")
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`))
		return
	}
	if g.serve != nil {
		g.serve(w, r, body)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// status answers everything but the ping with a status.
func status(code int, body string) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				w.WriteHeader(code)
				_, _ = w.Write([]byte(body))
			}
		})
	}
}

// blobs spoils every blob on its way.
func blobs(spoil func(w http.ResponseWriter, body []byte)) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, r *http.Request, body []byte) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			spoil(w, body)
			return
		}
		_, _ = w.Write(body)
	}
}

// badRegistries are registries and images that cannot be pulled, and what the message must tell of besides the image's name.
func badRegistries(t *testing.T) []badRegistry {
	number := 0
	with := func(spoil func(g *registry)) *registry { // each has a layer of its own, so that none is here already
		number++
		g := imageOf(t, archive(t, file(fmt.Sprint("x", number))))
		spoil(g)
		return g
	}
	answering := func(code int, body string) *registry { return with(func(g *registry) { g.wrap = status(code, body) }) }
	manifest := func(text []byte) *registry { return with(func(g *registry) { g.manifest = text }) }
	edited := func(old func(g *registry) string, new string) *registry {
		return with(func(g *registry) { g.manifest = []byte(strings.Replace(string(g.manifest), old(g), new, 1)) })
	}
	sent := func(spoil func(w http.ResponseWriter, body []byte)) *registry {
		return with(func(g *registry) { g.serve = blobs(spoil) })
	}
	layer := func(spoil func(b []byte) []byte) *registry {
		return with(func(g *registry) { g.replaceLayer(spoil(g.layer)) })
	}
	text := func(s string) func(*registry) string { return func(*registry) string { return s } }
	digest := func(g *registry) string { return digestOf(g.layer) }
	size := func(g *registry) string { return fmt.Sprintf(`"size":%d}]`, len(g.layer)) }
	unknown := "sha256:" + strings.Repeat("1", 64)
	return []badRegistry{
		{"unknown image", answering(404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`), "not found"},
		{"server error", answering(500, "oops"), "500"},
		{"no access", answering(401, ""), "pull access denied"},
		{"forbidden", answering(403, ""), "403"},
		{"teapot", answering(418, "<html>"), "418"},
		{"not a registry", answering(200, "<html>hello</html>"), ""},
		{"endless redirect", with(func(g *registry) { g.wrap = redirect }), "redirect"},
		{"empty manifest", manifest([]byte{}), ""},
		{"broken manifest", manifest([]byte(`{"schemaVersion":2,`)), "JSON"},
		{"array as manifest", manifest([]byte(`[]`)), ""},
		{"empty object", manifest([]byte(`{}`)), ""},
		{"deep manifest", manifest(bytes.Repeat([]byte(`{"a":`), 300_000)), ""},
		{"huge manifest", manifest(bytes.Repeat([]byte(" "), 64<<20)), "manifest"},
		{"schema 1", manifest([]byte(`{"schemaVersion":1,"name":"evil","tag":"1","fsLayers":[]}`)), ""},
		{"negative size", edited(size, `"size":-1}]`), "-1"},
		{"too large a size", edited(size, `"size":4611686018427387904}]`), ""},
		{"wrong size", edited(size, `"size":7}]`), "7"},
		{"malformed digest", edited(digest, "sha256:../../../etc/passwd"), "sha256:../../../etc/passwd"},
		{"unknown hash", edited(digest, "md5:"+strings.Repeat("0", 32)), "md5"},
		{"missing layer", edited(digest, unknown), unknown[:19]},
		{"foreign layer", edited(text("vnd.oci.image.layer.v1.tar+gzip"), "vnd.evil"), "vnd.evil"},
		{"another configuration", edited(func(g *registry) string { return configOf(t, g.manifest) }, unknown), unknown[:19]},
		{"wrong digest", sent(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(append([]byte{b[0] ^ 1}, b[1:]...)) }), "digest"},
		{"truncated blobs", sent(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(b[:len(b)/2]) }), ""},
		{"broken off", sent(breakOff), ""},
		{"longer blobs", sent(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(append(bytes.Clone(b), b...)) }), ""},
		{"empty blobs", sent(func(http.ResponseWriter, []byte) {}), ""},
		{"server error later", sent(func(w http.ResponseWriter, _ []byte) { w.WriteHeader(500) }), "500"},
		{"truncated gzip", layer(func(b []byte) []byte { return b[:len(b)-20] }), "layer"},
		{"no gzip", layer(func([]byte) []byte { return []byte("this is no gzip stream") }), "layer"},
		{"no archive", layer(func([]byte) []byte { return packed(t, bytes.Repeat([]byte("no archive "), 1000)) }), "layer"},
		{"another layer", layer(func([]byte) []byte { return packed(t, archive(t, file("another"))) }), "digest"},
		{"truncated archive", imageOf(t, archive(t, file("x"), file("y"))[:1300]), "layer"},
		{"too many layers", manyLayers(t), "layers"},
	}
}

type badRegistry struct {
	name     string
	registry *registry
	message  string
}

// replaceLayer serves another blob under a digest of its own in place of the image's last layer.
func (g *registry) replaceLayer(b []byte) {
	text := strings.Replace(string(g.manifest), digestOf(g.layer), digestOf(b), 1)
	g.manifest = []byte(strings.Replace(text, fmt.Sprintf(`"size":%d}]`, len(g.layer)), fmt.Sprintf(`"size":%d}]`, len(b)), 1))
	g.blobs[digestOf(b)] = b
}

func configOf(t *testing.T, manifest []byte) string {
	t.Helper()
	var m struct{ Config struct{ Digest string } }
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	return m.Config.Digest
}

func breakOff(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body[:len(body)/2])
	panic(http.ErrAbortHandler)
}

func redirect(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}
	})
}

func manyLayers(t *testing.T) *registry {
	layers := make([][]byte, 2000)
	for i := range layers {
		layers[i] = archive(t, file("x"))
	}
	return imageOf(t, layers...)
}

func TestBadRegistries(t *testing.T) {
	alive(t, shared)
	for _, c := range badRegistries(t) {
		t.Run(c.name, func(t *testing.T) {
			unchanged(t, shared)
			image := c.registry.start(t)
			both(t, func(t *testing.T, do func(args ...string) result) {
				for code, args := range map[int][]string{125: {"run", "--rm", image}, 1: {"pull", image}} {
					r := do(args...)
					if r.code != code {
						t.Errorf("%s: exit %d, want %d: %s", args[0], r.code, code, r.err)
					}
					if !strings.Contains(r.err, strings.TrimSuffix(image, ":1")) || !strings.Contains(r.err, c.message) || len(r.err) > 3000 {
						t.Errorf("%s: %q does not tell of the image and %q", args[0], short(r.err), c.message)
					}
				}
			})
		})
	}
	alive(t, shared)
}

// TestUnreachableRegistry asks where nobody listens, and where somebody does and is silent: then the user's patience ends it.
func TestBadUnreachableRegistry(t *testing.T) {
	unchanged(t, shared)
	both(t, func(t *testing.T, do func(args ...string) result) {
		if r := do("run", "--rm", "127.0.0.1:1/evil:1"); r.code != 125 || !strings.Contains(r.err, "127.0.0.1:1") || !strings.Contains(r.err, "connection refused") {
			t.Errorf("nobody listens: exit %d: %s", r.code, r.err)
		}
		if r := do("pull", "no-such-host.invalid/evil:1"); r.code != 1 || !strings.Contains(r.err, "no-such-host.invalid") {
			t.Errorf("no such host: exit %d: %s", r.code, r.err)
		}
		for name, part := range map[string]string{"silent": "/v2/", "silent about blobs": "/v2/evil/blobs/"} {
			asked, free := make(chan struct{}, 1000), make(chan struct{})
			g := imageOf(t, archive(t, file("x")))
			g.wrap = func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, part) {
						asked <- struct{}{}
						select {
						case <-r.Context().Done():
						case <-free:
						}
						return
					}
					next.ServeHTTP(w, r)
				})
			}
			image := g.start(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			client := client(ctx, clientName(t), shared, "pull", image)
			if err := client.Start(); err != nil {
				t.Fatal(err)
			}
			<-asked
			if err := client.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
			if err := client.Wait(); err == nil {
				t.Errorf("%s: the interrupted client ended well", name)
			}
			cancel()
			close(free)
		}
	})
	alive(t, shared)
}

// evilLayers try to reach out of the image's root to the directory that stands for the host, by every kind of name.
func evilLayers(t *testing.T, host string) map[string][][]byte {
	up := strings.Repeat("../", 30) + strings.TrimPrefix(host, "/")
	one := func(entries ...tar.Header) [][]byte { return [][]byte{archive(t, entries...)} }
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	return map[string][][]byte{
		"dots":                     one(file(up + "/evil")),
		"dots below a directory":   one(dir("a"), file("a/"+up+"/evil")),
		"absolute":                 one(file(host + "/evil")),
		"link to the host":         one(link("a", host), file("a/evil")),
		"link by dots":             one(link("a", up), file("a/evil")),
		"link of links":            one(link("a", "b"), link("b", "c"), link("c", up), file("a/evil")),
		"link over two layers":     {archive(t, link("a", up)), archive(t, file("a/evil"))},
		"directory through a link": one(link("a", up), dir("a/evil")),
		"link replaced by a file":  one(link("evil", up+"/kept"), file("evil")),
		"file onto a link":         {archive(t, link("evil", up+"/kept")), archive(t, file("evil"))},
		"hard link to the host":    one(hard("evil", host+"/kept"), file("evil")),
		"hard link by dots":        one(hard("evil", up+"/kept"), file("evil")),
		"hard link through a link": one(link("a", up), hard("evil", "a/kept"), file("evil")),
		"hard link to a link":      one(link("a", up+"/kept"), hard("evil", "a"), file("evil")),
		"hard link out":            one(file("x"), hard(up+"/evil", "x")),
		"link out":                 one(link(up+"/evil", "x")),
		"magic link":               one(link("a", "/proc/self/root"), file("a/"+host+"/evil")),
		"working directory":        one(link("a", "/proc/self/cwd"), file("a/evil")),
		"whiteout of dots":         one(file(".wh..."), file(".wh..")),
		"whiteout through a link":  {archive(t, link("a", up)), archive(t, file("a/.wh.kept"))},
		"whiteout by dots":         one(file(up + "/.wh.kept")),
		"opaque through a link":    {archive(t, link("a", up)), archive(t, file("a/.wh..wh..opq"))},
		"opaque by dots":           one(file(up + "/.wh..wh..opq")),
		"mode through a link":      {archive(t, link("a", up)), archive(t, tar.Header{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o777, Uid: 77})},
		"root replaced":            one(link(".", host), file("evil")),
		"root as a file":           one(file(".")),
		"device out":               one(tar.Header{Name: up + "/evil", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		"pipe out":                 one(tar.Header{Name: up + "/evil", Typeflag: tar.TypeFifo}),
		"attributes out":           one(link("a", up), tar.Header{Name: "a/kept", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.evil": "x"}, Format: tar.FormatPAX}),
		"file below a file":        one(file("a"), file("a/b")),
		"very deep":                one(file(strings.Repeat("d/", 3000) + "evil")),
		"very long":                one(file(strings.Repeat("n", 300))),
	}
}

// TestBadLayers pulls layers that reach for the host. They may be refused or stay inside; the host stays as it is.
func TestBadLayers(t *testing.T) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "kept"), []byte("kept\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	before := hostState(t, host)
	for what, layers := range evilLayers(t, host) {
		t.Run(what, func(t *testing.T) {
			unchanged(t, shared)
			image := imageOf(t, layers...).start(t)
			r := command("gantry", shared, "pull", image)
			switch r.code {
			case 0:
				must(t, command("gantry", shared, "rmi", image))
			case 1:
				if !strings.Contains(r.err, strings.TrimSuffix(image, ":1")) || !strings.Contains(r.err, "layer sha256:") || strings.Contains(r.err, "reached") {
					t.Errorf("%q does not tell of the image and its layer", r.err)
				}
			default:
				t.Errorf("exit %d: %s", r.code, r.err)
			}
			if after := hostState(t, host); after != before {
				t.Errorf("the host's directory was %q and is %q", before, after)
			}
		})
	}
	alive(t, shared)
}

// hostState describes a directory: names, modes, owners, attributes and contents.
func hostState(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v %v;", path, info.Mode(), info.ModTime().Round(time.Hour))
		if info.Mode().IsRegular() {
			b.WriteString(read(t, path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
