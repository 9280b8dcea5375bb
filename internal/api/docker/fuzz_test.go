package docker

import (
	"encoding/json"
	"net/url"
	"testing"
)

// FuzzParameters: no input panics, and what is accepted has the documented form.
func FuzzParameters(f *testing.F) {
	for _, s := range []string{
		"", "0", "1.5", "-1.000000001", "99999999999999999999", "1.x", `{"a":["b"]}`, `{"a":{"b":true,"c":false}}`, `{"a":null}`,
		`[[[[`, `{"a":"\"{"}`, "linux/arm64/v8", `{"os":"linux","architecture":"amd64"}`, "e30=", "eyJhdXRoIjoiYTpiIn0=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := parseFilters(s); err == nil {
			for key, set := range got {
				for value, on := range set {
					if !on {
						t.Errorf("filter %q=%q is kept but off", key, value)
					}
				}
			}
		}
		if at, err := parseTimestamp(s); err == nil && !at.IsZero() && (at.Year() < -70000 || at.Year() > 100000) {
			t.Errorf("time %v", at)
		}
		q := url.Values{"platform": {s}, "h": {s}, "w": {s}}
		if p, err := platform(q); err == nil && p != nil && (p.OS == "" || p.Architecture == "") {
			t.Errorf("platform %+v", p)
		}
		if h, w, err := size(q); err == nil && (h > 65535 || w > 65535) {
			t.Errorf("size %d×%d", h, w)
		}
		if a, err := credentials(s); err != nil && a != nil {
			t.Error("credentials and an error")
		}
		if v, err := negotiate(s); err == nil && (v < minVersion || v > maxVersion) {
			t.Errorf("version %d", v)
		}
		if version, rest := splitVersion(s); version != "" && "/v"+version+rest != s {
			t.Errorf("%q was split into %q and %q", s, version, rest)
		}
		if name, verb, ok := lastSegment(s); ok && (name == "" || name+"/"+verb != s) {
			t.Errorf("%q was split into %q and %q", s, name, verb)
		}
		_, _ = pullReference(s, "latest")
	})
}

// FuzzCreate: no body panics, and what the backend gets has a configuration.
func FuzzCreate(f *testing.F) {
	for _, s := range []string{
		`{"Image":"a"}`, `{"Image":"a","HostConfig":{"Mounts":[{"Type":"bind","VolumeOptions":{}}],"PortBindings":{"80/tcp":[]}}}`,
		`{"Image":"a","MacAddress":"02:00:00:00:00:01","NetworkingConfig":{"EndpointsConfig":{"default":null}}}`,
		`{"Image":"a","HostConfig":{"PidsLimit":-1,"NetworkMode":"container:x"},"Healthcheck":{"StartInterval":1}}`,
	} {
		f.Add(s, uint8(0))
	}
	f.Fuzz(func(t *testing.T, s string, minor uint8) {
		var body createBody
		if unmarshal([]byte(s), &body) != nil {
			return
		}
		if _, err := body.normalize(max(minVersion, min(maxVersion, v(int(minor))))); err == nil && (body.Config == nil || body.HostConfig == nil) {
			t.Error("no configuration, no error")
		}
	})
}

// FuzzDepth: the count is that of encoding/json.
func FuzzDepth(f *testing.F) {
	for _, s := range []string{`{}`, `[[]]`, `{"a":"}\"]["}`, `"\\"`, `[{"a":[1]}, 2]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var value any
		if json.Unmarshal([]byte(s), &value) != nil {
			return
		}
		if got, want := depth([]byte(s)), deepness(value); got < want { // an object's key may come twice, and only the last stays
			t.Errorf("depth of %s: %d, want %d", s, got, want)
		}
	})
}

func deepness(value any) int {
	deepest := 0
	switch v := value.(type) {
	case map[string]any:
		for _, e := range v {
			deepest = max(deepest, deepness(e))
		}
	case []any:
		for _, e := range v {
			deepest = max(deepest, deepness(e))
		}
	default:
		return 0
	}
	return deepest + 1
}
