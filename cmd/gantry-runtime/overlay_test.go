package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// An overlay of config.json is of the host's directories, also for a user.
func TestOverlayMount(t *testing.T) {
	const script = "cat /m/below; cat /m/above; echo new >/m/made"
	check := func(u under, id, dir string, owner int) {
		made := filepath.Join(dir, "upper", "made")
		for path, text := range map[string]string{"lower/below": "below\n", "lower:2/above": "above\n", "lower/above": "hidden\n", "upper/.keep": "", "work/.keep": ""} {
			file := filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				u.t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				u.t.Fatal(err)
			}
			if err := os.Chown(filepath.Dir(file), owner, -1); err != nil {
				u.t.Fatal(err)
			}
		}
		layers := []string{dir + `/lower\:2`, dir + "/lower"}
		for i := range 20 { // more than fsconfig(2) takes in one string
			name := fmt.Sprint(dir, "/layer", i)
			if err := os.MkdirAll(name, 0o755); err != nil {
				u.t.Fatal(err)
			}
			layers = append(layers, name)
		}
		change(u.t, dir, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Type: "overlay", Source: "overlay", Options: []string{
				"nosuid", "lowerdir=" + strings.Join(layers, ":"), "upperdir=" + dir + "/upper", "workdir=" + dir + "/work",
			}})
		})
		if err := os.Chown(filepath.Join(dir, "config.json"), owner, -1); err != nil {
			u.t.Fatal(err)
		}
		if out, errs := u.want(0, "run", "-b", dir, id); out != "below\nabove\n" {
			u.t.Errorf("read %q: %s", out, errs)
		}
		if text, err := os.ReadFile(made); err != nil || string(text) != "new\n" {
			u.t.Errorf("written: %q, %v", text, err)
		}
	}
	t.Run("root", func(t *testing.T) {
		each(t, func(u under, id string) { check(u, id, bundle(u.t, script), 0) })
	})
	t.Run("user", func(t *testing.T) {
		rootless(t, script, func(u under, id, dir string) { check(u, id, dir, gamesUID) })
	})
}
