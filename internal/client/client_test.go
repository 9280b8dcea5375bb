package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// engine serves handler and returns a client of it, and the number of connections that it made.
func engine(t *testing.T, version string, handler http.HandlerFunc) (*Client, *atomic.Int32) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	made := &atomic.Int32{}
	c := New(Options{Version: version, UserAgent: "test", Dial: func(ctx context.Context) (net.Conn, error) {
		made.Add(1)
		var d net.Dialer
		return d.DialContext(ctx, "tcp", server.Listener.Addr().String())
	}})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, made
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	c, made := engine(t, "1.56", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/start"):
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/kill"):
			http.Error(w, `{"message":"no such container: `+r.URL.Query().Get("signal")+`"}`, http.StatusNotFound)
		default:
			fmt.Fprint(w, "[]")
		}
	})
	ctx := context.Background()
	for range 3 {
		if err := c.ContainerStart(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		if err := c.ContainerKill(ctx, "x", "TERM"); !errdefs.IsNotFound(err) || err.Error() != "Error response from daemon: no such container: TERM" {
			t.Fatal(err)
		}
		if list, err := c.ContainerList(ctx, ListOptions{All: true}); err != nil || len(list) != 0 {
			t.Fatal(list, err)
		}
	}
	if n := made.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// A connection that was made ahead, and that the engine has closed since, is no error.
func TestPreparedConnections(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"ExitCode":7}`) }))
	defer server.Close()
	made, dead := 0, false
	c := New(Options{Version: "1.56", Dial: func(ctx context.Context) (net.Conn, error) {
		made++
		if dead {
			dead = false
			ours, theirs := net.Pipe()
			return ours, theirs.Close()
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", server.Listener.Addr().String())
	}})
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := context.Background()
	for _, closed := range []bool{false, true} {
		made, dead = 0, closed
		c.Prepare(ctx)
		if code, err := c.ExecExitCode(ctx, "x"); err != nil || code == nil || *code != 7 {
			t.Errorf("closed %v: %v, %v", closed, code, err)
		}
		if made != 1 { // the one made ahead; after it, one that was used before
			t.Errorf("closed %v: %d connections, want 1", closed, made)
		}
	}
}

func TestNamesStayInTheirPlace(t *testing.T) {
	var paths []string
	c, _ := engine(t, "1.56", func(w http.ResponseWriter, r *http.Request) { paths = append(paths, r.URL.EscapedPath()) })
	_ = c.ContainerStart(context.Background(), "../images")
	_ = c.ContainerStart(context.Background(), "a?b#c d")
	_ = c.ImageTag(context.Background(), "r.example:5000/a/b:1", "x", "y")
	want := []string{"/v1.56/containers/..%2Fimages/start", "/v1.56/containers/a%3Fb%23c%20d/start", "/v1.56/images/r.example:5000/a/b:1/tag"}
	if fmt.Sprint(paths) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", paths, want)
	}
}

func TestNegotiation(t *testing.T) {
	for _, test := range []struct{ theirs, want string }{{"1.24", "1.24"}, {"1.45", "1.45"}, {"1.99", MaxAPIVersion}, {"2.0", MaxAPIVersion}, {"", MaxAPIVersion}} {
		for _, head := range []bool{true, false} {
			c, made := engine(t, "", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/_ping" {
					fmt.Fprintf(w, `{"Version":%q}`, strings.Split(r.URL.Path, "/")[1])
				} else if r.Method == http.MethodGet || head {
					w.Header().Set("Api-Version", test.theirs)
					w.Header().Set("Content-Length", "2")
					_, _ = io.WriteString(w, "OK")
				} else {
					http.NotFound(w, r)
				}
			})
			v, err := c.ServerVersion(context.Background())
			if err != nil || v.Version != "v"+test.want || c.Version() != test.want {
				t.Errorf("%s: %+v, %v", test.theirs, v, err)
			}
			if n := made.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		}
	}
}

func TestFailures(t *testing.T) {
	cut := make(chan struct{})
	c, _ := engine(t, "1.56", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("signal") {
		case "long":
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "[")
		case "hang":
			select {
			case <-cut:
			case <-r.Context().Done():
			}
		case "die":
			panic(http.ErrAbortHandler)
		case "empty":
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	defer close(cut)
	ctx := context.Background()
	if err := c.ContainerKill(ctx, "x", "long"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a truncated answer: %v", err)
	}
	if err := c.ContainerKill(ctx, "x", "die"); err == nil || !strings.Contains(err.Error(), "POST /v1.56/containers/x/kill: the engine closed the connection") {
		t.Errorf("no answer: %v", err)
	}
	if err := c.ContainerKill(ctx, "x", "empty"); err == nil || err.Error() != "Error response from daemon: 500 Internal Server Error" {
		t.Errorf("an empty refusal: %v", err)
	}
	canceled, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := c.ContainerKill(canceled, "x", "hang"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an answer that does not come: %v", err)
	}
	if err := c.ContainerKill(ctx, "x", "fine"); err != nil {
		t.Errorf("the client is of no use afterwards: %v", err)
	}
}

func TestStreams(t *testing.T) {
	c, _ := engine(t, "1.56", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/wait") {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, `{"StatusCode":7}`)
			return
		}
		if r.Header.Get("Upgrade") != "tcp" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst ")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	})
	ctx := context.Background()
	s, err := c.ExecAttach(ctx, "e", container.ExecStartRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(s, "echo")
	if err = errors.Join(err, s.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(s)
	if err != nil || string(text) != `first {"Detach":false,"Tty":false}echo` {
		t.Errorf("%q, %v", text, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if exit := <-c.ContainerWait(ctx, "x", ""); exit.Err != nil || exit.StatusCode != 7 {
		t.Errorf("%+v", exit)
	}
}

func TestTimestamp(t *testing.T) {
	for _, s := range []string{"x", "2020-13-01", "NaN", "1m2"} {
		if got, err := timestamp(s); err == nil {
			t.Errorf("%q is taken for %s", s, got)
		}
	}
	for s, want := range map[string]string{"": "", "1700000000": "1700000000", "1700000000.5": "1700000000.5", "2023-11-14T22:13:20Z": "1700000000.000000000", "2023-11-14T22:13:20.000000007Z": "1700000000.000000007"} {
		if got, err := timestamp(s); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", s, got, err, want)
		}
	}
}
