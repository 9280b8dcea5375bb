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

// TestUpdateDevices: rules of an update replace the earlier ones, but what every container may use it may use further.
func TestUpdateDevices(t *testing.T) {
	major, minor := int64(10), int64(200)
	s, p, r := newSleeper(t, func(b *bundle) {
		b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/unlisted", Type: "c", Major: major, Minor: minor}}
	})
	defer r.Close()
	defer s.end(t, s.container, p)
	for _, c := range []struct {
		rules  []specs.LinuxDeviceCgroup
		denied bool
	}{
		{nil, true}, // as it was
		{[]specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}}, false},
		{[]specs.LinuxDeviceCgroup{{Access: "rwm"}}, true},
	} {
		if err := s.container.Update(&specs.LinuxResources{Devices: c.rules}); err != nil {
			t.Fatal(err)
		}
		text, _, err := s.exec(t, s.container, func(p *specs.Process) { p.Args = []string{"probe", "cat", "/dev/unlisted", "/dev/null"} })
		if got := strings.Contains(text, "/dev/unlisted: operation not permitted"); err != nil || got != c.denied || strings.Contains(text, "/dev/null") {
			t.Errorf("after %+v: %q, %v, want denied %v", c.rules, text, err, c.denied)
		}
	}
}
