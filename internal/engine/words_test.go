package engine

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestWordsOfBinds: scripts look for docker's words about -v.
func TestWordsOfBinds(t *testing.T) {
	for text, want := range map[string]string{
		"/a:/b:shared,slave": "invalid mode: shared,slave",
		"v1:/b:nosuch":       "invalid mode: nosuch",
		"v1:/b:shared":       "invalid volume specification: 'v1:/b:shared': invalid mount config for type \"volume\": field BindOptions must not be specified",
		"/a:/b:nocopy":       "invalid volume specification: '/a:/b:nocopy': invalid mount config for type \"bind\": field VolumeOptions must not be specified",
		"v1:b":               "invalid volume specification: 'v1:b': invalid mount config for type \"volume\": invalid mount path: 'b' mount path must be absolute",
		"/b:ro":              "invalid volume specification: '/b:ro'",
		":/b":                "invalid volume specification: ':/b'",
		"v:/b":               "create v: volume name is too short, names should be at least two alphanumeric characters",
		"/a:/b:rslave,ro":    "",
		"v1:/b:z,nocopy":     "",
		"/a:/b:":             "",
	} {
		_, err := parseBind(text)
		switch {
		case err == nil && want == "":
		case err == nil || err.Error() != want || !errdefs.IsInvalidArgument(err):
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestUpdateConflicts: what an update must not contradict.
func TestUpdateConflicts(t *testing.T) {
	const m = 1 << 20
	for name, c := range map[string]struct {
		has    container.HostConfig
		update container.UpdateConfig
		refuse bool
	}{
		"memory above the swap limit":             {container.HostConfig{Resources: container.Resources{Memory: 100 * m, MemorySwap: 200 * m}}, container.UpdateConfig{Resources: container.Resources{Memory: 300 * m}}, true},
		"memory above a default of the swap":      {container.HostConfig{Resources: container.Resources{Memory: 100 * m}}, container.UpdateConfig{Resources: container.Resources{Memory: 300 * m}}, true},
		"memory below it":                         {container.HostConfig{Resources: container.Resources{Memory: 100 * m}}, container.UpdateConfig{Resources: container.Resources{Memory: 150 * m}}, false},
		"memory and swap":                         {container.HostConfig{Resources: container.Resources{Memory: 100 * m}}, container.UpdateConfig{Resources: container.Resources{Memory: 300 * m, MemorySwap: 400 * m}}, false},
		"memory with unlimited swap":              {container.HostConfig{Resources: container.Resources{Memory: 100 * m, MemorySwap: -1}}, container.UpdateConfig{Resources: container.Resources{Memory: 300 * m}}, false},
		"processors over a period":                {container.HostConfig{Resources: container.Resources{CPUPeriod: 5000}}, container.UpdateConfig{Resources: container.Resources{NanoCPUs: 1e9}}, true},
		"a quota over processors":                 {container.HostConfig{Resources: container.Resources{NanoCPUs: 1e9}}, container.UpdateConfig{Resources: container.Resources{CPUQuota: 5000}}, true},
		"a policy for what is removed at its end": {container.HostConfig{AutoRemove: true}, container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}, true},
	} {
		if err := mergeUpdate(&c.has, c.update); errdefs.IsConflict(err) != c.refuse || !c.refuse && err != nil {
			t.Errorf("%s: %v, want a conflict: %v", name, err, c.refuse)
		}
	}
}

func TestUserTerms(t *testing.T) {
	got := userTerms("create container 0123abcd: config.json: mounts[1]: no such file or directory", "0123abcd", "web",
		[]specs.Mount{{Destination: "/proc"}, {Destination: "/data"}})
	if want := "create container web: mount on /data: no such file or directory"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
