package oci

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzCompile reads any bytes as a bundle's config.json and compiles and prints the plan: an error or a plan, no panic.
func FuzzCompile(f *testing.F) {
	b := newBundle(f)
	for n := range uint64(30) {
		r := rand.New(rand.NewPCG(1, n))
		s := valid(f, b, r)
		if n%2 == 1 {
			random(r, reflect.ValueOf(s).Elem(), 4)
		}
		text, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		if len(text) < 16<<10 { // a fuzzer spends its time on making large ones smaller
			f.Add(text)
		}
	}
	f.Add([]byte(`{"process":{"args":["a"],"cwd":"/"},"root":{"path":"r"},"linux":{"namespaces":[{"type":"mount"}]}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := ReadSpec(dir)
		if err != nil {
			return
		}
		plan, err := Compile(dir, s, nil)
		if err != nil {
			return
		}
		if _, err := plan.WriteTo(io.Discard); err != nil {
			t.Error(err)
		}
	})
}

// FuzzState reads any bytes as a container's state.json, as what another program, or a crash, left there: everything that
// only reads must do with it. Pids in it are not this test's, so nothing that kills is called.
func FuzzState(f *testing.F) {
	for _, text := range []string{
		"", "null", "{}", "[]", `{"ID":"x","Pid":1}`, `{"Pid":-1,"Spec":{}}`, `{"Pid":99999999,"Spec":{"linux":null,"root":null}}`,
		`{"Cgroup":"/../..","Spec":{"process":null,"hooks":{"poststop":[{}]}},"Created":"2026-01-01T00:00:00Z"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		lib := &Runtime{Root: t.TempDir()}
		if err := os.Mkdir(lib.dir("x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(lib.dir("x"), "state.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := lib.Load("x")
		if err != nil {
			return
		}
		s, err := c.State()
		if err != nil {
			return
		}
		if s.ID != "x" || s.Status == specs.StateStopped && s.Pid != 0 {
			t.Errorf("%+v", s)
		}
		if _, err := c.Created(); err != nil {
			t.Error(err)
		}
		if spec, err := c.Spec(); err != nil || spec == nil {
			t.Errorf("%v %v", spec, err)
		}
		if g, err := c.Cgroup(); err == nil && g.Path() == "/" {
			t.Error("the root of the cgroups is a container's")
		}
	})
}
