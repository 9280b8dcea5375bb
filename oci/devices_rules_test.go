package oci

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestDevicesAreDenied: what no rule allows cannot be opened, also where the configuration has no rules at all, or none
// that denies (GHSA-g54h-m393-cpwq). The kernel asks the cgroup before it looks for a driver.
func TestDevicesAreDenied(t *testing.T) {
	major, minor := int64(10), int64(200)
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}
	for name, c := range map[string]struct {
		resources *specs.LinuxResources
		denied    bool
	}{
		"no resources":   {nil, true},
		"no rules":       {&specs.LinuxResources{}, true},
		"another's":      {&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: &major, Access: "m"}}}, true},
		"its own":        {&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{rule}}, false},
		"all, by a rule": {&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}, false},
	} {
		b := newBundle(t, "cat", "/dev/unlisted", "/dev/null")
		b.spec.Linux.Resources = c.resources
		b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/unlisted", Type: "c", Major: major, Minor: minor}}
		text, _ := b.output(t)
		if got := strings.Contains(text, "/dev/unlisted: operation not permitted"); got != c.denied || strings.Contains(text, "/dev/null") {
			t.Errorf("%s: %q, want denied %v", name, text, c.denied)
		}
	}
}
