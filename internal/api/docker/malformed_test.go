package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"gantry/internal/engine"
)

// brisk is a fake whose streams and waits end at once, so that every route answers.
type brisk struct{ *fake }

func (b brisk) AttachContainer(context.Context, string, engine.AttachOptions) (engine.Stream, bool, error) {
	return b.ended("attach")
}

func (b brisk) StartExec(_ context.Context, id string, _ engine.ExecStart) (engine.Stream, bool, error) {
	return b.ended("exec start " + id)
}

func (b brisk) ended(call string) (engine.Stream, bool, error) {
	s, p, err := process()
	if err == nil {
		err = p.Close()
	}
	return s, false, errors.Join(err, b.call("%s", call))
}

func (b brisk) WaitContainer(_ context.Context, id string, c container.WaitCondition) (<-chan engine.WaitResult, error) {
	ended := make(chan engine.WaitResult, 1)
	ended <- engine.WaitResult{}
	return ended, b.call("wait %s %s", id, c)
}

// endpoint is a route with its wildcards filled in.
type endpoint struct{ pattern, method, path string }

// imageVerbs are what routes of one image say after its name, which may hold slashes: no pattern has them.
var imageVerbs = map[string][]string{"GET": {"json", "history", "get", "attestations"}, "POST": {"tag", "push"}, "DELETE": {""}}

// endpoints are all routes that exist, from the router itself, so that a new one is covered by being there.
func endpoints() []endpoint {
	var all []endpoint
	wildcard := regexp.MustCompile(`\{[^}]*\}`)
	for _, pattern := range New(&fake{}, "9.9").(*server).patterns {
		method, path, found := strings.Cut(pattern, " ")
		methods := []string{method}
		if !found {
			methods, path = []string{"GET", "POST", "PUT", "DELETE"}, pattern
		}
		filled := wildcard.ReplaceAllString(strings.TrimSuffix(path, "{$}"), "x1")
		for _, method := range methods {
			if path != "/images/{name...}" {
				all = append(all, endpoint{pattern, method, filled})
				continue
			}
			for _, verb := range imageVerbs[method] {
				all = append(all, endpoint{pattern, method, strings.TrimSuffix(filled+"/"+verb, "/")})
			}
		}
	}
	return all
}

// wrongTypes are, for each route that reads JSON, values of a type or size that a field of it has not.
var wrongTypes = map[string][]string{
	"POST /containers/create": {
		`{"Image":1}`, `{"Image":"a","HostConfig":[]}`, `{"Image":"a","HostConfig":{"Memory":99999999999999999999}}`, `{"Image":"a","HostConfig":{"CpuShares":1e999}}`,
		`{"Image":"a","Env":{"a":"b"}}`, `{"Image":"a","NetworkingConfig":"x"}`, `{"Image":"a","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":80}]}}}`,
		`{"Image":"a","StopTimeout":1.5}`, `{"Image":"a","HostConfig":{"Mounts":{}}}`, `{"Image":"a","HostConfig":{"CapAdd":5}}`, `{"Image":"a","ExposedPorts":{"x/y/z":{}}}`,
	},
	"POST /gantry/plan":            {`{"Image":1}`, `{"Image":"a","HostConfig":{"Memory":1e999}}`},
	"POST /containers/{id}/update": {`{"Memory":"1"}`, `{"Memory":1e999}`, `{"RestartPolicy":1}`, `{"CpuShares":-99999999999999999999}`},
	"POST /containers/{id}/exec":   {`{"Cmd":{}}`, `{"Cmd":"ls"}`, `{"Cmd":["ls"],"Tty":"yes"}`, `{"Cmd":["ls"],"ConsoleSize":[-1,1e99]}`},
	"POST /exec/{id}/start":        {`{"Detach":5}`, `{"Tty":[]}`, `{"ConsoleSize":[-1,-1]}`, `{"ConsoleSize":"80x24"}`},
	"POST /volumes/create":         {`{"Name":[]}`, `{"Labels":{"a":1}}`, `{"DriverOpts":"x"}`},
}

// malformed are bodies that no route may take for JSON of its own.
func malformed() []string {
	const deep = 100_000
	return []string{
		"{", "[", `{"Image":`, `{"Image"}`, `{"Image":"a",}`, `{"Image":"a"`, "nul", "tru", `"`, `"\u12`, "-", "NaN", `{"Memory":NaN}`, `{"Memory":0x10}`, `{"Memory":01}`, `{"Memory":1e}`,
		"[]", "1", "1e999", strings.Repeat("9", 10_000), `"text"`, "true", "{} {}", "\x00", "\ufeff{}", " ",
		"{\"Image\":\"\xff\",\"Name\":\"\xff\",\"Cmd\":[\"\xff\"]}", "{\"\xc3\":1}", "\xff\xfe{\x00}\x00",
		strings.Repeat("[", deep), strings.Repeat(`{"a":`, deep), strings.Repeat("[", deep) + strings.Repeat("]", deep), `{"Image":` + strings.Repeat("[", deep) + strings.Repeat("]", deep) + "}",
		strings.Repeat(`{"HostConfig":`, deep) + "1" + strings.Repeat("}", deep),
	}
}

