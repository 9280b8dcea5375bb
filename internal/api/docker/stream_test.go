package docker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"gantry/internal/engine"
	"gantry/internal/logs"
)

// serve runs a handler over f on a unix socket and returns its path.
func serve(t *testing.T, f *fake) string {
	t.Helper()
	return serveBackend(t, f)
}

func serveBackend(t *testing.T, b Backend) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: New(b, "9.9")}
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

// TestExecFailure: what kept the command from running reaches the user through the stream, on standard error; an unknown exec is 404.
func TestExecFailure(t *testing.T) {
	f := &fake{err: errors.New("exec: nope: not found")}
	c := mobyClient(t, f, "")
	x, err := c.ExecAttach(within(t), "x1", client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var out strings.Builder
	if _, err := stdcopy.StdCopy(io.Discard, &out, x.Reader); err != nil || out.String() != "exec: nope: not found\r\n" {
		t.Errorf("got %q, %v", &out, err)
	}
	f.err = errdefs.ErrConflict.WithMessage("exec x1 has already run")
	if w := do(f, "POST", "/exec/x1/start", "{}"); w.Code != 409 {
		t.Errorf("an exec that has run: %d", w.Code)
	}
	f.err, f.execGone = errors.New("broken"), errors.New("gone")
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

// follower is a fake whose log goes on until the client leaves.
type follower struct {
	fake
	more chan logs.Entry
	left chan error
}

func (f *follower) LogsContainer(ctx context.Context, _ string, _ engine.LogQuery, each func(logs.Entry) error) error {
	for {
		select {
		case e := <-f.more:
			if err := each(e); err != nil {
				return err
			}
		case <-ctx.Done():
			f.left <- ctx.Err()
			return ctx.Err()
		}
	}
}

// TestFollow: a line reaches the client while the log goes on, and the engine is told when the client leaves.
func TestFollow(t *testing.T) {
	f := &follower{more: make(chan logs.Entry), left: make(chan error, 1)}
	srv := httptest.NewServer(New(f, "9.9"))
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/containers/c1/logs?stdout=1&follow=1")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 12)
	for _, line := range []string{"one\n", "two\n"} {
		f.more <- logs.Entry{Line: []byte(line), Stream: logs.Stdout}
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got[8:]) != line {
			t.Fatalf("%q %v", got, err)
		}
	}
	_ = resp.Body.Close()
	select {
	case err := <-f.left:
		t.Log("told by:", err)
	case <-time.After(waitTime):
		t.Error("the engine was not told that the client left")
	}
}

// TestWaitClientLeaves: the engine's wait ends with the client's connection.
func TestWaitClientLeaves(t *testing.T) {
	f := &waits{left: make(chan struct{})}
	conn, r := dial(t, serveBackend(t, f), "POST /containers/c1/wait HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-f.left:
		t.Log("told by:", err)
	case <-time.After(waitTime):
		t.Error("the engine waits on")
	}
}

type waits struct {
	fake
	left chan struct{}
}

func (f *waits) WaitContainer(ctx context.Context, _ string, _ container.WaitCondition) (<-chan engine.WaitResult, error) {
	context.AfterFunc(ctx, func() { close(f.left) })
	return make(chan engine.WaitResult), nil
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
