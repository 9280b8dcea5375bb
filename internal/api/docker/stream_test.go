package docker

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"gantry/internal/engine"
	images "gantry/internal/image"
	"gantry/internal/logs"
)

// serve runs a handler over f on a unix socket and returns its path.
func serve(t *testing.T, f *fake) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: New(f, "9.9")}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return path
}

// mobyClient is the real client, at a fixed version unless it is "".
func mobyClient(t *testing.T, f *fake, version string) *client.Client {
	t.Helper()
	opts := []client.Opt{client.WithHost("unix://" + serve(t, f))}
	if version != "" {
		opts = append(opts, client.WithAPIVersion(version))
	}
	c, err := client.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	t.Cleanup(cancel)
	return ctx
}

// dial opens a connection to the socket and sends a request.
func dial(t *testing.T, path, request string) (*net.UnixConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(waitTime)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn), bufio.NewReader(c)
}

func withProcess(t *testing.T, f *fake) *net.UnixConn {
	t.Helper()
	s, p, err := process()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(); _ = s.Close() })
	if err := p.SetDeadline(time.Now().Add(waitTime)); err != nil {
		t.Fatal(err)
	}
	f.stream = s
	return p
}

// TestAttachClient: the real client sends input and ends it; the process answers after that, and ends.
func TestAttachClient(t *testing.T) {
	for _, tty := range []bool{false, true} {
		f := &fake{tty: tty}
		p := withProcess(t, f)
		c := mobyClient(t, f, "")
		a, err := c.ContainerAttach(within(t), "c1", client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Logs: true})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if got, _ := a.MediaType(); got != streamMedia(maxVersion, tty) {
			t.Errorf("tty %v: media type %s", tty, got)
		}
		if got, want := f.took(), "attach c1 {Stdin:true Stdout:true Stderr:false Logs:true Stream:true}"; got != want {
			t.Errorf("backend got %q, want %q", got, want)
		}
		if _, err := io.WriteString(a.Conn, "in"); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		in, err := io.ReadAll(p)
		if string(in) != "in" || err != nil {
			t.Errorf("the process read %q, %v", in, err)
		}
		if _, err := io.WriteString(p, "out"); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(a.Reader)
		if string(out) != "out" || err != nil {
			t.Errorf("the client read %q, %v", out, err)
		}
	}
}

func TestAttachRaw(t *testing.T) {
	for _, c := range []struct {
		version, upgrade, status, media string
		tty                             bool
	}{
		{"1.41", "Connection: Upgrade\r\nUpgrade: tcp\r\n", "HTTP/1.1 101 UPGRADED", "application/vnd.docker.raw-stream", false},
		{"1.42", "Connection: Upgrade\r\nUpgrade: tcp\r\n", "HTTP/1.1 101 UPGRADED", "application/vnd.docker.multiplexed-stream", false},
		{"1.42", "", "HTTP/1.1 200 OK", "application/vnd.docker.raw-stream", true},
	} {
		f := &fake{tty: c.tty}
		p := withProcess(t, f)
		// Input may be in the same packet as the request.
		_, r := dial(t, serve(t, f), "POST /v"+c.version+"/containers/c1/attach?stdin=1&stream=1 HTTP/1.1\r\nHost: d\r\n"+c.upgrade+"Content-Length: 0\r\n\r\nearly\n")
		status, err := r.ReadString('\n')
		if strings.TrimSpace(status) != c.status || err != nil {
			t.Errorf("%+v: %q %v", c, status, err)
		}
		header := ""
		for line := "x"; line != "\r\n" && err == nil; header += line {
			line, err = r.ReadString('\n')
		}
		if !strings.Contains(header, "Content-Type: "+c.media+"\r\n") || strings.Contains(header, "Upgrade: tcp") != (c.upgrade != "") {
			t.Errorf("%+v: header %q", c, header)
		}
		if line, err := bufio.NewReader(p).ReadString('\n'); line != "early\n" || err != nil {
			t.Errorf("%+v: the process read %q, %v", c, line, err)
		}
	}
}

