package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Own names this process's groups: it is listed in each.
func TestOwn(t *testing.T) {
	dirs, err := Own()
	if err != nil || len(dirs) == 0 {
		t.Fatalf("%v, %v", dirs, err)
	}
	for controller, dir := range dirs {
		text, err := os.ReadFile(dir + "/cgroup.procs")
		if err != nil || !strings.Contains("\n"+string(text), fmt.Sprintf("\n%d\n", os.Getpid())) {
			t.Errorf("%q: %s has not this process: %v", controller, dir, err)
		}
	}
}

// For root everything is permitted, and device rules are passed over.
func TestCreatePermitted(t *testing.T) {
	path := fmt.Sprintf("/gantry-test-%d-permitted", os.Getpid())
	limit := int64(20)
	g, err := CreatePermitted(path, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := g.Stats()
	if err = errors.Join(err, g.Delete()); err != nil || stats.Pids.Limit != 20 {
		t.Errorf("%+v, %v", stats, err)
	}
	if _, err := CreatePermitted("/", nil); err == nil {
		t.Error("the root was taken")
	}
}
