package oci

import (
	"errors"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestLongPaths refuses what the kernel would, before a plan is made that has steps for every part of such a path: they
// would take memory that grows with the square of its length.
func TestLongPaths(t *testing.T) {
	long := "/" + strings.Repeat("a/", 100_000)
	for field, change := range map[string]func(*specs.Spec){
		"mounts[1].destination": func(s *specs.Spec) { s.Mounts[1].Destination = long },
		"process.cwd":           func(s *specs.Spec) { s.Process.Cwd = long },
		"linux.devices[0].path": func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: long, Type: "p"}} },
	} {
		b := newBundle(t)
		change(b.spec)
		_, err := Compile(b.dir, b.spec, nil)
		if !errors.Is(err, unix.ENAMETOOLONG) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %.200v", field, err)
		}
	}
}
