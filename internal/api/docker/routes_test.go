package docker

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"gantry/internal/engine"
)

// do sends one request to a handler over f and returns the answer.
func do(f *fake, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	New(f, "9.9").ServeHTTP(w, r)
	return w
}

func messageOf(w *httptest.ResponseRecorder) string {
	var m struct{ Message string }
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		return "not JSON: " + w.Body.String()
	}
	return m.Message
}

// routes lists every route that reaches the backend: the request, its success and what the backend is asked.
var routes = []struct {
	method, target, body string
	status               int
	call                 string
}{
	{"GET", "/containers/json?all=1&limit=3&size=true&filters=%7B%22name%22%3A%5B%22a%22%5D%7D", "", 200, "list {All:true Limit:3 Size:true Filters:map[name:map[a:true]]}"},
	{"GET", "/containers/json?before=x", "", 200, "list {All:false Limit:0 Size:false Filters:map[before:map[x:true]]}"},
	{"POST", "/containers/create?name=/one", `{"Image":"debian"}`, 201, "create one"},
	{"POST", "/gantry/plan", `{"Image":"debian"}`, 200, "plan debian"},
	{"GET", "/containers/c1/json?size=1", "", 200, "inspect c1 true"},
	{"GET", "/containers/c1/top?ps_args=aux", "", 200, "top c1 aux"},
	{"GET", "/containers/c1/logs?stdout=1&tail=5&since=3&until=4.5", "", 200, "inspect c1 false; logs c1 true false tail=5 follow=false since=3 until=4"},
	{"GET", "/containers/c1/logs?stderr=1&tail=all&follow=1", "", 200, "inspect c1 false; logs c1 false true tail=-1 follow=true since=0 until=0"},
	{"GET", "/containers/c1/stats", "", 200, "stats c1 true false"},
	{"GET", "/containers/c1/stats?stream=0&one-shot=1", "", 200, "stats c1 false true"},
	{"POST", "/containers/c1/start", "", 204, "start c1"},
	{"POST", "/containers/c1/stop?t=5&signal=INT", "", 204, "stop c1 INT 5"},
	{"POST", "/v1.41/containers/c1/stop?signal=INT", "", 204, "stop c1  -"},
	{"POST", "/containers/c1/restart?t=-1", "", 204, "restart c1  -1"},
	{"POST", "/containers/c1/kill?signal=HUP", "", 204, "kill c1 HUP"},
	{"POST", "/containers/c1/pause", "", 204, "pause c1"},
	{"POST", "/containers/c1/unpause", "", 204, "unpause c1"},
	{"POST", "/containers/c1/rename?name=two", "", 204, "rename c1 two"},
	{"POST", "/containers/c1/update", `{"Memory":5}`, 200, "update c1"},
	{"POST", "/containers/c1/resize?h=24&w=80", "", 200, "resize c1 24x80"},
	{"DELETE", "/containers/c1?force=1&v=1", "", 204, "remove c1 {Force:true Volumes:true Link:false}"},
	{"POST", "/containers/prune?filters=%7B%22label%22%3A%7B%22a%22%3Atrue%7D%7D", "", 200, "prune containers map[label:map[a:true]]"},
	{"POST", "/containers/c1/exec", `{"Cmd":["ls"]}`, 201, "exec c1 [ls]"},
	{"POST", "/exec/x1/start", `{"Detach":true}`, 200, "exec start x1 true false"},
	{"POST", "/exec/x1/resize?h=1&w=2", "", 200, "exec resize x1 1x2"},
	{"GET", "/images/json?all=1", "", 200, "images true map[]"},
	{"GET", "/v1.24/images/json?filter=deb", "", 200, "images false map[reference:map[deb:true]]"},
	{"GET", "/images/host:5000/a/b:1/json?platform=linux/arm64", "", 200, "image host:5000/a/b:1 arm64"},
	{"GET", "/images/json/json", "", 200, "image json "},
	{"GET", "/images/a/b/history", "", 200, "history a/b"},
	{"POST", "/images/a/b/tag?repo=c&tag=1", "", 201, "tag a/b c:1"},
	{"DELETE", "/images/a/b:2?force=1&noprune=1", "", 200, "rmi a/b:2 true true"},
	{"POST", "/images/prune", "", 200, "prune images map[]"},
	{"POST", "/images/load?quiet=1", "{}", 200, "load"},
	{"GET", "/volumes", "", 200, "volumes map[]"},
	{"POST", "/volumes/create", `{"Name":"v"}`, 201, "create volume v"},
	{"GET", "/volumes/v", "", 200, "volume v"},
	{"DELETE", "/volumes/v?force=1", "", 204, "remove volume v true"},
	{"POST", "/volumes/prune", "", 200, "prune volumes map[]"},
	{"POST", "/v1.41/volumes/prune", "", 200, "prune volumes map[all:map[true:true]]"},
	{"GET", "/networks", "", 200, "networks map[]"},
	{"GET", "/networks/", "", 200, "networks map[]"},
	{"GET", "/networks/bridge", "", 200, "network bridge"},
	{"GET", "/info", "", 200, "info"},
	{"GET", "/networks/a%2Fb", "", 200, "network a/b"},
	{"POST", "/exec/x1/start?", `{"Detach":true,"Tty":true}`, 200, "exec start x1 true true"},
	{"POST", "/volumes/create", "", 201, "create volume "},
}

