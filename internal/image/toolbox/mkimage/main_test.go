package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// scripts stand for the programs: they list applets.
const (
	allScript  = "#!/bin/sh\necho sh cat true\n"
	coreScript = "#!/bin/sh\necho cat true\n"
	bareText   = "gantry-init"
)

func programs(t *testing.T, arch string) settings {
	t.Helper()
	dir := t.TempDir()
	s := settings{arch: arch, toolbox: filepath.Join(dir, "all"), core: filepath.Join(dir, "core"), bare: filepath.Join(dir, "bare"), output: filepath.Join(dir, "out", "image.tar")}
	for path, text := range map[string]string{s.toolbox: allScript, s.core: coreScript, s.bare: bareText} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Dir(s.output), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// untar returns headers and contents by name.
func untar(t *testing.T, r io.Reader) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		if headers[h.Name] != nil {
			t.Fatalf("%s is there twice", h.Name)
		}
		headers[h.Name] = h
		if contents[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, content []byte, value any) {
	t.Helper()
	if err := json.Unmarshal(content, value); err != nil {
		t.Fatalf("%v in %q", err, content)
	}
}

func TestLayout(t *testing.T) {
	s := programs(t, runtime.GOARCH)
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(s.output)
	if err != nil {
		t.Fatal(err)
	}
	_, files := untar(t, bytes.NewReader(content))
	blob := func(d v1.Descriptor) []byte {
		t.Helper()
		found, ok := files["blobs/sha256/"+d.Digest.Encoded()]
		if !ok || int64(len(found)) != d.Size || digest.FromBytes(found) != d.Digest {
			t.Fatalf("blob %s (%d bytes): present %v, %d bytes", d.Digest, d.Size, ok, len(found))
		}
		return found
	}
	var layout v1.ImageLayout
	decode(t, files["oci-layout"], &layout)
	if layout.Version != "1.0.0" {
		t.Errorf("version %q", layout.Version)
	}
	var index v1.Index
	decode(t, files["index.json"], &index)
	if len(index.Manifests) != 1 {
		t.Fatalf("%d manifests", len(index.Manifests))
	}
	named := index.Manifests[0].Annotations
	if named["io.containerd.image.name"] != "docker.io/library/toolbox:latest" || named[v1.AnnotationRefName] != "latest" {
		t.Errorf("annotations %v", named)
	}
	var manifest v1.Manifest
	decode(t, blob(index.Manifests[0]), &manifest)
	var config v1.Image
	decode(t, blob(manifest.Config), &config)
	if config.Architecture != runtime.GOARCH || config.OS != "linux" || !slices.Equal(config.Config.Cmd, []string{"sh"}) || len(config.History) != 1 {
		t.Errorf("config %+v", config)
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(blob(manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	inside, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(inside) != config.RootFS.DiffIDs[0] {
		t.Errorf("layer is %s, config says %s", digest.FromBytes(inside), config.RootFS.DiffIDs[0])
	}
	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, files["manifest.json"], &docker)
	if docker[0].RepoTags[0] != "toolbox:latest" || files[docker[0].Config] == nil || files[docker[0].Layers[0]] == nil {
		t.Errorf("manifest.json %+v", docker)
	}
	checkLayer(t, inside)
}

func checkLayer(t *testing.T, content []byte) {
	t.Helper()
	headers, files := untar(t, bytes.NewReader(content))
	for _, want := range []struct {
		name, target string
		mode         int64
		uid          int
	}{
		{"bin/toolbox", "", 0o755, 0},
		{"bin/sh", "toolbox", 0o777, 0},
		{"bin/cat", "toolbox-core", 0o777, 0},
		{"bin/true", "toolbox-bare", 0o777, 0},
		{"usr/bin", "../bin", 0o777, 0},
		{"sbin", "bin", 0o777, 0},
		{"tmp/", "", 0o1777, 0},
		{"var/tmp/", "", 0o1777, 0},
		{"root/", "", 0o700, 0},
		{"home/user/", "", 0o755, 1000},
		{"proc/", "", 0o555, 0},
		{"etc/passwd", "", 0o644, 0},
	} {
		h := headers[want.name]
		if h == nil || h.Linkname != want.target || h.Mode != want.mode || h.Uid != want.uid || !h.ModTime.Equal(created) {
			t.Errorf("%s is %+v", want.name, h)
		}
	}
	if string(files["bin/toolbox"]) != allScript || string(files["bin/toolbox-core"]) != coreScript || string(files["bin/toolbox-bare"]) != bareText {
		t.Error("the programs are not in the layer")
	}
	if !bytes.Contains(files["etc/os-release"], []byte("\nID=toolbox\n")) {
		t.Errorf("os-release %q", files["etc/os-release"])
	}
}

func TestSameInputSameFile(t *testing.T) {
	s := programs(t, runtime.GOARCH)
	made := func() os.FileInfo {
		t.Helper()
		if err := s.run(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(s.output)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := made()
	if !os.SameFile(first, made()) {
		t.Error("an equal image was written anew")
	}
	s.core = s.toolbox
	if os.SameFile(first, made()) {
		t.Error("another image was not written")
	}
	left, err := os.ReadDir(filepath.Dir(s.output))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRefused(t *testing.T) {
	s := programs(t, runtime.GOARCH)
	s.toolbox += "-missing"
	if err := s.run(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing program: %v", err)
	}
	if err := os.WriteFile(s.toolbox, []byte("#!/bin/sh\necho hello\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.run(); err == nil {
		t.Error("another program was taken for the toolbox")
	}
}