// caller asks a server whose backend writes down whether it was reached.
type caller struct {
	*testing.T
	backend *fake
	url     string
	client  *http.Client
}

func newCaller(t *testing.T) *caller {
	c := &caller{T: t, backend: &fake{}, client: &http.Client{Timeout: waitTime}}
	srv := httptest.NewServer(New(brisk{c.backend}, "9.9"))
	t.Cleanup(srv.Close)
	c.url = srv.URL
	return c
}

// ask sends one request. Whatever it says, the answer comes, is whole, is no fault of the server, and if it is an error
// then with words in JSON. A route that this engine has not (501, 503) is none that could be at fault.
func (c *caller) ask(e endpoint, query, media string, body io.Reader) (status int, message string) {
	c.Helper()
	target := c.url + e.path
	if query != "" {
		target += "?" + query
	}
	r, err := http.NewRequestWithContext(c.Context(), e.method, target, body)
	if err != nil {
		c.Fatal(err)
	}
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	resp, err := c.client.Do(r)
	if err != nil {
		c.Errorf("%s %s?%.60s: no answer: %.200v", e.method, e.path, query, err)
		return 0, ""
	}
	return c.judge(e, query, resp)
}

func (c *caller) judge(e endpoint, what string, resp *http.Response) (status int, message string) {
	c.Helper()
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Errorf("%s %s?%.60s: half an answer: %v", e.method, e.path, what, err)
	}
	var m struct{ Message string }
	if resp.StatusCode >= 400 && (json.Unmarshal(text, &m) != nil || m.Message == "" || resp.Header.Get("Content-Type") != "application/json") {
		c.Errorf("%s %s?%.60s: status %d without words: %.200q", e.method, e.path, what, resp.StatusCode, text)
	}
	if s := resp.StatusCode; s >= 500 && s != http.StatusNotImplemented && s != http.StatusServiceUnavailable {
		c.Errorf("%s %s?%.60s: status %d: %.200s", e.method, e.path, what, s, m.Message)
	}
	return resp.StatusCode, m.Message
}

// refused tells that the client is told of its mistake, and that the backend has not been asked.
func (c *caller) refused(e endpoint, what string, status int, message string) {
	c.Helper()
	if asked := c.backend.took(); status < 400 || status >= 500 || asked != "" {
		c.Errorf("%s %s with %.80q: status %d (%.100s); the backend was asked: %q", e.method, e.path, what, status, message, asked)
	}
}

// readsJSON tells a route that takes a body of JSON by its refusal of another type.
func (c *caller) readsJSON(e endpoint) bool {
	_, message := c.ask(e, "", "text/plain", strings.NewReader("{}"))
	c.backend.took()
	return strings.HasPrefix(message, "unsupported Content-Type")
}

// TestMalformedBodies sends every route what is no JSON, or not its own.
func TestMalformedBodies(t *testing.T) {
	c := newCaller(t)
	var readers []string
	for _, e := range endpoints() {
		reads := c.readsJSON(e)
		if reads && e.pattern != "/" {
			readers = append(readers, e.pattern)
		}
		c.ask(e, "", "", nil)
		c.ask(e, "", "application/json", nil)
		c.backend.took()
		for _, body := range append(malformed(), wrongTypes[e.pattern]...) {
			status, message := c.ask(e, "", "application/json", strings.NewReader(body))
			if reads {
				c.refused(e, body, status, message)
				status, message = c.ask(e, "", "application/json", io.MultiReader(strings.NewReader(body))) // chunked
				c.refused(e, body, status, message)
			}
			c.backend.took()
		}
		if reads && len(wrongTypes[e.pattern]) == 0 {
			t.Errorf("%s reads JSON: wrongTypes lacks values for it", e.pattern)
		}
	}
	for pattern := range wrongTypes {
		if !slices.Contains(readers, pattern) {
			t.Errorf("%s does not read JSON", pattern)
		}
	}
}

// TestTruncatedBodies begins a body and closes: less than was announced, or a chunk that is none.
func TestTruncatedBodies(t *testing.T) {
	c := newCaller(t)
	for _, e := range endpoints() {
		for _, rest := range []string{"Content-Length: 100\r\n\r\n{\"Image\":", "Transfer-Encoding: chunked\r\n\r\n64\r\n{\"Image\":", "Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n"} {
			reads := c.readsJSON(e)
			conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.SetDeadline(time.Now().Add(waitTime)); err != nil {
				t.Fatal(err)
			}
			_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n%s", e.method, e.path, rest)
			if err == nil {
				err = conn.(*net.TCPConn).CloseWrite()
			}
			var resp *http.Response
			if err == nil {
				resp, err = http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: e.method})
			}
			if err != nil {
				t.Errorf("%s %s: no answer to half a body: %v", e.method, e.path, err)
			} else if status, message := c.judge(e, rest, resp); reads {
				c.refused(e, rest, status, message)
			}
			c.backend.took()
			_ = conn.Close()
		}
	}
}

