package e2e

import (
	"archive/tar"
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestToolboxComesBack: the embedded image can be removed and pruned, and is there again for whoever asks for it.
func TestToolboxComesBack(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"gantry", "docker"} {
		for _, removal := range [][]string{{"rmi", "toolbox"}, {"image", "prune", "-af"}} {
			for _, request := range [][]string{
				{"run", "--rm", "toolbox", "echo", "here"},
				{"create", "--name", "made", "toolbox"},
				{"image", "inspect", "toolbox"},
				{"pull", "toolbox"},
				{"tag", "toolbox", "mine:1"},
				{"history", "toolbox:latest"},
				{"run", "--rm", "--pull", "always", "toolbox", "true"},
			} {
				must(t, command(name, d, removal...))
				if list := must(t, command(name, d, "images", "-aq")); list != "" {
					t.Fatalf("after %v: %s", removal, list)
				}
				must(t, command(name, d, request...))
				if request[0] == "create" {
					must(t, command(name, d, "rm", "made"))
				}
				if request[0] == "tag" {
					must(t, command(name, d, "rmi", "mine:1"))
				}
			}
		}
	}
	must(t, command("gantry", d, "rmi", "toolbox"))
	if r := command("gantry", d, "rmi", "toolbox"); r.code != 1 || !strings.Contains(r.err, "No such image: toolbox") {
		t.Errorf("removing it twice: exit %d, %s", r.code, r.err)
	}
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	if list := must(t, command("gantry", d, "images", "-aq")); list != "" {
		t.Errorf("a start brought it back: %s", list)
	}
}

// tableOf is what images prints, a "name:tag" each.
func tableOf(t *testing.T, r result) []string {
	t.Helper()
	list := strings.Fields(must(t, r))
	slices.Sort(list)
	return list
}

// TestImageNames: what images lists of an image with several names, and which of them rmi removes.
func TestImageNames(t *testing.T) {
	image := imageOf(t, archive(t, file("named"))).start(t)
	repository := strings.TrimSuffix(image, ":1")
	both(t, func(t *testing.T, do func(args ...string) result) {
		must(t, do("pull", image))
		t.Cleanup(func() { do("rmi", "-f", image) })
		for _, name := range []string{"names/app:1", "names/app:2", "names/other:1", "short-name:1"} {
			must(t, do("tag", image, name))
		}
		for pattern, want := range map[string][]string{
			"names/app":                      {"names/app:1", "names/app:2"},
			"names/app:2":                    {"names/app:2"},
			"names/*":                        {"names/app:1", "names/app:2", "names/other:1"},
			"docker.io/names/app":            {"names/app:1", "names/app:2"},
			"docker.io/names/other:1":        {"names/other:1"},
			"docker.io/library/short-name":   {"short-name:1"},
			"docker.io/library/short-name:1": {"short-name:1"},
			"docker.io/library/short-*":      {"short-name:1"},
			"short-name":                     {"short-name:1"},
			repository:                       {image},
			"names":                          nil,
			"names/app:3":                    nil,
		} {
			if got := tableOf(t, do("images", "--format", "{{.Repository}}:{{.Tag}}", pattern)); !slices.Equal(got, want) {
				t.Errorf("images %s: %v, want %v", pattern, got, want)
			}
		}
		digest := strings.TrimPrefix(must(t, do("image", "inspect", "-f", "{{.Id}}", image)), "sha256:")
		if r := do("rmi", digest); r.code != 1 || !strings.Contains(r.err, "image is referenced in multiple repositories") {
			t.Errorf("rmi by ID: exit %d, %s", r.code, r.err)
		}
		if got := must(t, do("rmi", "names/app@sha256:"+digest)); got != "Untagged: names/app:1\nUntagged: names/app:2" {
			t.Errorf("rmi names/app@: %s", got)
		}
		if got := must(t, do("rmi", "docker.io/names/other:1", "docker.io/library/short-name@sha256:"+digest)); got != "Untagged: names/other:1\nUntagged: short-name:1" {
			t.Errorf("rmi of full names: %s", got)
		}
		if got := must(t, do("rmi", repository+"@sha256:"+digest)); !strings.Contains(got, "Untagged: "+image) || !strings.Contains(got, "Deleted: sha256:"+digest) {
			t.Errorf("rmi of the last: %s", got)
		}
	})
}

