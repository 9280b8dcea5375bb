package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"

	"gantry/internal/client"
	"gantry/internal/detach"
)

func TestListFormats(t *testing.T) {
	l := listing{headings: headings{"ID": "THE ID", "Name": "NAME"}, table: `{{.ID}}\t{{.Name}}`, id: "ID"}
	records := []record{
		{labelsKey: map[string]string{"com.x.my-label": "v"}, "ID": "1", "Name": "one"},
		{"ID": "2", "Name": "two"},
	}
	for _, test := range []struct {
		format string
		quiet  bool
		want   string
	}{
		{"", false, "THE ID    NAME\n1         one\n2         two\n"},
		{"table", false, "THE ID    NAME\n1         one\n2         two\n"},
		{"", true, "1\n2\n"},
		{`table {{.Name|upper}}\t{{.Label "com.x.my-label"}}`, false, "NAME      my label\nONE       v\nTWO       \n"},
		{"json", false, `{"ID":"1","Name":"one"}` + "\n" + `{"ID":"2","Name":"two"}` + "\n"},
		{`{{.ID}}-{{title .Name}}-{{truncate .Name 2}}-{{pad .Name 1 1}}`, false, "1-One-on- one \n2-Two-tw- two \n"},
		{`{{join (split .Name "n") "+"}}`, false, "o+e\ntwo\n"},
	} {
		var out bytes.Buffer
		if err := (&app{out: &out}).list(l, test.format, test.quiet, records); err != nil || out.String() != test.want {
			t.Errorf("format %q: %q, %v; want %q", test.format, out.String(), err, test.want)
		}
	}
	for _, bad := range []string{"{{", "{{.Nope}}", "{{nope .ID}}", "table {{.Nope}}"} {
		if err := (&app{out: &bytes.Buffer{}}).list(l, bad, false, records); err == nil {
			t.Errorf("format %q was accepted", bad)
		}
	}
}

// Every field of a record has a heading and the other way round, or a table template would fail on one of them.
func TestHeadingsMatchRecords(t *testing.T) {
	check := func(kind string, h headings, r record) {
		for name := range h {
			if _, ok := r[name]; !ok {
				t.Errorf("%s: heading %s has no field", kind, name)
			}
		}
		for name := range r {
			if _, ok := h[name]; !ok && name != labelsKey {
				t.Errorf("%s: field %s has no heading", kind, name)
			}
		}
	}
	check("container", containerHeadings(), containerRecord(&container.Summary{}, false))
	check("stats", statsListing().headings, statsRecord("c", &container.StatsResponse{}, false))
}

func TestPortText(t *testing.T) {
	ip4, ip6 := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::")
	got := portText([]container.PortSummary{
		{PrivatePort: 443, Type: "tcp"},
		{IP: ip6, PrivatePort: 80, PublicPort: 8000, Type: "tcp"},
		{IP: ip4, PrivatePort: 81, PublicPort: 8001, Type: "tcp"},
		{IP: ip4, PrivatePort: 80, PublicPort: 8000, Type: "tcp"},
		{IP: ip4, PrivatePort: 82, PublicPort: 9000, Type: "tcp"},
		{IP: ip4, PrivatePort: 83, PublicPort: 9001, Type: "udp"},
	})
	want := "0.0.0.0:8000-8001->80-81/tcp, [::]:8000->80/tcp, 0.0.0.0:9000->82/tcp, 0.0.0.0:9001->83/udp, 443/tcp"
	if got != want {
		t.Errorf("ports %q, want %q", got, want)
	}
}

