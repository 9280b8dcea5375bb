package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An older kernel lacks some files: a figure that it does not keep is zero, a limit that it cannot set is refused by name.
func TestOlderKernel(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"memory.current": "5\n", "memory.max": "max\n", "memory.stat": "anon 5\n", "cpu.stat": "usage_usec 7\n", "pids.current": "1\n", "pids.max": "9\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "group"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "group", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := &Group{path: "/group", host: &host{unified: &hierarchy{mount: dir, controllers: []string{"cpu", "memory", "pids"}, v2: true}}}
	s, err := g.Stats()
	if err != nil || s.Memory.Usage != 5 || s.Memory.MaxUsage != 0 || s.Pids.Limit != 9 {
		t.Errorf("statistics %+v, %v", s, err)
	}
	if more, err := g.MoreStats(); err != nil || more.SwapMax != 0 {
		t.Errorf("more statistics %+v, %v", more, err)
	}
	for _, missing := range []setting{
		{controller: "cpu", file: "cpu.idle", field: "cpu.idle", value: "1"},
		{controller: "cpu", file: "cpu.max.burst", field: "cpu.burst", value: "1"},
	} {
		if err := g.apply(missing); err == nil || !strings.Contains(err.Error(), "the kernel has no "+missing.file) {
			t.Errorf("%s: %v", missing.file, err)
		}
		missing.optional = true
		if err := g.apply(missing); err != nil {
			t.Errorf("%s, optional: %v", missing.file, err)
		}
	}
}