// TestClientGone: a client that closes its connection ends the stream even if the process is silent.
func TestClientGone(t *testing.T) {
	for _, halfFirst := range []bool{false, true} {
		f := &fake{tty: true}
		p := withProcess(t, f)
		conn, r := dial(t, serve(t, f), "POST /containers/c1/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n")
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
		if halfFirst {
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(p, "late"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4)
			if _, err := io.ReadFull(r, got); string(got) != "late" || err != nil {
				t.Fatalf("after the end of the input: %q %v", got, err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(p); err != nil {
			t.Errorf("half first %v: the stream was not closed: %v", halfFirst, err)
		}
	}
}

// TestOutputSurvivesUnreadInput: the process ends without reading its input, and its output arrives whole all the same.
func TestOutputSurvivesUnreadInput(t *testing.T) {
	f := &fake{}
	p := withProcess(t, f)
	c := mobyClient(t, f, "")
	x, err := c.ExecAttach(within(t), "x1", client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	go func() {
		_, _ = x.Conn.Write(make([]byte, 4<<20)) // more than the buffers hold
	}()
	out := strings.Repeat("line\n", 100_000)
	go func() {
		if _, err := p.Write(appendFrame(nil, logs.Stdout, []byte(out))); err != nil {
			t.Error(err)
		}
		_ = p.Close()
	}()
	var got strings.Builder
	if _, err := stdcopy.StdCopy(&got, io.Discard, x.Reader); err != nil || got.String() != out {
		t.Errorf("%d bytes of %d, %v", got.Len(), len(out), err)
	}
}

// TestExecFailure: what kept the command from running reaches the user through the stream; an unknown exec is 404.
func TestExecFailure(t *testing.T) {
	f := &fake{err: errors.New("exec: nope: not found")}
	c := mobyClient(t, f, "")
	x, err := c.ExecAttach(within(t), "x1", client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var out strings.Builder
	if _, err := stdcopy.StdCopy(&out, io.Discard, x.Reader); err != nil || out.String() != "exec: nope: not found\r\n" {
		t.Errorf("got %q, %v", &out, err)
	}
	f.execGone = errors.New("gone")
	if w := do(f, "POST", "/exec/x1/start", "{}"); w.Code != 500 {
		t.Errorf("an unknown exec: %d", w.Code)
	}
}

// TestWaitHeaderComesFirst: the client gets the header before there is a result, and only once the backend waits.
func TestWaitHeaderComesFirst(t *testing.T) {
	f := &fake{waiting: make(chan struct{}), waited: make(chan engine.WaitResult, 1)}
	c := mobyClient(t, f, "")
	res := c.ContainerWait(within(t), "c1", client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	select {
	case <-f.waiting:
	default:
		t.Fatal("the header came before the backend waited")
	}
	f.waited <- engine.WaitResult{Status: 3, Err: "half-way"}
	select {
	case got := <-res.Result:
		if got.StatusCode != 3 || got.Error == nil || got.Error.Message != "half-way" {
			t.Errorf("got %+v", got)
		}
	case err := <-res.Error:
		t.Fatal(err)
	}
	if got := f.took(); got != "wait c1 next-exit" {
		t.Errorf("backend got %q", got)
	}
}

func TestLogs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 60_000, time.UTC)
	entries := []logs.Entry{
		{Line: []byte("one\n"), Stream: logs.Stdout, Time: at, Attrs: map[string]string{"b": "2", "a": "x y"}},
		{Line: []byte("two"), Stream: logs.Stderr, Time: at},
	}
	for _, c := range []struct {
		tty            bool
		o              client.ContainerLogsOptions
		stdout, stderr string
	}{
		{false, client.ContainerLogsOptions{}, "one\n", "two"},
		{true, client.ContainerLogsOptions{}, "one\ntwo", ""},
		{false, client.ContainerLogsOptions{Timestamps: true, Follow: true}, "2026-01-02T03:04:05.000060000Z one\n", "2026-01-02T03:04:05.000060000Z two"},
		{false, client.ContainerLogsOptions{Details: true, Timestamps: true}, "2026-01-02T03:04:05.000060000Z a=x+y,b=2 one\n", "2026-01-02T03:04:05.000060000Z  two"},
	} {
		f := &fake{tty: c.tty, entries: entries}
		c.o.ShowStdout, c.o.ShowStderr = true, true
		r, err := mobyClient(t, f, "").ContainerLogs(within(t), "c1", c.o)
		if err != nil {
			t.Fatal(err)
		}
		var stdout, stderr strings.Builder
		if c.tty {
			_, err = io.Copy(&stdout, r)
		} else {
			_, err = stdcopy.StdCopy(&stdout, &stderr, r)
		}
		if err != nil || stdout.String() != c.stdout || stderr.String() != c.stderr {
			t.Errorf("%+v: %q, %q, %v", c.o, &stdout, &stderr, err)
		}
		_ = r.Close()
	}
}

// TestLogErrors: once the header is out, an error is a frame of stderr.
func TestLogErrors(t *testing.T) {
	w := httptest.NewRecorder()
	h := New(&followFails{fake{}}, "9.9")
	h.ServeHTTP(w, httptest.NewRequest("GET", "/containers/c1/logs?stdout=1&follow=1", http.NoBody))
	var stderr strings.Builder
	if _, err := stdcopy.StdCopy(io.Discard, &stderr, w.Body); err != nil || stderr.String() != "Error grabbing logs: disk gone\n" {
		t.Errorf("%d %q %v", w.Code, &stderr, err)
	}
}

type followFails struct{ fake }

func (f *followFails) LogsContainer(context.Context, string, engine.LogQuery, func(logs.Entry) error) error {
	return errors.New("disk gone")
}

func TestEvents(t *testing.T) {
	list := []events.Message{
		{Type: events.ContainerEventType, Action: events.ActionStart, Actor: events.Actor{ID: "c1", Attributes: map[string]string{"image": "debian"}}, Time: 5},
		{Type: events.NetworkEventType, Action: events.ActionCreate, Actor: events.Actor{ID: "n1"}},
	}
	for _, version := range []string{"1.41", "1.51", "1.52", MaxAPIVersion} {
		f := &fake{events: list}
		res := mobyClient(t, f, version).Events(within(t), client.EventsListOptions{Filters: client.Filters{}.Add("type", "container")})
		var got []string
		for range list {
			select {
			case m := <-res.Messages:
				got = append(got, string(m.Action)+" "+m.Actor.ID)
			case err := <-res.Err:
				t.Fatalf("%s: %v", version, err)
			}
		}
		if fmt.Sprint(got) != "[start c1 create n1]" {
			t.Errorf("%s: %v", version, got)
		}
		if !f.query.Filters["type"]["container"] || f.query.Since.IsZero() || !f.query.Until.IsZero() {
			t.Errorf("%s: query %+v", version, f.query)
		}
	}
}

func TestEventForms(t *testing.T) {
	one := []events.Message{{Type: events.ContainerEventType, Action: "die", Actor: events.Actor{ID: "c1", Attributes: map[string]string{"image": "i"}}}}
	for _, c := range []struct{ version, accept, media, body string }{
		{"1.51", "application/jsonl", "application/json", `{"status":"die","id":"c1","from":"i","Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"i"}}}`},
		{"1.52", "", "application/json", `{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"i"}}}`},
		{"1.52", "application/x-ndjson", "application/x-ndjson", `{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"i"}}}`},
		{"1.52", "application/json-seq", "application/json-seq", "\x1e" + `{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"i"}}}`},
	} {
		f := &fake{events: one}
		r := httptest.NewRequest("GET", "/v"+c.version+"/events?since=1&until=2", http.NoBody)
		r.Header.Set("Accept", c.accept)
		w := httptest.NewRecorder()
		New(f, "9.9").ServeHTTP(w, r)
		if ct := w.Header().Get("Content-Type"); ct != c.media || w.Body.String() != c.body+"\n" {
			t.Errorf("%+v: %s %q", c, ct, w.Body)
		}
		if f.query.Since.Unix() != 1 || f.query.Until.Unix() != 2 {
			t.Errorf("query %+v", f.query)
		}
	}
}

func TestPull(t *testing.T) {
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"u","password":"p"}`))
	some := []images.Progress{{ID: "l1", Status: "Downloading", Current: 1, Total: 2}, {ID: "l1", Status: "Downloading", Current: 1, Total: 2}, {ID: "l1", Status: "Pull complete"}}
	f := &fake{progress: some}
	r, err := mobyClient(t, f, "").ImagePull(within(t), "host:5000/a/b:1", client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for m, err := range r.JSONMessages(within(t)) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, m.ID+"|"+m.Status)
	}
	want := []string{"1|Pulling from a/b", "l1|Downloading", "l1|Pull complete", "|Digest: " + pulled.String(), "|Status: Downloaded newer image for host:5000/a/b:1"}
	if fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
	if got := f.took(); got != "image host:5000/a/b:1 ; pull host:5000/a/b:1  u:p" {
		t.Errorf("backend got %q", got)
	}
}

func TestPullForms(t *testing.T) {
	f := &fake{imageID: pulled, progress: []images.Progress{{ID: "l1", Status: "Downloading", Current: 1, Total: 2}}}
	w := do(f, "POST", "/v1.41/images/create?fromImage=debian&tag=12&platform=linux/arm64", "")
	if got := f.took(); got != "image docker.io/library/debian:12 arm64; pull docker.io/library/debian:12 arm64 " {
		t.Errorf("backend got %q", got)
	}
	if body := w.Body.String(); !strings.Contains(body, `"progress":"[=========================>                        ]       1B/2B"`) ||
		!strings.HasSuffix(body, `{"status":"Status: Image is up to date for debian:12"}`+"\n") {
		t.Errorf("body %s", body)
	}
	f = &fake{pullErr: errors.New("registry hung up"), progress: f.progress}
	w = do(f, "POST", "/images/create?fromImage=debian&tag="+pulled.String(), "")
	if body := w.Body.String(); w.Code != 200 || !strings.HasSuffix(body, `{"errorDetail":{"message":"registry hung up"},"error":"registry hung up"}`+"\n") {
		t.Errorf("an error after the first line: %d %s", w.Code, body)
	}
	if got := f.took(); !strings.Contains(got, "pull docker.io/library/debian@"+pulled.String()) {
		t.Errorf("by digest: backend got %q", got)
	}
	f.progress = nil
	if w := do(f, "POST", "/images/create?fromImage=debian&tag=12", ""); w.Code != 500 || messageOf(w) != "registry hung up" {
		t.Errorf("an error before the first line: %d %s", w.Code, w.Body)
	}
}

func TestLoad(t *testing.T) {
	f := &fake{}
	big := strings.Repeat("tar", 1<<20) // more than the server would swallow after it has begun to answer
	r, err := mobyClient(t, f, "").ImageLoad(within(t), strings.NewReader(big))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	body, err := io.ReadAll(r)
	if err != nil || len(f.loaded) != len(big) {
		t.Fatalf("%d of %d bytes, %v", len(f.loaded), len(big), err)
	}
	if !strings.Contains(string(body), `{"stream":"Loaded image: a:1\n"}`) || !strings.Contains(string(body), `{"stream":"Loaded image ID: `+pulled.String()) {
		t.Errorf("body %s", body)
	}
}

// TestClientRoundTrip uses the real client at its oldest, a middle and the newest version.
func TestClientRoundTrip(t *testing.T) {
	for _, version := range []string{"", "1.40", "1.44", MaxAPIVersion} {
		f := &fake{}
		c := mobyClient(t, f, version)
		ctx := within(t)
		check := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s %s: %v", version, what, err)
			}
		}
		p, err := c.Ping(ctx, client.PingOptions{})
		check("ping", err)
		if p.APIVersion != MaxAPIVersion || p.OSType != "linux" {
			t.Errorf("ping: %+v", p)
		}
		created, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "one", Config: &container.Config{Image: "debian", Cmd: []string{"true"}}})
		check("create", err)
		if created.ID != "c1" || created.Warnings == nil {
			t.Errorf("create: %+v", created)
		}
		if f.created.Config.Image != "debian" || fmt.Sprint(f.created.Config.Cmd) != "[true]" {
			t.Errorf("create: the backend got %+v", f.created.Config.Config)
		}
		_, err = c.ContainerStart(ctx, "c1", client.ContainerStartOptions{})
		check("start", err)
		list, err := c.ContainerList(ctx, client.ContainerListOptions{All: true})
		check("list", err)
		if len(list.Items) != 1 || list.Items[0].ID != "c1" {
			t.Errorf("list: %+v", list)
		}
		in, err := c.ContainerInspect(ctx, "c1", client.ContainerInspectOptions{})
		check("inspect", err)
		if in.Container.NetworkSettings == nil || in.Container.NetworkSettings.SandboxID != "s1" {
			t.Errorf("inspect: %+v", in.Container)
		}
		f.err = engine.ErrNotModified
		_, err = c.ContainerStop(ctx, "c1", client.ContainerStopOptions{})
		check("stop of a stopped one", err)
	}
}

