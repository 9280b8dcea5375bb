package main

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestRDTOfTheHost: without a resctrl, whatever needs one is refused by name; with one, it works.
func TestRDTOfTheHost(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	code := 1
	if strings.Contains(string(mounts), " resctrl ") {
		code = 0
	}
	dir := bundle(t, "exec sleep 1000")
	u, id := own(t)
	said := func(out, errs string) {
		t.Helper()
		if code != 0 && !strings.Contains(errs, "linux.intelRdt: no resctrl file system is mounted") {
			t.Errorf("%s%s", out, errs)
		}
	}
	u.want(0, "run", "-d", "-b", dir, id)
	said(u.want(1, "update", "--l3-cache-schema", "L3:0=1", id)) // it has no class
	said(u.want(1, "update", "--mem-bw-schema", "MB:0=10", id))
	if out, _ := u.want(0, "events", "--stats", id); !strings.Contains(out, `"intel_rdt":{}`) {
		t.Errorf("statistics: %s", out)
	}
	rewrite(t, dir, func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} })
	said(u.want(code, "run", "-d", "-b", dir, id+"-rdt"))
	said(u.want(code, "plan", dir))
	u.want(0, "delete", "--force", id+"-rdt")
	u.want(0, "delete", "--force", id)
}
