package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layerOf packs files with their content.
func layerOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// stacked serves an image of toolbox with layers on top of it, the last of which replaces files of the first. Each one
// has a file of its own, and the file "all".
func stacked(t *testing.T, count int) string {
	t.Helper()
	id := must(t, command("gantry", shared, "create", "toolbox"))
	defer command("gantry", shared, "rm", id)
	base := command("gantry", shared, "export", id)
	if base.code != 0 {
		t.Fatal(base.err)
	}
	layers := [][]byte{[]byte(base.out)}
	for i := 1; i < count; i++ {
		files := map[string]string{fmt.Sprint("layers/", i): fmt.Sprint(i), "all": fmt.Sprint(i)}
		if i == count-1 {
			files["etc/passwd"] = "root:x:0:0:root:/root:/bin/sh\ntop:x:1234:1234::/top:/bin/sh\n"
			if i > 1 {
				files["layers/.wh.1"] = ""
			}
		}
		layers = append(layers, layerOf(t, files))
	}
	return imageOf(t, layers...).start(t)
}

// TestLayers runs images of one, two and very many layers, also where the paths of the layers are longer than the kernel
// takes in one piece, and looks at their files in every way that there is.
func TestLayers(t *testing.T) {
	for _, tt := range []struct {
		name, below string
	}{
		{"root", ""},
		{"a long root", strings.Repeat("a-directory-with-a-long-name/", 9) + "root"},
		{"a root with special characters", `a:b,c\d/root`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			d := &daemon{dir: dir, host: "unix://" + filepath.Join(dir, "run", "gantry.sock")}
			if tt.below != "" {
				d.root = filepath.Join(dir, tt.below)
			}
			if err := d.start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.remove(); err != nil {
					t.Error(err)
				}
			}()
			for _, count := range []int{1, 2, 127} {
				t.Run(fmt.Sprint(count), func(t *testing.T) { useLayers(t, d, stacked(t, count), count) })
			}
		})
	}
}

func useLayers(t *testing.T, d *daemon, image string, count int) {
	do := func(args ...string) result { return command("gantry", d, args...) }
	must(t, do("pull", image))
	defer do("rmi", "-f", image)
	top := fmt.Sprint(count - 1)
	wantAll := top
	if count == 1 {
		wantAll = ""
	}
	if got := must(t, do("run", "--rm", image, "sh", "-c", "cat /all 2>/dev/null; true")); got != wantAll {
		t.Errorf("the topmost file is %q, want %q", got, wantAll)
	}
	if plan := must(t, do("run", "--plan", image, "true")); !strings.Contains(plan, "attach the root") {
		t.Errorf("--plan: %s", plan)
	}
	if count > 1 {
		if got := must(t, do("run", "--rm", "-u", "top", image, "sh", "-c", "id -u; echo $HOME")); got != "1234\n/top" {
			t.Errorf("a user of the topmost layer: %q", got)
		}
		if got := must(t, do("run", "--rm", image, "sh", "-c", "ls /layers | wc -l")); got != fmt.Sprint(max(count-2, 1)) {
			t.Errorf("%s files of layers, want %d", got, max(count-2, 1))
		}
	}
	dir := t.TempDir()
	writeText(t, dir+"/in", "from the host")
	name := fmt.Sprint("layers", count)
	must(t, do("create", "--name", name, image, "sleep", "1000"))
	defer do("rm", "-f", name)
	for _, state := range []string{"created", "running", "exited"} {
		if state == "running" {
			must(t, do("start", name))
			must(t, do("exec", name, "sh", "-c", "echo inside >/made; rm /bin/true"))
		} else if state == "exited" {
			must(t, do("stop", "-t", "0", name))
		}
		must(t, do("cp", dir+"/in", name+":/copied-"+state))
		must(t, do("cp", name+":/copied-"+state, dir+"/out-"+state))
		if got := readText(t, dir+"/out-"+state); got != "from the host" {
			t.Errorf("%s: copied %q", state, got)
		}
		must(t, do("cp", name+":/etc/passwd", dir+"/passwd-"+state))
		if got := readText(t, dir+"/passwd-"+state); strings.Contains(got, "top:") != (count > 1) {
			t.Errorf("%s: copied passwd: %q", state, got)
		}
		want := []string{"A /copied-created"}
		if state != "created" {
			want = []string{"A /copied-created", "A /copied-running", "A /made", "C /bin", "D /bin/true"}
		}
		if state == "exited" {
			want = []string{"A /copied-created", "A /copied-exited", "A /copied-running", "A /made", "C /bin", "D /bin/true"}
		}
		got := strings.Split(must(t, do("diff", name)), "\n")
		slices.Sort(got)
		if !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s: diff is %q, want %q", state, got, want)
		}
		exported := exportedFiles(t, do, name)
		for file, want := range map[string]bool{"bin/sh": true, "bin/true": state == "created", "copied-" + state: true, "all": count > 1, "layers/1": count == 2, "layers/" + top: count > 1, "made": state != "created"} {
			if exported[file] != want {
				t.Errorf("%s: %s is in the export: %v, want %v", state, file, exported[file], want)
			}
		}
	}
}

func exportedFiles(t *testing.T, do func(args ...string) result, name string) map[string]bool {
	t.Helper()
	r := do("export", name)
	if r.code != 0 {
		t.Fatalf("export: %s", r.err)
	}
	found := map[string]bool{}
	for archive := tar.NewReader(strings.NewReader(r.out)); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[strings.TrimPrefix(h.Name, "./")] = true
	}
}