func TestRoutes(t *testing.T) {
	for _, c := range routes {
		prefixes := []string{""}
		if !strings.HasPrefix(c.target, "/v1.") {
			prefixes = []string{"", "/v" + MaxAPIVersion, "/v1.44"}
		}
		for _, prefix := range prefixes {
			f := &fake{}
			w := do(f, c.method, prefix+c.target, c.body)
			if w.Code != c.status {
				t.Errorf("%s %s%s: status %d, want %d (%s)", c.method, prefix, c.target, w.Code, c.status, w.Body)
			}
			if got := f.took(); got != c.call {
				t.Errorf("%s %s%s: backend got %q, want %q", c.method, prefix, c.target, got, c.call)
			}
			if got := w.Header().Get("Server"); got != "Gantry/9.9 (linux)" {
				t.Errorf("%s: Server: %q", c.target, got)
			}
		}
	}
}

// TestBackendErrors sends every error class through every route.
func TestBackendErrors(t *testing.T) {
	classes := []struct {
		err    error
		status int
	}{
		{errdefs.ErrNotFound.WithMessage("no such thing"), 404},
		{errdefs.ErrInvalidArgument.WithMessage("bad"), 400},
		{errdefs.ErrConflict.WithMessage("busy"), 409},
		{errdefs.ErrAlreadyExists.WithMessage("there"), 409},
		{errdefs.ErrFailedPrecondition.WithMessage("paused"), 409},
		{errdefs.ErrUnavailable.WithMessage("later"), 503},
		{errdefs.ErrUnauthenticated.WithMessage("who"), 401},
		{errdefs.ErrPermissionDenied.WithMessage("no"), 403},
		{errdefs.ErrNotImplemented.WithMessage("not yet"), 501},
		{errors.New("broken"), 500},
		{engine.ErrNotModified, 304},
	}
	for _, c := range routes {
		if strings.Contains(c.target, "follow=1") {
			continue // the header is out before the backend is asked; see TestLogErrors
		}
		for _, class := range classes {
			w := do(&fake{err: class.err}, c.method, c.target, c.body)
			if w.Code != class.status {
				t.Errorf("%s %s with %v: status %d, want %d", c.method, c.target, class.err, w.Code, class.status)
			}
			if class.status == 304 {
				if w.Body.Len() != 0 {
					t.Errorf("%s: 304 with a body: %s", c.target, w.Body)
				}
			} else if got := messageOf(w); got != class.err.Error() {
				t.Errorf("%s: message %q, want %q", c.target, got, class.err)
			}
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	for _, c := range routes {
		if strings.Contains(c.target, "/logs") {
			continue
		}
		if w := do(&fake{panic: true}, c.method, c.target, c.body); w.Code != 500 {
			t.Errorf("%s %s: status %d after a panic", c.method, c.target, w.Code)
		}
	}
}

// TestPanicMidAnswer breaks the connection, so that the client sees an incomplete answer.
func TestPanicMidAnswer(t *testing.T) {
	h := New(&fake{}, "9.9").(*server)
	h.handle("GET /half", func(w *response, _ *http.Request) error {
		_, err := io.WriteString(w, "half")
		w.Flush()
		if err != nil {
			return err
		}
		panic("a bug")
	})
	srv := httptest.NewServer(h)
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/half")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half an answer looked whole")
	}
}