// loaded is an archive of an image of these names and layers, as docker save writes it.
func savedImage(t *testing.T, names []string, layers ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name string, content []byte) {
		h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	var diffIDs, paths []string
	for i, layer := range layers {
		diffIDs = append(diffIDs, digestOf(layer))
		paths = append(paths, string(rune('a'+i))+"/layer.tar")
		add(paths[i], layer)
	}
	add("config.json", encoded(t, map[string]any{"os": "linux", "architecture": "amd64", "config": map[string]any{}, "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}}))
	add("manifest.json", encoded(t, []map[string]any{{"Config": "config.json", "RepoTags": names, "Layers": paths}}))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestLoadCompressed: load reads archives of every compression that Docker documents, tells the archive's names only, and
// names the compression of one that is cut.
func TestLoadCompressed(t *testing.T) {
	unchanged(t, shared)
	plain := savedImage(t, []string{"packed:1"}, archive(t, file("packed")))
	for _, program := range []string{"gzip", "bzip2", "xz", "zstd"} {
		cmd := exec.Command(program, "-c")
		cmd.Stdin = bytes.NewReader(plain)
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		path := filepath.Join(t.TempDir(), "image.tar."+program)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cut := path + ".cut"
		if err := os.WriteFile(cut, text[:len(text)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		both(t, func(t *testing.T, do func(args ...string) result) {
			if r := do("load", "-i", cut); r.code != 1 || !strings.Contains(r.err, "the "+program+" data is ") {
				t.Errorf("%s, cut: exit %d, %s", program, r.code, r.err)
			}
			must(t, do("load", "-i", path))
			must(t, do("tag", "packed:1", "packed:2"))
			if got := must(t, do("load", "-i", path)); !strings.Contains(got, "Loaded image: packed:1") || strings.Contains(got, "packed:2") {
				t.Errorf("%s: %s", program, got)
			}
			must(t, do("rmi", "packed:1", "packed:2"))
		})
	}
}

// TestRegistryTextIsHarmless: control characters in a registry's error reach neither client's terminal.
func TestRegistryTextIsHarmless(t *testing.T) {
	unchanged(t, shared)
	g := imageOf(t, archive(t, file("harmless")))
	g.wrap = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				return
			}
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"\u001b[2J\u001b]0;title\u0007pay here\u009b31m\u202e"}]}`))
		})
	}
	image := g.start(t)
	both(t, func(t *testing.T, do func(args ...string) result) {
		r := do("pull", image)
		if r.code != 1 || !strings.Contains(r.err, "pay here") {
			t.Errorf("exit %d: %q", r.code, r.err)
		}
		for _, c := range r.out + r.err {
			if c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 || c == 0x202e {
				t.Errorf("%q has %q", r.out+r.err, c)
			}
		}
	})
}

// TestImpliedInContainer: a container sees what layers without entries for their directories mean: links are followed,
// and a directory keeps its mode and owner.
func TestImpliedInContainer(t *testing.T) {
	export := filepath.Join(t.TempDir(), "toolbox.tar")
	id := must(t, command("gantry", shared, "create", "toolbox"))
	r := command("gantry", shared, "export", "-o", export, id)
	must(t, command("gantry", shared, "rm", id))
	must(t, r)
	base, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	sticky := tar.Header{Name: "sticky/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 7, Gid: 8}
	layers := [][]byte{base, archive(t, link("merged", "bin"), sticky), archive(t, file("merged/hello"), file("./sticky/x"), hard("merged/again", "merged/hello"))}
	path := filepath.Join(t.TempDir(), "implied.tar")
	if err := os.WriteFile(path, savedImage(t, []string{"implied:1"}, layers...), 0o600); err != nil {
		t.Fatal(err)
	}
	both(t, func(t *testing.T, do func(args ...string) result) {
		must(t, do("load", "-i", path))
		defer func() { must(t, do("rmi", "implied:1")) }()
		got := must(t, do("run", "--rm", "implied:1", "sh", "-c", "ls /bin/hello /bin/again /merged/hello /sticky/x && ls -ld /sticky && test -L /merged && echo still a link"))
		for _, part := range []string{"/bin/hello", "/bin/again", "/merged/hello", "/sticky/x", "still a link"} {
			if !strings.Contains(got, part) {
				t.Errorf("%q is not in %q", part, got)
			}
		}
		if !strings.Contains(got, "drwxrwxrwt") && !strings.Contains(got, "dtrwxrwxrwx") {
			t.Errorf("the mode of /sticky: %q", got)
		}
	})
}

// TestKilledTransfers: an engine that is killed while a pull and a load are under way leaves nothing of them for the next.
func TestKilledTransfers(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	})
	images := filepath.Join(d.dir, "root", "images")
	count := func(pattern string) int {
		list, err := filepath.Glob(filepath.Join(images, pattern))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	must(t, command("gantry", d, "image", "prune", "-f")) // with what a load leaves to the next collection
	blobs, layers := count("content/blobs/sha256/*"), count("layers/*")

	stop := make(chan struct{})
	g := imageOf(t, archive(t, file("slow")))
	g.serve = func(w http.ResponseWriter, _ *http.Request, body []byte) {
		if !bytes.Equal(body, g.layer) {
			_, _ = w.Write(body)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		<-stop
	}
	pull := client(t.Context(), "gantry", d, "pull", g.start(t))
	t.Cleanup(func() { close(stop) }) // before the registry's end
	load := client(t.Context(), "docker", d, "load")
	input, err := load.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []*exec.Cmd{pull, load} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	plain := savedImage(t, []string{"killed:1"}, archive(t, file("killed")), bytes.Repeat([]byte("x"), 1<<20))
	if _, err := input.Write(plain[:len(plain)/2]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a layer is being unpacked, and blobs are coming in", func() bool { return count("layers/tmp-*") > 0 && count("content/ingest/*") >= 2 })
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	_ = input.Close() // the load has failed
	for _, cmd := range []*exec.Cmd{pull, load} {
		if err := cmd.Wait(); err == nil {
			t.Errorf("%v succeeded", cmd.Args)
		}
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	if n := count("content/ingest/*"); n != 0 {
		t.Errorf("%d directories in content/ingest", n)
	}
	must(t, command("gantry", d, "image", "prune", "-f"))
	if b, l := count("content/blobs/sha256/*"), count("layers/*"); b != blobs || l != layers {
		t.Errorf("%d blobs and %d layers, before %d and %d", b, l, blobs, layers)
	}
	if list := must(t, command("gantry", d, "images", "--format", "{{.Repository}}")); list != "toolbox" {
		t.Errorf("images: %s", list)
	}
}