func TestPsAndInspect(t *testing.T) {
	s := newEngineStub(t)
	s.on("GET /containers/json", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, []map[string]any{{
			"Id": strings.Repeat("a", 64), "Names": []string{"/n", "/other/link"}, "Image": "img", "Command": "sleep 1000000000000000000",
			"Status": "Up 2 hours", "Labels": map[string]string{"a": "b"}, "Created": time.Now().Add(-2 * time.Hour).Unix(),
		}})
	})
	s.gantry("", "ps", "-a", "-f", "status=exited", "--format", "{{.ID}}|{{.Names}}|{{.Command}}|{{.RunningFor}}|{{.Labels}}").
		want(t, 0, "aaaaaaaaaaaa|n|\"sleep 1000000000000…\"|2 hours ago|a=b\n")
	if want := `GET /containers/json?all=1&filters=%7B%22status%22%3A%7B%22exited%22%3Atrue%7D%7D`; s.seen()[0] != want {
		t.Errorf("request %s, want %s", s.seen()[0], want)
	}
	s.gantry("", "ps", "-ql").want(t, 0, "aaaaaaaaaaaa\n")
	if want := "GET /containers/json?limit=1"; s.seen()[1] != want {
		t.Errorf("request %s, want %s", s.seen()[1], want)
	}
	s.on("GET /containers/c1/json", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"Id": "c1", "State": map[string]any{"ExitCode": 3}, "GantryOnly": "xy"})
	})
	s.gantry("", "inspect", "-f", "{{.State.ExitCode}} {{.ID}}", "c1").want(t, 0, "3 c1\n")
	s.gantry("", "inspect", "-f", "{{.GantryOnly}}", "c1").want(t, 0, "xy\n")
	s.gantry("", "inspect", "-f", "{{.Nope}}", "c1").want(t, 1, "", "format: ")
	got := s.gantry("", "inspect", "nope", "c1")
	got.want(t, 1, got.out, "no such object: nope")
	if !strings.HasPrefix(got.out, "[\n    {\n        \"GantryOnly\": \"xy\"") {
		t.Errorf("inspect printed %s", got.out)
	}
}

func TestLogsSplitStreams(t *testing.T) {
	s := newEngineStub(t)
	s.on("GET /containers/c1/json", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"Id": "c1", "Config": map[string]any{"Tty": false}})
	})
	s.on("GET /containers/c1/logs", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(append(frame(1, "out\n"), frame(2, "err\n")...))
	})
	got := s.gantry("", "logs", "-t", "-n", "5", "c1")
	got.want(t, 0, "out\n", "err\n")
	if want := "GET /containers/c1/logs?stderr=1&stdout=1&tail=5&timestamps=1"; s.seen()[1] != want {
		t.Errorf("request %s, want %s", s.seen()[1], want)
	}
}

func TestProgress(t *testing.T) {
	const stream = `{"status":"Pulling from x","id":"latest"}
{"status":"Downloading","id":"l1","progressDetail":{"current":5,"total":10}}
{"status":"Downloading","id":"l1","progressDetail":{"current":10,"total":10}}
{"status":"Pull complete","id":"l1"}
{"status":"Status: done \u001b[2J"}
{"stream":"Loaded image: x\n"}
`
	var plain bytes.Buffer
	if err := showProgress(context.Background(), &plain, messages(strings.NewReader(stream))); err != nil {
		t.Fatal(err)
	}
	want := "latest: Pulling from x\nl1: Downloading\nl1: Pull complete\nStatus: done [2J\nLoaded image: x\n"
	if plain.String() != want {
		t.Errorf("plain progress %q, want %q", plain.String(), want)
	}
	var screen bytes.Buffer
	p := progress{out: &screen, terminal: true, width: 60, height: 24, lines: map[string]string{}}
	for m, err := range messages(strings.NewReader(stream)) {
		if err != nil {
			t.Fatal(err)
		}
		if err := p.show(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []string{"l1: Downloading  [===============>              ] 5B/10B\n", "\x1b[1A\r\x1b[2Kl1: Pull complete\r\x1b[1B"} {
		if !strings.Contains(screen.String(), part) {
			t.Errorf("terminal progress %q lacks %q", screen.String(), part)
		}
	}
	screen.Reset()
	p = progress{out: &screen, terminal: true, width: 60, height: 2, lines: map[string]string{}}
	for _, m := range []jsonstream.Message{{ID: "a", Status: "x"}, {ID: "b", Status: "x"}, {ID: "a", Status: "y"}, {ID: "b", Status: "y"}} {
		if err := p.show(m); err != nil {
			t.Fatal(err)
		}
	}
	if want := "a: x\nb: x\n\x1b[1A\r\x1b[2Kb: y\r\x1b[1B"; screen.String() != want {
		t.Errorf("on two lines: %q, want %q", screen.String(), want)
	}
	err := showProgress(context.Background(), &plain, messages(strings.NewReader(`{"errorDetail":{"message":"denied"}}`)))
	if err == nil || err.Error() != "denied" {
		t.Errorf("error %v, want denied", err)
	}
	if err := showProgress(context.Background(), &plain, messages(strings.NewReader(`{"status":`))); err == nil {
		t.Error("a truncated stream is no error")
	}
}

func TestRegistryAuth(t *testing.T) {
	dir, bin := t.TempDir(), t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	helper := "#!/bin/sh\nread server\n[ \"$server\" = helped.example ] || { echo 'credentials not found in native keychain'; exit 1; }\n" +
		`echo '{"ServerURL":"helped.example","Username":"<token>","Secret":"tok"}'` + "\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-fake"), []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	config := `{"auths":{"https://index.docker.io/v1/":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("u:p:w")) + `"},
		"plain.example:5000":{"username":"x","password":"y"},"bad.example":{"auth":"!"}},
		"credHelpers":{"helped.example":"fake","empty.example":"fake","broken.example":"nonexistent"}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]string{
		"alpine": "u p:w  https://index.docker.io/v1/", "plain.example:5000/a/b": "x y  plain.example:5000", "helped.example/a": "  tok helped.example",
		"empty.example/a": "", "other.example/a": "",
	} {
		encoded, err := registryAuth(image)
		if err != nil || (encoded == "") != (want == "") {
			t.Errorf("%s: %q, %v", image, encoded, err)
			continue
		}
		if encoded == "" {
			continue
		}
		auth, err := authconfig.Decode(encoded)
		if got := auth.Username + " " + auth.Password + " " + auth.IdentityToken + " " + auth.ServerAddress; err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", image, got, err, want)
		}
	}
	for _, image := range []string{"bad.example/a", "broken.example/a"} {
		if _, err := registryAuth(image); err == nil {
			t.Errorf("%s: no error", image)
		}
	}
}