func TestRefused(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	for _, c := range []struct {
		method, target, body string
		status               int
		message              string
	}{
		{"GET", "/nothing", "", 404, "page not found"},
		{"GET", "/v1.44/nothing", "", 404, "page not found"},
		{"GET", "/", "", 404, "page not found"},
		{"PUT", "/containers/json", "", 404, "page not found"},
		{"GET", "/images/a/b", "", 404, "page not found"},
		{"GET", "/images/a", "", 404, "page not found"},
		{"POST", "/images/a/b/c", "", 404, "page not found"},
		{"GET", "/images/a/b/get", "", 501, "saving images is not implemented by this engine"},
		{"POST", "/images/a/b/push", "", 501, "pushing images is not implemented by this engine"},
		{"DELETE", "/images/a?platforms=x", "", 501, "removing single platforms of an image is not implemented by this engine"},
		{"GET", "/images/a/json?platform=%7B%7D", "", 400, "parameter platform: both os and architecture must be provided"},
		{"POST", "/containers/c1/restart?t=x", "", 400, `parameter t: "x" is not a whole number`},
		{"POST", "/containers/c1/start?checkpoint=x", "", 501, "starting from a checkpoint is not implemented by this engine"},
		{"POST", "/images/a/b", "", 404, "page not found"},
		{"GET", "/v1.99/info", "", 400, "client version 1.99 is too new. Maximum supported API version is " + MaxAPIVersion},
		{"GET", "/v2.0/info", "", 400, "client version 2.0 is too new. Maximum supported API version is " + MaxAPIVersion},
		{"GET", "/v1.23/info", "", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"},
		{"GET", "/v1/info", "", 400, `API version "1" is not of the form 1.41`},
		{"GET", "/v1.2.3/info", "", 400, `API version "1.2.3" is not of the form 1.41`},
		{"POST", "/containers/create", "{", 400, "invalid JSON: unexpected end of JSON input"},
		{"POST", "/containers/create", "", 400, "unsupported Content-Type header (): must be 'application/json'"},
		{"POST", "/containers/create", " ", 400, "invalid JSON: got EOF while reading request body"},
		{"POST", "/containers/create", `{} {}`, 400, "invalid JSON: invalid character '{' after top-level value"},
		{"POST", "/containers/create", deep, 400, "invalid JSON: nested deeper than 64 levels"},
		{"POST", "/containers/create", `{"HostConfig":{}}`, 400, "config cannot be empty in order to create a container"},
		{"POST", "/containers/create", `"` + strings.Repeat("a", maxBody) + `"`, 413, "read request body: http: request body too large"},
		{"POST", "/containers/create?platform=a/b/c/d", `{}`, 400, `parameter platform: "a/b/c/d": cannot parse platform specifier: invalid argument`},
		{"POST", "/containers/c1/update", "[]", 400, "invalid JSON: json: cannot unmarshal array into Go value of type container.UpdateConfig"},
		{"POST", "/containers/c1/exec", "{}", 400, "no exec command specified"},
		{"POST", "/exec/x1/start", "nope", 400, "invalid JSON: invalid character 'o' in literal null (expecting 'u')"},
		{"POST", "/volumes/create", "{]", 400, "invalid JSON: invalid character ']' looking for beginning of object key string"},
		{"GET", "/containers/json?filters=nope", "", 400, "invalid filters: invalid JSON: invalid character 'o' in literal null (expecting 'u')"},
		{"GET", "/containers/json?filters=%7B%22a%22%3A1%7D", "", 400, `invalid filters: the values of "a" are neither an object of booleans nor a list of strings`},
		{"GET", "/containers/json?limit=x", "", 400, `parameter limit: "x" is not a whole number`},
		{"GET", "/containers/c1/logs", "", 400, "Bad parameters: you must choose at least one stream"},
		{"GET", "/containers/c1/logs?stdout=1&since=x", "", 400, `parameter since: "x" is not a Unix time in seconds`},
		{"GET", "/events?since=5&until=4", "", 400, "`since` time (5) cannot be after `until` time (4)"},
		{"GET", "/containers/c1/stats?one-shot=1", "", 400, "cannot have stream=true and one-shot=true"},
		{"POST", "/containers/c1/start", `{"Binds":[]}`, 400, "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"},
		{"POST", "/containers/c1/stop?t=x", "", 400, `parameter t: "x" is not a whole number`},
		{"POST", "/containers/c1/wait?condition=never", "", 400, `invalid condition: "never"`},
		{"POST", "/containers/c1/resize?h=1&w=-1", "", 400, `invalid resize parameter w: "-1" is not a number from 0 to 65535`},
		{"POST", "/containers/c1/rename", "", 400, "Neither old nor new names may be empty"},
		{"POST", "/images/create", "", 400, "one of the parameters fromImage and fromSrc is needed"},
		{"POST", "/images/create?fromImage=A:b", "", 400, `invalid reference "A:b": invalid reference format: repository name (library/A) must be lowercase`},
		{"POST", "/images/a/tag", "", 400, "tag image a: the parameter repo is empty"},
		{"POST", "/images/create?fromSrc=-", "", 501, "importing an image from a file system archive is not implemented by this engine"},
		{"POST", "/images/create?fromImage=debian", "", 501, "pulling all tags of debian (give a tag, such as latest) is not implemented by this engine"},
		{"GET", "/containers/c1/archive", "", 400, "bad parameter: 'path' cannot be empty"},
		{"PUT", "/containers/c1/archive?path=", "", 400, "bad parameter: 'path' cannot be empty"},
		{"POST", "/networks/create", "{}", 501, "creating networks is not implemented by this engine"},
		{"POST", "/session", "", 501, "the session of BuildKit is not implemented by this engine"},
		{"GET", "/services/x/logs", "", 503, "this engine is not a swarm manager: it runs containers on one machine only"},
		{"GET", "/swarm", "", 503, "this engine is not a swarm manager: it runs containers on one machine only"},
	} {
		f := &fake{}
		w := do(f, c.method, c.target, c.body)
		if w.Code != c.status || messageOf(w) != c.message {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.target, w.Code, messageOf(w), c.status, c.message)
		}
		if got := f.took(); got != "" {
			t.Errorf("%s %s: the backend was asked: %s", c.method, c.target, got)
		}
		if ct := w.Header().Get("Content-Type"); ct != "application/json" {
			t.Errorf("%s %s: Content-Type %q", c.method, c.target, ct)
		}
	}
}

