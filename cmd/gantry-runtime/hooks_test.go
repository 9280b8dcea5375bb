package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// edit changes a bundle's configuration.
func edit(t *testing.T, dir string, change func(*specs.Spec)) {
	t.Helper()
	file := filepath.Join(dir, "config.json")
	var spec specs.Spec
	text, err := os.ReadFile(file)
	if err = errors.Join(err, json.Unmarshal(text, &spec)); err != nil {
		t.Fatal(err)
	}
	change(&spec)
	if text, err = json.Marshal(&spec); err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestHooksOfTheCaller: hooks in the runtime's namespaces have the caller's environment if they name none; those of create
// run in the bundle, from wherever the runtime is called. (Debian's runc runs poststart hooks in create, and those of
// poststop in the caller's directory.)
func TestHooksOfTheCaller(t *testing.T) {
	t.Setenv("CALLER", "is here")
	dir := bundle(t, "exec sleep 1000")
	said := filepath.Join(t.TempDir(), "said")
	hook := func(kind string, env ...string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `echo "` + kind + ` $CALLER $OWN $PWD" >>` + said}, Env: env}}
	}
	edit(t, dir, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: append(hook("createRuntime"), hook("createRuntime", "OWN=own")...), Poststart: hook("poststart"), Poststop: hook("poststop")}
		s.Hooks.Prestart = hook("prestart") //lint:ignore SA1019 deprecated is not gone
	})
	each(t, func(u under, id string) {
		if err := os.RemoveAll(said); err != nil {
			u.t.Fatal(err)
		}
		u.want(0, "create", "-b", dir, id)
		u.want(0, "start", id)
		u.want(0, "delete", "--force", id)
		text, err := os.ReadFile(said)
		if err != nil {
			u.t.Fatal(err)
		}
		for _, line := range []string{"prestart is here  " + dir, "createRuntime is here  " + dir, "createRuntime  own " + dir, "poststart is here  " + dir, "poststop is here  /"} {
			if !strings.Contains(string(text), line) {
				u.t.Errorf("%q is missing in %q", line, text)
			}
		}
	})
}

// TestAFailedHookLeavesNothing: neither the container nor its socket for a service manager. (runc from 1.5 on destroys in
// run alone; before, poststart hooks were run by create.)
func TestAFailedHookLeavesNothing(t *testing.T) {
	for _, kind := range []string{"startContainer", "poststart"} {
		for _, manager := range []bool{false, true} {
			dir := bundle(t, "exec sleep 1000")
			after := filepath.Join(t.TempDir(), "after")
			edit(t, dir, func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo poststop >>" + after}}}}
				bad := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 3"}}}
				if kind == "startContainer" {
					s.Hooks.StartContainer = bad
				} else {
					s.Hooks.Poststart = bad
				}
			})
			u, id := own(t)
			if manager {
				t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "manager"))
			}
			u.want(0, "create", "-b", dir, id)
			if _, errs := u.want(1, "start", id); !strings.Contains(errs, kind+" hook #0: hook /bin/sh: exit status 3") {
				t.Errorf("%s: %s", kind, errs)
			}
			if _, errs := u.want(1, "state", id); !strings.Contains(errs, "does not exist") {
				t.Errorf("%s: state: %s", kind, errs)
			}
			if text, err := os.ReadFile(after); err != nil || string(text) != "poststop\n" {
				t.Errorf("%s: poststop said %q, %v", kind, text, err)
			}
			if _, err := os.Stat(u.root + "-notify"); err == nil {
				t.Errorf("%s: %s-notify is left", kind, u.root)
			}
			u.want(1, "run", "-d", "-b", dir, id)
			u.want(1, "state", id)
		}
	}
}
