package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
)

// answer is what came back for one request; a body is read only where it has an end, of an error.
type answer struct {
	status  int
	message string // of {"message": …}
	body    []byte
	header  http.Header
}

// send writes a request byte by byte as given, so that it may be wrong in ways that no HTTP client lets through.
// An answer that does not come is an error.
func (d *daemon) send(method, target, contentType string, body []byte) (answer, error) {
	var a answer
	conn, err := net.Dial("unix", strings.TrimPrefix(d.host, "unix://"))
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return a, err
	}
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: gantry\r\nConnection: close\r\n", method, target)
	if contentType != "" {
		fmt.Fprintf(&head, "Content-Type: %s\r\n", contentType)
	}
	fmt.Fprintf(&head, "Content-Length: %d\r\n\r\n", len(body))
	go func() { // the answer may come before the end of the body
		_, _ = io.Copy(conn, io.MultiReader(strings.NewReader(head.String()), bytes.NewReader(body)))
	}()
	r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return a, fmt.Errorf("no answer: %w", err)
	}
	defer r.Body.Close()
	a.status, a.header = r.StatusCode, r.Header
	if r.StatusCode < 400 {
		if r.StatusCode == http.StatusCreated {
			a.body, err = io.ReadAll(io.LimitReader(r.Body, 1<<20))
		}
		return a, err
	}
	if a.body, err = io.ReadAll(io.LimitReader(r.Body, 1<<20)); err != nil {
		return a, fmt.Errorf("the answer breaks off: %w", err)
	}
	var m struct{ Message *string }
	if err := json.Unmarshal(a.body, &m); err != nil || m.Message == nil || *m.Message == "" {
		return a, fmt.Errorf("status %d without a message: %q", a.status, a.body)
	}
	a.message = *m.Message
	return a, nil
}

// allRoutes are the routes of the API, read from the source of the table so that none is forgotten.
func allRoutes(t *testing.T) []string {
	t.Helper()
	source, err := os.ReadFile("../../internal/api/docker/routes.go")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range regexp.MustCompile(`s\.handle\("([^"]+)", `).FindAllStringSubmatch(string(source), -1) {
		switch route := m[1]; {
		case route == "/":
		case strings.HasPrefix(route, "/"):
			list = append(list, "GET "+route, "POST "+route, "DELETE "+route)
		default:
			list = append(list, route)
		}
	}
	for _, tag := range []string{"swarm", "nodes", "services", "tasks", "secrets", "configs"} {
		list = append(list, "GET /"+tag, "POST /"+tag+"/create")
	}
	list = append(list, "GET /images/{name}/json", "GET /images/{name}/history", "GET /images/{name}/get", "POST /images/{name}/tag", "POST /images/{name}/push")
	if len(list) < 60 {
		t.Fatalf("only %d routes were found", len(list))
	}
	return list
}

// fill puts an identifier into a route's path.
func fill(path, id string) string {
	return strings.NewReplacer("{id}", id, "{name...}", id, "{name}", id, "{rest...}", id, "{$}", "").Replace(path)
}

// refusal fails the test unless the answer is a refusal that a client can show: never a fault of the engine's (500), never silence.
func refusal(t *testing.T, what string, a answer, err error, want ...int) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if !slices.Contains(want, a.status) {
		t.Errorf("%s: status %d %q, want one of %d", what, a.status, a.message, want)
	}
}

// TestBadIdentifiers asks every route for things that cannot be.
func TestBadIdentifiers(t *testing.T) {
	unchanged(t, shared)
	ids := []string{
		"nosuch", "%2e", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%00b", "%00", "%ff%fe", "%F0%9F%92%A5", "a%0d%0ab", strings.Repeat("a", 10_000),
		"%20", "%7bid%7d", "-", "a:b:c", "UPPER", "a@b", "%25s%25n", "sha256:abc", "sha256:" + strings.Repeat("0", 64), strings.Repeat("0", 64),
	}
	for _, route := range allRoutes(t) {
		method, path, _ := strings.Cut(route, " ")
		if !strings.Contains(path, "{") || path == "/networks/{$}" {
			continue
		}
		for _, version := range []string{"", "/v1.44"} {
			for _, id := range ids {
				a, err := shared.send(method, version+fill(path, id), "application/json", []byte(`{"Cmd":["true"]}`))
				refusal(t, route+" of "+short(id), a, err, 400, 404, 501, 503)
			}
			for _, id := range []string{"..", "a//b", "../../x"} { // the clean path is offered, as docker does
				a, err := shared.send(method, version+fill(path, id), "application/json", nil)
				refusal(t, route+" of "+id, a, err, 301, 307)
			}
		}
	}
	alive(t, shared)
}