func TestPing(t *testing.T) {
	for _, method := range []string{"GET", "HEAD"} {
		for _, target := range []string{"/_ping", "/v1.30/_ping"} {
			w := do(&fake{}, method, target, "")
			h := w.Header()
			if w.Code != 200 || h.Get("Api-Version") != MaxAPIVersion || h.Get("Ostype") != "linux" || h.Get("Docker-Experimental") != "false" {
				t.Errorf("%s %s: %d %v", method, target, w.Code, h)
			}
			if body := w.Body.String(); (method == "GET") != (body == "OK") {
				t.Errorf("%s %s: body %q", method, target, body)
			}
		}
	}
}

func TestVersionsAgree(t *testing.T) {
	if MaxAPIVersion != client.MaxAPIVersion {
		t.Errorf("MaxAPIVersion is %s, but moby/client speaks %s", MaxAPIVersion, client.MaxAPIVersion)
	}
	var got struct{ Version, ApiVersion, MinAPIVersion string }
	if err := json.Unmarshal(do(&fake{}, "GET", "/version", "").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Version != "9.9" || got.ApiVersion != MaxAPIVersion || got.MinAPIVersion != MinAPIVersion {
		t.Errorf("/version: %+v", got)
	}
}

// TestPruneOfNothing: docker system prune needs these to succeed.
func TestPruneOfNothing(t *testing.T) {
	for target, want := range map[string]string{
		"/networks/prune": `{"NetworksDeleted":[]}`, "/build/prune": `{"CachesDeleted":[],"SpaceReclaimed":0}`,
	} {
		if w := do(&fake{}, "POST", target, ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
		if w := do(&fake{}, "POST", target+"?filters=x", ""); w.Code != 400 {
			t.Errorf("%s with bad filters: %d", target, w.Code)
		}
	}
}

func TestContentTypeWithParameters(t *testing.T) {
	for ct, status := range map[string]int{"application/json; charset=utf-8": 201, "text/plain": 400, "application/x-www-form-urlencoded": 400} {
		r := httptest.NewRequest("POST", "/containers/create", strings.NewReader(`{"Image":"a"}`))
		r.Header.Set("Content-Type", ct)
		w := httptest.NewRecorder()
		New(&fake{}, "9.9").ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("%s: %d, want %d", ct, w.Code, status)
		}
	}
}

func TestUpdateUnlimitedPids(t *testing.T) {
	f := &fake{}
	do(f, "POST", "/containers/c1/update", `{"PidsLimit":-1}`)
	if f.updated.PidsLimit == nil || *f.updated.PidsLimit != 0 {
		t.Errorf("PidsLimit -1 became %v", f.updated.PidsLimit)
	}
}

func BenchmarkPing(b *testing.B)  { benchmark(b, "GET", "/v1.44/_ping") }
func BenchmarkList(b *testing.B)  { benchmark(b, "GET", "/v1.44/containers/json?all=1") }
func BenchmarkStart(b *testing.B) { benchmark(b, "POST", "/v1.44/containers/c1/start") }

// benchmark measures this layer alone: no socket, and a backend that does nothing.
func benchmark(b *testing.B, method, target string) {
	h := New(&fake{}, "9.9")
	r := httptest.NewRequest(method, target, http.NoBody)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}

// waitTime bounds waits for what must come; tests that pass never reach it.
const waitTime = 20 * time.Second
