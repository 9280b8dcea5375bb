package runtime

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
)

// archive makes an image of the peer's root directory, as "docker save" does, and returns its file.
func (p *peer) archive(name string) string { return p.archiveOf(p.rootfs(), name) }

// archiveOf makes one of another directory.
func (p *peer) archiveOf(root, name string) string {
	p.t.Helper()
	layer, err := exec.Command("tar", "-C", root, "-c", ".").Output()
	if err != nil {
		p.t.Fatalf("pack the root directory: %v", err)
	}
	type object = map[string]any
	config := object{
		"architecture": goruntime.GOARCH, "os": "linux", "config": object{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sleep", "100000"}},
		"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	}
	manifest := []object{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, file := range []struct {
		name    string
		content any
	}{{"config.json", config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		text, isBytes := file.content.([]byte)
		if !isBytes {
			if text, err = json.Marshal(file.content); err != nil {
				p.t.Fatal(err)
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			p.t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		p.t.Fatal(err)
	}
	path := filepath.Join(p.dir, "image.tar")
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return path
}