// parameters are the names of all query parameters, from the source, so that a new one is covered by being there.
func parameters(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"h", "w"}
	use := regexp.MustCompile(`(?:integer|timestamp|boolean|booleanOr)\([\w.()]+, "([\w-]+)"|\b(?:q|Query\(\))\.(?:Get|Has)\("([\w-]+)"\)`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range use.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1]+m[2])
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range []string{"all", "filters", "limit", "platform", "since", "t", "tail", "until"} {
		if !slices.Contains(names, name) {
			t.Errorf("parameter %s was not found in the source", name)
		}
	}
	return names
}

// The values that parameters of a kind must be refused for.
var (
	noNumber   = []string{"NaN", "Inf", "1e99", "1.5", "0x10", "99999999999999999999", "-9223372036854775809", "\xff", "1\x00", " 1", "--1"}
	noTime     = []string{"NaN", "Inf", "1e99", "0x10", "99999999999999999999", "-9223372036854775809", "9223372036854775807", "1.x", "\xff", "1.\xff"}
	noSize     = append([]string{"", "-1", "65536"}, noNumber...)
	noFilters  = []string{"NaN", "{", "[", "1", "[]", `"a"`, `{"a":1}`, `{"a":{"b":1}}`, `{"a":[1]}`, "{\"a\":[\"\xff\"]}", strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 20_000)} // a longer URL net/http does not read
	noPlatform = []string{"a/b/c/d", "{", "{}", `{"os":1}`, "\xff", `{"os":"linux"}`, strings.Repeat("{", 100_000)}
)

// strict are the parameters that have a form, with the rest of the query that lets a request reach them.
var strict = []struct {
	method, path, rest, key string
	values                  []string
}{
	{"GET", "/containers/json", "", "limit", noNumber},
	{"GET", "/containers/json", "", "filters", noFilters},
	{"POST", "/containers/prune", "", "filters", noFilters},
	{"POST", "/containers/x1/stop", "", "t", noNumber},
	{"POST", "/containers/x1/restart", "", "t", noNumber},
	{"POST", "/containers/x1/resize", "h=1&", "w", noSize},
	{"POST", "/containers/x1/resize", "w=1&", "h", noSize},
	{"POST", "/exec/x1/resize", "h=1&", "w", noSize},
	{"POST", "/exec/x1/resize", "w=1&", "h", noSize},
	{"GET", "/containers/x1/logs", "stdout=1&", "since", noTime},
	{"GET", "/containers/x1/logs", "stdout=1&", "until", noTime},
	{"GET", "/events", "until=1&", "since", noTime},
	{"GET", "/events", "", "until", noTime},
	{"GET", "/events", "until=1&", "filters", noFilters},
	{"GET", "/images/json", "", "filters", noFilters},
	{"POST", "/images/prune", "", "filters", noFilters},
	{"GET", "/images/x1/json", "", "platform", noPlatform},
	{"GET", "/images/x1/history", "", "platform", noPlatform},
	{"POST", "/images/create", "fromImage=a:1&", "platform", noPlatform},
	{"POST", "/images/create", "", "fromImage", []string{"", "A:b", "a b", "../a", "\xff", "a:1:2", strings.Repeat("a/", 10_000)}},
	{"POST", "/containers/create", "", "platform", noPlatform},
	{"POST", "/containers/x1/wait", "", "condition", []string{"never", "\xff", "1"}},
	{"POST", "/containers/x1/attach", "", "detachKeys", []string{"ctrl-é", "ctrl-", "ctrl-p,,"}},
	{"GET", "/volumes", "", "filters", noFilters},
	{"POST", "/volumes/prune", "", "filters", noFilters},
	{"GET", "/networks", "", "filters", noFilters},
	{"POST", "/networks/prune", "", "filters", noFilters},
	{"POST", "/build/prune", "", "filters", noFilters},
	{"GET", "/plugins", "", "filters", noFilters},
}

// TestMalformedParameters sends every route every parameter with values of no form.
func TestMalformedParameters(t *testing.T) {
	c := newCaller(t)
	for _, s := range strict {
		for _, value := range s.values {
			e := endpoint{s.path, s.method, s.path}
			status, message := c.ask(e, s.rest+s.key+"="+url.QueryEscape(value), "", nil)
			c.refused(e, s.key+"="+value, status, message)
		}
	}
	names := parameters(t)
	for _, e := range endpoints() {
		for _, query := range []string{"%", "a=%zz", "filters=%7B;a=b", "=", "&&&", strings.Repeat("a&", 10_000)} {
			c.ask(e, query, "", nil)
		}
		for _, name := range names {
			for _, value := range []string{"NaN", "-1", "99999999999999999999", "\xff\x00", "{", "../../../etc"} {
				c.ask(e, name+"="+url.QueryEscape(value), "", nil)
			}
		}
		c.backend.took()
	}
}
