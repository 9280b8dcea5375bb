package oci

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCheckIDMaps(t *testing.T) {
	many := make([]specs.LinuxIDMapping, mostMaps+1)
	for i := range many {
		many[i] = specs.LinuxIDMapping{ContainerID: uint32(i), HostID: uint32(i), Size: 1}
	}
	const last = 1<<32 - 2
	for name, c := range map[string]struct {
		list []specs.LinuxIDMapping
		want string // "": taken
	}{
		"one":            {[]specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}}, ""},
		"out of order":   {[]specs.LinuxIDMapping{{ContainerID: 10, HostID: 5, Size: 5}, {ContainerID: 1, HostID: 100, Size: 9}, {ContainerID: 0, HostID: 10, Size: 1}}, ""},
		"all":            {[]specs.LinuxIDMapping{{Size: last + 1}}, ""},
		"one too many":   {[]specs.LinuxIDMapping{{Size: last}, {ContainerID: last, HostID: last, Size: 2}}, "linux.x[1]: 2 ids"},
		"empty":          {[]specs.LinuxIDMapping{{Size: 1}, {ContainerID: 1, HostID: 1}}, "linux.x[1].size"},
		"inside another": {[]specs.LinuxIDMapping{{Size: 100}, {ContainerID: 200, HostID: 200, Size: 1}, {ContainerID: 50, HostID: 300, Size: 1}}, "linux.x[0] and [2] overlap: both map containerID 50"},
		"host's overlap": {[]specs.LinuxIDMapping{{HostID: 5, Size: 10}, {ContainerID: 20, HostID: 14, Size: 1}}, "both map hostID 14"},
		"no root":        {[]specs.LinuxIDMapping{{ContainerID: 1, Size: 10}}, "containerID 0"},
		"too many":       {many, "341 ranges"},
		"as many as may": {many[:mostMaps], ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkIDMaps("linux.x", c.list)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Where newuidmap is not installed, the error says what it is for, and where it comes from.
func TestNoIDHelper(t *testing.T) {
	installed := idHelpers
	t.Cleanup(func() { idHelpers = installed })
	idHelpers = []string{t.TempDir() + "/"}
	err := writeUserMap(1, "newuidmap", "/dev/null", []specs.LinuxIDMapping{{HostID: 100000, Size: 10}}, 1000)
	if err == nil || !strings.Contains(err.Error(), "without newuidmap, which is not installed") || !strings.Contains(err.Error(), "package uidmap") {
		t.Errorf("got %v", err)
	}
}
