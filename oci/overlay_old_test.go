package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Both ways of mounting an overlay give the same: more layers than fit 256 bytes, the first of them on top.
func TestOverlayOfManyLayers(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil { // an overlay wants upper directories of another kind
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	var layers []string
	for i := range 10 {
		layer := filepath.Join(dir, fmt.Sprintf("layer,%d-%s", i, strings.Repeat("x", 40)))
		layers = append(layers, layer)
		if err := os.Mkdir(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"all", fmt.Sprint(i)} {
			if err := os.WriteFile(filepath.Join(layer, name), fmt.Append(nil, i), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, mount := range map[string]func([]string) (int, error){"new": mountOverlay, "old": mountOverlayOld} {
		if name == "new" && !appendsLayers() {
			continue
		}
		upper, work := filepath.Join(dir, name), filepath.Join(dir, name+"-work")
		for _, made := range []string{upper, work} {
			if err := os.Mkdir(made, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := mount([]string{"lowerdir=" + strings.Join(layers, ":"), "upperdir=" + upper, "workdir=" + work})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		root := fmt.Sprintf("/proc/self/fd/%d", fd)
		if text, err := os.ReadFile(root + "/all"); err != nil || string(text) != "0" {
			t.Errorf("%s: the top layer's file: %q, %v", name, text, err)
		}
		if text, err := os.ReadFile(root + "/9"); err != nil || string(text) != "9" {
			t.Errorf("%s: the lowest layer's file: %q, %v", name, text, err)
		}
		if err := os.WriteFile(root+"/new", nil, 0o600); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(upper + "/new"); err != nil {
			t.Errorf("%s: a new file is not in the upper layer: %v", name, err)
		}
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}
