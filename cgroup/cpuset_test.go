package cgroup

import (
	"fmt"
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestHugeProcessorRange: the kernel, and nobody before it, reads a list of processors, so that a huge range is an error
// and not a huge list, and nothing is left (CVE-2018-20699).
func TestHugeProcessorRange(t *testing.T) {
	for _, cpu := range []specs.LinuxCPU{{Cpus: "1-9223372036854775807"}, {Mems: "0-9223372036854775807"}, {Cpus: "0-18446744073709551616"}} {
		path := fmt.Sprintf("/gantry-range-test-%d", os.Getpid())
		g, err := Create(path, &specs.LinuxResources{CPU: &cpu})
		if err == nil {
			t.Errorf("%+v was taken", cpu)
			if err := g.Delete(); err != nil {
				t.Error(err)
			}
		}
		if left, err := Open(path); err == nil {
			for _, dir := range left.Paths() {
				if _, err := os.Stat(dir); err == nil {
					t.Errorf("%+v: %s is left", cpu, dir)
				}
			}
		}
	}
}
