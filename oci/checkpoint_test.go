package oci

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/oci/criu"
)

// TestMountNamesForCriu: a destination that criu would take for a name and a source is refused (CVE-2026-119101,
// CVE-2026-115520), of a mount and of a device.
func TestMountNamesForCriu(t *testing.T) {
	for path, refused := range map[string]bool{"/data": false, "/a[b]": false, "/x]:/etc": true, "/deep/]:": true} {
		for kind, spec := range map[string]*specs.Spec{
			"mount":  {Linux: &specs.Linux{}, Mounts: []specs.Mount{{Destination: path, Type: "bind", Source: "/tmp"}}},
			"device": {Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: path}}}},
		} {
			j := &criuJob{b: &builder{spec: spec, bundle: "/"}, opts: &criu.Options{}}
			err := j.forRestore("/root")
			if got := err != nil && strings.Contains(err.Error(), "criu cannot name"); got != refused {
				t.Errorf("%s %s: %v, want refused %v", kind, path, err, refused)
			}
		}
	}
	for point, refused := range map[string]bool{"/real": false, "/x]:/etc": true} { // where a link of the image's leads
		spec := &specs.Spec{Linux: &specs.Linux{}, Mounts: []specs.Mount{{Destination: "/link", Type: "bind", Source: "/tmp"}}}
		j := &criuJob{b: &builder{spec: spec, bundle: "/"}, opts: &criu.Options{}, points: map[string]string{"/link": point}}
		if err := j.forRestore("/root"); (err != nil) != refused {
			t.Errorf("a link to %s: %v, want refused %v", point, err, refused)
		}
	}
}
