package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

func TestNumbers(t *testing.T) {
	for text, want := range map[string]string{"0": "[0]", "0-2,7": "[0 1 2 7]", "3,1-1": "[1 3]", "8192": "[8192]"} {
		got, err := numbers(text)
		if err != nil || fmt.Sprint(slices.Sorted(maps.Keys(got))) != want {
			t.Errorf("numbers(%q) = %v, %v; want %s", text, got, err, want)
		}
	}
	for _, bad := range []string{"", ",", "1,", "-1", "1-", "2-1", "x", "1-2-3", "8193", "0-99999999999", " 1", "1\n"} {
		if got, err := numbers(bad); err == nil {
			t.Errorf("numbers(%q) = %v", bad, got)
		}
	}
}

func FuzzNumbers(f *testing.F) {
	f.Add("0-2,7")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := numbers(text)
		if err != nil {
			return
		}
		for n := range set {
			if n < 0 || n > maxNumber {
				t.Errorf("numbers(%q) has %d", text, n)
			}
		}
		if strings.Trim(text, "0123456789,-") != "" {
			t.Errorf("numbers(%q) is accepted", text)
		}
	})
}

func TestHostPorts(t *testing.T) {
	for text, want := range map[string][2]uint16{"": {0, 0}, "0": {0, 0}, "80": {80, 80}, "8000-8005": {8000, 8005}, "65535": {65535, 65535}} {
		first, last, err := hostPorts(text)
		if err != nil || first != want[0] || last != want[1] {
			t.Errorf("hostPorts(%q) = %d, %d, %v; want %v", text, first, last, err, want)
		}
	}
	for _, bad := range []string{"x", "-1", "80-", "-80", "90-80", "0-80", "65536", "1-65536", "80-90-100", " 80"} {
		if first, last, err := hostPorts(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("hostPorts(%q) = %d, %d, %v", bad, first, last, err)
		}
	}
}

func TestUpdateRefusesWhatStays(t *testing.T) {
	yes, swappiness := true, int64(5)
	for name, r := range map[string]container.Resources{
		"CgroupParent": {CgroupParent: "/x"}, "Devices": {Devices: []container.DeviceMapping{{}}}, "MemorySwappiness": {MemorySwappiness: &swappiness},
		"OomKillDisable": {OomKillDisable: &yes}, "Ulimits": {Ulimits: []*container.Ulimit{{Name: "nofile"}}}, "CpuCount": {CPUCount: 1},
	} {
		err := mergeUpdate(&container.HostConfig{}, container.UpdateConfig{Resources: r})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