func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// alive fails the test unless the engine still does its work.
func alive(t *testing.T, d *daemon) {
	t.Helper()
	if got := must(t, command("gantry", d, "run", "--rm", "toolbox", "echo", "alive")); got != "alive" {
		t.Errorf("afterwards a container says %q", got)
	}
	if log := read(t, d.log.Name()); strings.Contains(log, "panic in") || strings.Contains(log, "goroutine ") {
		t.Errorf("the engine's log tells of a panic:\n%s", log)
	}
}

// badBodies are bodies that no route can take for what it wants.
func badBodies() map[string][]byte {
	return map[string][]byte{
		"broken": []byte(`{"Image":`), "not JSON": []byte("hello"), "an array": []byte(`[]`), "a string": []byte(`"x"`), "a number": []byte(`7`),
		"true": []byte(`true`), "two values": []byte(`{}{}`), "trailing text": []byte(`{} x`), "space": []byte("  \n"), "NUL": {0}, "not UTF-8": {'{', 0xff, 0xfe},
		"deep arrays":      bytes.Repeat([]byte{'['}, 1<<20),
		"deep objects":     bytes.Repeat([]byte(`{"a":`), 1<<18),
		"closed deep ones": append(append([]byte(`{"HostConfig":`), bytes.Repeat([]byte{'['}, 1<<19)...), bytes.Repeat([]byte{']'}, 1<<19)...),
		"wrong field":      []byte(`{"HostConfig":7,"Image":[],"Cmd":{},"Memory":"x","Detach":"x","Name":[],"Labels":7,"Tty":{}}`),
		"huge number":      []byte(`{"HostConfig":{"Memory":1e400},"Memory":99999999999999999999,"Cmd":[1],"Detach":5,"Driver":5}`),
	}
}

// readers are the routes that read JSON: the requests stand for each.
func readers(id string) []string {
	return []string{
		"/containers/create", "/gantry/plan", "/containers/" + id + "/update", "/containers/" + id + "/exec", "/exec/nosuch/start", "/volumes/create",
	}
}

// TestBadBodies sends what is no JSON, or JSON of something else, to the routes that read a body, and to those that do not.
func TestBadBodies(t *testing.T) {
	id := must(t, command("gantry", shared, "run", "-d", "toolbox", "sleep", "1000"))
	t.Cleanup(func() { must(t, command("gantry", shared, "rm", "-f", id)) })
	unchanged(t, shared)
	for _, version := range []string{"", "/v1.44"} {
		for what, body := range badBodies() {
			for _, target := range readers(id) {
				a, err := shared.send("POST", version+target, "application/json", body)
				refusal(t, what+" to "+target, a, err, 400)
			}
		}
		for _, target := range readers(id) {
			a, err := shared.send("POST", version+target, "text/plain", []byte(`{"Image":"toolbox"}`))
			refusal(t, "a foreign type to "+target, a, err, 400)
			a, err = shared.send("POST", version+target, "", []byte(`{"Image":"toolbox"}`))
			refusal(t, "no type to "+target, a, err, 400)
			a, err = shared.send("POST", version+target, "application/json", append([]byte(`{"Image":"`), bytes.Repeat([]byte{'a'}, 5<<20)...))
			refusal(t, "a huge body to "+target, a, err, 413)
		}
	}
	for what, body := range badBodies() {
		for _, route := range allRoutes(t) {
			method, path, _ := strings.Cut(route, " ")
			if method == "GET" || !strings.Contains(path, "{") {
				continue
			}
			a, err := shared.send(method, fill(path, "nosuch"), "application/json", body)
			refusal(t, what+" to "+route, a, err, 400, 404, 501, 503)
		}
	}
	for _, target := range []string{"/containers/create", "/gantry/plan", "/containers/" + id + "/exec"} {
		a, err := shared.send("POST", target, "application/json", nil)
		refusal(t, "no body to "+target, a, err, 400)
	}
	for what, body := range badBodies() { // an archive that is none
		a, err := shared.send("POST", "/images/load", "application/x-tar", body)
		refusal(t, what+" to /images/load", a, err, 400)
	}
	alive(t, shared)
}

