// Package gantry holds the project's architecture test: data flows one way.
package gantry

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// forbidden lists, for a package tree of this module, the trees that it must not reach, directly or indirectly.
var forbidden = map[string][]string{
	"gantry/spawn":              {"gantry/oci", "gantry/cgroup", "gantry/internal"},
	"gantry/cgroup":             {"gantry/oci", "gantry/spawn", "gantry/internal"},
	"gantry/oci":                {"gantry/internal"},
	"gantry/internal/logs":      {"gantry/internal/engine", "gantry/internal/api", "gantry/internal/shim"},
	"gantry/internal/shim":      {"gantry/internal/engine", "gantry/internal/api", "gantry/internal/image", "gantry/internal/network"},
	"gantry/internal/image":     {"gantry/internal/engine", "gantry/internal/api", "gantry/internal/shim", "gantry/internal/network"},
	"gantry/internal/network":   {"gantry/internal/engine", "gantry/internal/api", "gantry/internal/shim", "gantry/internal/image"},
	"gantry/internal/engine":    {"gantry/internal/api", "gantry/internal/cli", "net/http/httptest", "github.com/containerd/containerd/v2/client"},
	"gantry/cmd/gantry-runtime": {"google.golang.org/grpc", "gantry/internal/engine", "net/http"},
	"gantry/internal/cli":       {"gantry/internal/engine", "gantry/internal/image", "gantry/oci", "github.com/containerd/containerd/v2", "github.com/moby/go-archive", "github.com/klauspost/compress"},
	"gantry/cmd/gantry":         {"github.com/moby/go-archive", "github.com/klauspost/compress"},
}

type listed struct {
	ImportPath string
	Name       string
	Doc        string
	Deps       []string
	GoFiles    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Deps,GoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("go list output: %v", err)
		}
		all = append(all, p)
	}
	return all
}

func within(path, tree string) bool { return path == tree || strings.HasPrefix(path, tree+"/") }

func TestImportDirections(t *testing.T) {
	seen := false
	for _, p := range packages(t) {
		for tree, bans := range forbidden {
			if !within(p.ImportPath, tree) {
				continue
			}
			seen = true
			for _, dep := range p.Deps {
				for _, ban := range bans {
					if within(dep, ban) {
						t.Errorf("%s must not depend on %s (it reaches %s)", p.ImportPath, ban, dep)
					}
				}
			}
		}
	}
	if !seen {
		t.Fatal("no package was checked")
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 { // go list reads no comments of tests
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