func TestOlderShapes(t *testing.T) {
	get := func(target string) (m map[string]any) {
		body := do(&fake{}, "GET", target, "").Body.Bytes()
		if body[0] == '[' {
			body = body[1 : len(body)-2]
		}
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		return m
	}
	old, now := get("/v1.41/containers/c1/json")["NetworkSettings"].(map[string]any), get("/containers/c1/json")["NetworkSettings"].(map[string]any)
	if old["EndpointID"] != "e1" || old["SandboxID"] != "s1" || old["IPPrefixLen"] != 16.0 || now["EndpointID"] != nil {
		t.Errorf("NetworkSettings: %v, %v", old, now)
	}
	if old, now := get("/v1.43/images/json"), get("/v1.48/images/json"); old["VirtualSize"] != 5.0 || now["VirtualSize"] != nil || old["Descriptor"] != nil || now["Descriptor"] == nil {
		t.Errorf("images: %v, %v", old, now)
	}
	if old, now := get("/v1.43/images/a/json"), get("/v1.48/images/a/json"); old["VirtualSize"] != 5.0 || now["VirtualSize"] != nil || old["Descriptor"] != nil || now["Descriptor"] == nil {
		t.Errorf("image: %v, %v", old, now)
	}
	if old, now := get("/v1.42/images/json"), get("/v1.43/images/json"); fmt.Sprint(old["RepoTags"]) != "[<none>:<none>]" || fmt.Sprint(now["RepoTags"]) != "[]" {
		t.Errorf("RepoTags: %v, %v", old["RepoTags"], now["RepoTags"])
	}
	if old, now := get("/v1.51/containers/json"), get("/v1.52/containers/json"); old["Health"] != nil || now["Health"] == nil {
		t.Errorf("Health: %v, %v", old, now)
	}
}
