package engine

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
)

func TestResources(t *testing.T) {
	pids, unlimited := int64(50), int64(0)
	for name, tc := range map[string]struct {
		in   container.Resources
		want string
	}{
		"none":            {want: `{}`},
		"memory":          {in: container.Resources{Memory: 64 << 20}, want: `{"memory":{"limit":67108864,"swap":134217728}}`},
		"memory and swap": {in: container.Resources{Memory: 64 << 20, MemorySwap: -1}, want: `{"memory":{"limit":67108864,"swap":-1}}`},
		"half a cpu":      {in: container.Resources{NanoCPUs: 5e8}, want: `{"cpu":{"quota":50000,"period":100000}}`},
		"quota":           {in: container.Resources{CPUQuota: 20000}, want: `{"cpu":{"quota":20000}}`},
		"cpuset, shares":  {in: container.Resources{CpusetCpus: "0-1", CPUShares: 512}, want: `{"cpu":{"shares":512,"cpus":"0-1"}}`},
		"pids":            {in: container.Resources{PidsLimit: &pids}, want: `{"pids":{"limit":50}}`},
		"pids unlimited":  {in: container.Resources{PidsLimit: &unlimited}, want: `{"pids":{"limit":-1}}`},
		"block weight":    {in: container.Resources{BlkioWeight: 300}, want: `{"blockIO":{"weight":300}}`},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := resources(&tc.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestResourcesRefuse(t *testing.T) {
	swappiness := int64(101)
	for name, in := range map[string]container.Resources{
		"little memory":    {Memory: 4096},
		"negative memory":  {Memory: -1},
		"swap alone":       {MemorySwap: 64 << 20},
		"swap below":       {Memory: 64 << 20, MemorySwap: 32 << 20},
		"reservation":      {Memory: 64 << 20, MemoryReservation: 65 << 20},
		"swappiness":       {MemorySwappiness: &swappiness},
		"cpus and quota":   {NanoCPUs: 1e9, CPUQuota: 10000},
		"too little cpu":   {NanoCPUs: 1e6},
		"negative cpus":    {NanoCPUs: -1},
		"block weight":     {BlkioWeight: 5},
		"no such device":   {BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: "/dev/nothing", Rate: 1}}},
		"not a block dev.": {BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: "/dev/null", Rate: 1}}},
	} {
		if _, err := resources(&in); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v, want an invalid argument", name, err)
		}
	}
}

func TestRlimits(t *testing.T) {
	got, err := rlimits([]*container.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core", Soft: -1, Hard: -1}})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Type != "RLIMIT_NOFILE" || got[0].Soft != 1024 || got[0].Hard != 2048 || got[1].Hard != ^uint64(0) {
		t.Errorf("got %+v", got)
	}
	for _, bad := range []*container.Ulimit{{Name: "files"}, {Name: "nofile", Soft: 2, Hard: 1}, {Name: "nofile", Soft: -1, Hard: 1}} {
		if _, err := rlimits([]*container.Ulimit{bad}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: got %v, want an invalid argument", bad, err)
		}
	}
}

func TestParseDeviceRule(t *testing.T) {
	r, err := parseDeviceRule("c 10:* rw")
	if err != nil || r.Type != "c" || *r.Major != 10 || r.Minor != nil || r.Access != "rw" || !r.Allow {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, bad := range []string{"", "c", "c 1:3", "x 1:3 rwm", "c 1 rwm", "c 1:3 rx", "c -1:3 r", "c 1:3 rwm more", "c 99999999999:1 r"} {
		if _, err := parseDeviceRule(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: got %v, want an invalid argument", bad, err)
		}
	}
}

func FuzzParseDeviceRule(f *testing.F) {
	f.Add("c 1:3 rwm")
	f.Add("b *:* m")
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := parseDeviceRule(text); err == nil && (r.Access == "" || r.Type == "") {
			t.Errorf("%q gave %+v", text, r)
		}
	})
}