// TestBadFields gives each field of the bodies every wrong kind of value. encoding/json, on the API's own types, says which are wrong.
func TestBadFields(t *testing.T) {
	id := must(t, command("gantry", shared, "run", "-d", "toolbox", "sleep", "1000"))
	t.Cleanup(func() { must(t, command("gantry", shared, "rm", "-f", id)) })
	unchanged(t, shared)
	kinds := []string{`"x"`, `""`, `7`, `-1`, `1.5`, `99999999999999999999`, `true`, `[]`, `[1]`, `[null]`, `{}`, `{"x":1}`, `null`, `[["x"]]`, `[{"x":[]}]`, `"\u0000"`}
	for _, c := range []struct {
		target, wrap string
		body         any
		accepted     int
	}{
		{"/containers/create", `{"Image":"toolbox",%s}`, container.Config{}, 201},
		{"/containers/create", `{"Image":"toolbox","HostConfig":{%s}}`, container.HostConfig{}, 201},
		{"/containers/create", `{"Image":"toolbox","NetworkingConfig":{"EndpointsConfig":{"bridge":{%s}}}}`, network.EndpointSettings{}, 201},
		{"/containers/create", `{"Image":"toolbox","HostConfig":{"Mounts":[{%s}]}}`, mount.Mount{}, 201},
		{"/gantry/plan", `{"Image":"toolbox","HostConfig":{%s}}`, container.HostConfig{}, 200},
		{"/containers/" + id + "/update", `{%s}`, container.UpdateConfig{}, 200},
		{"/containers/" + id + "/exec", `{"Cmd":["true"],%s}`, container.ExecCreateRequest{}, 201},
		{"/volumes/create", `{%s}`, volume.CreateRequest{}, 201},
	} {
		for _, field := range fieldsOf(reflect.TypeOf(c.body)) {
			for _, kind := range kinds {
				body := fmt.Sprintf(c.wrap, fmt.Sprintf("%q:%s", field, kind))
				into := reflect.New(reflect.TypeOf(c.body)).Interface()
				want := []int{400, 404, 409, 501, 503, c.accepted}
				if json.Unmarshal(fmt.Appendf(nil, "{%q:%s}", field, kind), into) != nil {
					want = []int{400}
				}
				a, err := shared.send("POST", c.target, "application/json", []byte(body))
				refusal(t, c.target+" "+body, a, err, want...)
				shared.forget(t, c.target, a)
			}
		}
	}
	alive(t, shared)
}

// forget removes what a request made that turned out to be a good one.
func (d *daemon) forget(t *testing.T, target string, a answer) {
	t.Helper()
	var made struct{ ID, Name string }
	if a.status != 201 || strings.HasSuffix(target, "/exec") {
		return
	}
	if err := json.Unmarshal(a.body, &made); err != nil {
		t.Errorf("%s made %q: %v", target, a.body, err)
		return
	}
	route := "/containers/" + made.ID + "?force=1&v=1"
	if made.Name != "" {
		route = "/volumes/" + made.Name
	}
	if r, err := d.send("DELETE", route, "", nil); err != nil || r.status != 204 {
		t.Errorf("DELETE %s: %v %d %s", route, err, r.status, r.message)
	}
}

// fieldsOf lists the JSON names of a structure's fields, embedded ones among them.
func fieldsOf(t reflect.Type) []string {
	var list []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			list = append(list, fieldsOf(f.Type)...)
			continue
		case name == "-" || !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		list = append(list, name)
	}
	return list
}
