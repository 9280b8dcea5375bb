package cli

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestRequestsAreDockers compares what create sends with what docker's own client (29.9.3) sent for the same
// arguments, recorded in testdata/create.json.
func TestRequestsAreDockers(t *testing.T) {
	data, err := os.ReadFile("testdata/create.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []struct {
		Args    []string
		Query   string
		Request map[string]any
	}
	if err := json.Unmarshal(data, &recorded); err != nil {
		t.Fatal(err)
	}
	if len(recorded) < 25 {
		t.Fatalf("only %d recordings", len(recorded))
	}
	for _, want := range recorded {
		t.Run(strings.Join(want.Args, " "), func(t *testing.T) {
			s := newEngineStub(t)
			s.gantry("", append([]string{"create"}, want.Args...)...).want(t, 0, "c1\n")
			var got map[string]any
			if err := json.Unmarshal(s.body("/containers/create"), &got); err != nil {
				t.Fatal(err)
			}
			compare(t, "", want.Request, got)
			_, query, _ := strings.Cut(s.seen()[0], "?")
			gotQuery, err := url.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			wantQuery, err := url.ParseQuery(want.Query)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(gotQuery, wantQuery) {
				t.Errorf("query %v, docker's %v", gotQuery, wantQuery)
			}
		})
	}
}

// compare reports every field that differs.
func compare(t *testing.T, path string, want, got any) {
	t.Helper()
	w, wantMap := want.(map[string]any)
	g, gotMap := got.(map[string]any)
	if !wantMap || !gotMap {
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s = %v, docker's %v", path, got, want)
		}
		return
	}
	for name := range w {
		compare(t, path+"."+name, w[name], g[name])
	}
	for name := range g {
		if _, ok := w[name]; !ok {
			t.Errorf("%s.%s = %v, docker sends none", path, name, g[name])
		}
	}
}

func TestEnvironment(t *testing.T) {
	lookup := func(name string) (string, bool) {
		value, ok := map[string]string{"SET": "from host", "EMPTY": ""}[name]
		return value, ok
	}
	file := filepath.Join(t.TempDir(), "env")
	text := "\xef\xbb\xbf# comment\n\n  INDENTED=1\nSPACES= a b \nSET\nUNSET\nEMPTY\nEQ=a=b\r\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := environment([]string{file}, []string{"A=1", "SET", "UNSET", "B="}, lookup)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"INDENTED=1", "SPACES= a b ", "SET=from host", "EMPTY=", "EQ=a=b", "A=1", "SET=from host", "UNSET", "B="}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
	for _, bad := range []string{"=x\n", "two words=x\n", "\xff=x\n"} {
		if _, err := parseKeyValues([]byte(bad), lookup); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, err := environment(nil, []string{"=x"}, lookup); err == nil {
		t.Error("an empty name was accepted")
	}
}

func TestSecurityOptions(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "p.json")
	if err := os.WriteFile(profile, []byte("{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for opt, want := range map[string]string{
		"seccomp=" + profile:      `seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`,
		"seccomp=unconfined":      "seccomp=unconfined",
		"seccomp:unconfined":      "seccomp:unconfined",
		"no-new-privileges":       "no-new-privileges",
		"no-new-privileges=false": "no-new-privileges=false",
		"seccomp=/nonexistent":    "",
		"whatever":                "",
	} {
		got, err := securityOpt(opt)
		if (err != nil) != (want == "") || got != want {
			t.Errorf("securityOpt(%q) = %q, %v; want %q", opt, got, err, want)
		}
	}
}
