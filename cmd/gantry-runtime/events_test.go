package main

import (
	"bufio"
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestOOMEvents: the kernel tells of a process that is killed for want of memory, at once: no reading is due in between.
// Nothing else is told, and events end with the container.
func TestOOMEvents(t *testing.T) {
	each(t, func(u under, id string) {
		dir := bundle(u.t, "exec sleep 1000")
		rewrite(u.t, dir, func(s *specs.Spec) {
			limit := int64(24 << 20)
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
		})
		u.want(0, "run", "-d", "-b", dir, id)
		settle(u, id)
		cmd := exec.Command(u.program, "--root", u.root, "events", "--interval", "1h", id)
		out, err := cmd.StdoutPipe()
		if err != nil {
			u.t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			u.t.Fatal(err)
		}
		lines := make(chan string)
		go func() {
			defer close(lines)
			for in := bufio.NewScanner(out); in.Scan(); {
				lines <- in.Text()
			}
		}()
		first := ""
		for first == "" { // the watch may begin after the first of them
			u.want(0, "exec", id, "/bin/true")
			if u.t.Failed() {
				u.t.FailNow()
			}
			// The kernel is to choose this process, and no other one while this one is ending.
			u.do("exec", id, "/bin/sh", "-c", "echo 1000 >/proc/self/oom_score_adj; x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done")
			select {
			case first = <-lines:
			default:
			}
		}
		u.want(0, "delete", "--force", id)
		all := []string{first}
		for line := range lines {
			all = append(all, line)
		}
		if err := cmd.Wait(); err != nil {
			u.t.Errorf("events: %v", err)
		}
		for _, line := range all {
			if want := `{"type":"oom","id":"` + id + `"}`; line != want {
				u.t.Errorf("%s, want %s", line, want)
			}
		}
	})
}

// TestStatsAreRuncs: every value that runc reads has its place here, and limits are the same.
func TestStatsAreRuncs(t *testing.T) {
	keys := map[string]map[string]any{}
	each(t, func(u under, id string) {
		dir := bundle(u.t, "sleep 1000 & wait") // a program that executes another has ended for runc, for a moment
		rewrite(u.t, dir, func(s *specs.Spec) {
			limit, pids := int64(64<<20), int64(77)
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &pids}}
		})
		u.want(0, "run", "-d", "-b", dir, id)
		out, _ := u.want(0, "events", "--stats", id)
		var e struct{ Data map[string]any }
		if err := json.Unmarshal([]byte(out), &e); err != nil {
			u.t.Fatalf("%v: %s", err, out)
		}
		found := map[string]any{}
		flatten(found, "", e.Data)
		if found[".memory.usage.limit"] != float64(64<<20) || found[".pids.limit"] != 77.0 {
			u.t.Errorf("limits: %v, %v", found[".memory.usage.limit"], found[".pids.limit"])
		}
		keys[filepath.Base(u.program)] = found
		u.want(0, "delete", "--force", id)
	})
	ours := keys["gantry-runtime"]
	for _, key := range slices.Sorted(maps.Keys(keys["runc"])) {
		if _, have := ours[key]; !have && keys["runc"][key] != 0.0 && key != ".memory.cache" && !strings.HasPrefix(key, ".memory.raw.") && !strings.HasPrefix(key, ".blkio.") { // what has happened so far
			t.Errorf("runc has %s: %v", key, keys["runc"][key])
		}
	}
}

// flatten lists the values of an object of objects by their paths.
func flatten(to map[string]any, path string, v any) {
	object, nested := v.(map[string]any)
	if !nested {
		to[path] = v
	}
	for name, value := range object {
		flatten(to, path+"."+name, value)
	}
}
