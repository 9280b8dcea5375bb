package docker

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestCreateAcrossVersions checks what a body means to each version.
func TestCreateAcrossVersions(t *testing.T) {
	const mac = `{"Image":"a","MacAddress":"02:00:00:00:00:01"`
	for _, c := range []struct {
		version, body string
		want          string // in the JSON of what the backend gets; or the message of an error
		status        int
	}{
		{"1.56", `{"Image":"a"}`, `"HostConfig":{`, 201},
		{"1.24", `{"HostConfig":{"AutoRemove":true},"Image":"a"}`, `"AutoRemove":false`, 201},
		{"1.25", `{"HostConfig":{"AutoRemove":true},"Image":"a"}`, `"AutoRemove":true`, 201},
		{"1.39", `{"Image":"a"}`, `"IpcMode":"shareable"`, 201},
		{"1.40", `{"Image":"a"}`, `"IpcMode":""`, 201},
		{"1.41", `{"Image":"a","HostConfig":{"ConsoleSize":[3,4]}}`, `"ConsoleSize":[0,0]`, 201},
		{"1.42", `{"Image":"a","HostConfig":{"ConsoleSize":[3,4]}}`, `"ConsoleSize":[3,4]`, 201},
		{"1.41", `{"Image":"a","HostConfig":{"PidsLimit":-1}}`, `"PidsLimit":null`, 201},
		{"1.41", `{"Image":"a","HostConfig":{"Mounts":[{"Type":"bind","Source":"/a","Target":"/b","VolumeOptions":{}}]}}`, `"Mounts":[{"Type":"bind","Source":"/a","Target":"/b"}]`, 201},
		{"1.42", `{"Image":"a","HostConfig":{"Mounts":[{"Type":"bind","VolumeOptions":{}}]}}`, `VolumeOptions must not be specified on mount type "bind"`, 400},
		{"1.42", `{"Image":"a","HostConfig":{"Mounts":[{"Type":"volume","TmpfsOptions":{}}]}}`, `TmpfsOptions must not be specified on mount type "volume"`, 400},
		{"1.42", `{"Image":"a","HostConfig":{"Mounts":[{"Type":"volume","BindOptions":{}}]}}`, `BindOptions must not be specified on mount type "volume"`, 400},
		{"1.43", `{"Image":"a","HostConfig":{"Mounts":[{"Type":"bind","BindOptions":{"ReadOnlyForceRecursive":true}}]}}`, `BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer`, 400},
		{"1.44", `{"Image":"a","HostConfig":{"Mounts":[{"Type":"volume","VolumeOptions":{"Subpath":"x"}}]}}`, `VolumeOptions.Subpath needs API v1.45 or newer`, 400},
		{"1.47", `{"Image":"a","HostConfig":{"Mounts":[{"Type":"image"}]}}`, `mount type "image" needs API v1.48 or newer`, 400},
		{"1.43", `{"Image":"a","NetworkingConfig":{"EndpointsConfig":{"a":{},"b":{}}}}`, "container cannot be created with multiple network endpoints before API v1.44", 400},
		{"1.43", mac + `}`, `"EndpointsConfig":{"bridge":{`, 201},
		{"1.43", mac + `,"NetworkingConfig":{"EndpointsConfig":{"default":{}}}}`, `"EndpointsConfig":{"default":{`, 201},
		{"1.43", mac + `,"HostConfig":{"NetworkMode":"mine"}}`, `"MacAddress":"02:00:00:00:00:01"`, 201},
		{"1.43", mac + `,"HostConfig":{"NetworkMode":"host"}}`, `conflicting options: mac-address and the network mode`, 400},
		{"1.44", mac + `,"NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"02:00:00:00:00:02"}}}}`, `the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty`, 400},
		{"1.52", mac + `}`, `container-wide MAC address no longer supported; use endpoint-specific MAC address instead`, 400},
		{"1.51", `{"Image":"a","HostConfig":{"PortBindings":{"80/tcp":[]}}}`, `"PortBindings":{"80/tcp":[{`, 201},
		{"1.53", `{"Image":"a","HostConfig":{"PortBindings":{"80/tcp":[]}}}`, `"PortBindings":{"80/tcp":[{`, 201},
	} {
		f := &fake{}
		w := do(f, "POST", "/v"+c.version+"/containers/create", c.body)
		got, err := json.Marshal(f.created.Config)
		if err != nil {
			t.Fatal(err)
		}
		if c.status != 201 {
			if w.Code != c.status || messageOf(w) != c.want {
				t.Errorf("%s %s: %d %s, want %d %s", c.version, c.body, w.Code, w.Body, c.status, c.want)
			}
		} else if w.Code != 201 || !strings.Contains(string(got), c.want) {
			t.Errorf("%s %s: %d, the backend got %s, want %s", c.version, c.body, w.Code, got, c.want)
		}
	}
	w := do(&fake{}, "POST", "/v1.52/containers/create", `{"Image":"a","HostConfig":{"PortBindings":{"80/tcp":[]}}}`)
	if !strings.Contains(w.Body.String(), "empty list of port-bindings: 80/tcp") {
		t.Errorf("no warning: %s", w.Body)
	}
}