func TestShowEvent(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out}
	e := events.Message{Type: "container", Action: "die", Actor: events.Actor{ID: "c1", Attributes: map[string]string{"name": "n", "exitCode": "0"}}, TimeNano: 1}
	if err := a.showEvent(nil, e); err != nil || !strings.HasSuffix(out.String(), " container die c1 (exitCode=0, name=n)\n") {
		t.Errorf("event %q, %v", out.String(), err)
	}
}

func TestTransferDetaches(t *testing.T) {
	s := newEngineStub(t)
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	received := make(chan string, 1)
	s.output = func(conn net.Conn) {
		buf := make([]byte, 16)
		n, _ := conn.Read(buf)
		received <- string(buf[:n])
		<-done
	}
	var out bytes.Buffer
	a := &app{out: &out, errOut: &out, host: "unix://" + s.socket}
	defer a.close()
	api, err := a.engine(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := api.ContainerAttach(context.Background(), "c1", nil)
	if err != nil {
		t.Fatal(err)
	}
	session := session{in: strings.NewReader("hi\x10\x11"), out: &out, tty: true, detachKeys: detach.DefaultKeys}
	if err := session.transfer(conn); err == nil || err.Error() != "read escape sequence" {
		t.Errorf("transfer ended with %v", err)
	}
	if got := <-received; got != "hi" {
		t.Errorf("the container read %q", got)
	}
}

func messages(r io.Reader) iter.Seq2[jsonstream.Message, error] {
	return (&client.Messages{ReadCloser: io.NopCloser(r)}).All()
}

// TestHarmlessOutput: text that others wrote does nothing to a terminal, in errors, warnings and tables.
func TestHarmlessOutput(t *testing.T) {
	const evil = "a\x1b[2J\u009b31m\x07\rb"
	s := newEngineStub(t)
	s.on("GET /containers/json", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, []map[string]any{{"Id": "1", "Names": []string{"/c"}, "Command": evil, "Image": evil, "Labels": map[string]string{"l": evil}}})
	})
	s.on("GET /containers/c/top", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"Titles": []string{"CMD"}, "Processes": [][]string{{evil}}})
	})
	s.on("GET /images/evil/json", refuse(http.StatusNotFound, evil))
	s.on("DELETE /containers/c", refuse(http.StatusConflict, evil))
	for _, args := range [][]string{
		{"ps"}, {"ps", "--no-trunc"}, {"ps", "--format", `{{.Image}} {{.Command}} {{.Labels}} {{.Label "l"}}`}, {"top", "c"}, {"rm", "c"}, {"image", "inspect", "evil"},
	} {
		r := s.gantry("", args...)
		for _, c := range r.out + r.errOut {
			if c < ' ' && c != '\n' && c != '\t' || c >= 0x7f && c < 0xa0 {
				t.Errorf("%v: %q has %q", args, r.out+r.errOut, c)
			}
		}
		if !strings.Contains(r.out+r.errOut, "a[2J31mb") {
			t.Errorf("%v: %q", args, r.out+r.errOut)
		}
	}
}
