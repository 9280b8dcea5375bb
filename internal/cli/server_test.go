package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// engineStub answers like an engine, remembers what it was asked, and lets a test replace single answers.
type engineStub struct {
	t       *testing.T
	socket  string
	started chan struct{} // closed by the first start
	once    sync.Once

	mu       sync.Mutex
	requests []string          // "POST /containers/create?name=x"
	bodies   map[string][]byte // the last body of each path
	answers  map[string]func(w http.ResponseWriter, r *http.Request)
	exitCode int
	output   func(conn net.Conn) // what the attached container does
}

var versionPrefix = regexp.MustCompile(`^/v1\.[0-9]+`)

func newEngineStub(t *testing.T) *engineStub {
	t.Helper()
	s := &engineStub{
		t: t, socket: filepath.Join(t.TempDir(), "s"), started: make(chan struct{}), bodies: map[string][]byte{},
		answers: map[string]func(http.ResponseWriter, *http.Request){}, output: func(net.Conn) {},
	}
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

// on replaces the answer to "METHOD /path".
func (s *engineStub) on(route string, answer func(http.ResponseWriter, *http.Request)) {
	s.answers[route] = answer
}

// refuse answers with an error message.
func refuse(status int, message string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { reply(w, status, map[string]string{"message": message}) }
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (s *engineStub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := versionPrefix.ReplaceAllString(r.URL.Path, "")
	line := r.Method + " " + path
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	entry := line
	if r.URL.RawQuery != "" {
		entry += "?" + r.URL.RawQuery
	}
	s.requests = append(s.requests, entry)
	s.bodies[path] = body
	answer := s.answers[line]
	s.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	switch line {
	case "POST /containers/create":
		reply(w, http.StatusCreated, map[string]any{"Id": "c1", "Warnings": []string{}})
	case "POST /containers/c1/attach", "POST /exec/e1/start":
		s.attach(w)
	case "POST /containers/c1/wait":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		select {
		case <-s.started:
		case <-r.Context().Done():
		}
		_ = json.NewEncoder(w).Encode(map[string]int{"StatusCode": s.exitCode})
	case "POST /containers/c1/start":
		s.once.Do(func() { close(s.started) })
		w.WriteHeader(http.StatusNoContent)
	case "POST /containers/c1/exec":
		reply(w, http.StatusCreated, map[string]string{"Id": "e1"})
	case "GET /exec/e1/json":
		reply(w, http.StatusOK, map[string]any{"ID": "e1", "ExitCode": s.exitCode})
	case "POST /images/create":
		reply(w, http.StatusOK, map[string]string{"id": "layer", "status": "Pull complete"})
	default:
		reply(w, http.StatusNotFound, map[string]string{"message": "page not found"})
	}
}

// attach takes the connection over and lets the container speak once it was started (an exec is already).
func (s *engineStub) attach(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		s.t.Error(err)
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	go func() {
		defer func() { _ = conn.Close() }()
		s.output(conn)
	}()
}

// frame is a piece of output in the multiplexed format: stream 1 is stdout, 2 stderr.
func frame(stream byte, text string) []byte {
	header := make([]byte, 8, 8+len(text))
	header[0] = stream
	binary.BigEndian.PutUint32(header[4:], uint32(len(text)))
	return append(header, text...)
}

// seen returns the requests in order, and index the place of the first with a prefix (-1 for none).
func (s *engineStub) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *engineStub) index(prefix string) int {
	return slices.IndexFunc(s.seen(), func(r string) bool { return strings.HasPrefix(r, prefix) })
}

func (s *engineStub) body(path string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bodies[path]
}

// result is what a command line left behind.
type result struct {
	code        int
	out, errOut string
}

// gantry runs a command line against the stub; stdin holds input.
func (s *engineStub) gantry(input string, args ...string) result {
	s.t.Helper()
	in := filepath.Join(s.t.TempDir(), "stdin")
	if err := os.WriteFile(in, []byte(input), 0o600); err != nil {
		s.t.Fatal(err)
	}
	file, err := os.Open(in)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var out, errOut bytes.Buffer
	a := &app{in: file, out: &out, errOut: &errOut}
	code := a.main(context.Background(), append([]string{"-H", "unix://" + s.socket}, args...))
	return result{code, out.String(), errOut.String()}
}

func (r result) want(t *testing.T, code int, out string, errParts ...string) {
	t.Helper()
	if r.code != code || r.out != out {
		t.Errorf("exit code %d, output %q; want %d, %q; stderr: %s", r.code, r.out, code, out, r.errOut)
	}
	for _, part := range errParts {
		if !strings.Contains(r.errOut, part) {
			t.Errorf("stderr %q lacks %q", r.errOut, part)
		}
	}
}

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "gantryd" {
		fakeDaemon()
		return
	}
	// Credentials of the person who runs the tests are none of their business.
	empty, err := os.MkdirTemp("", "gantry-cli-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for name, value := range map[string]string{"DOCKER_CONFIG": empty, "DOCKER_API_VERSION": "", "DOCKER_HOST": "", "GANTRY_HOST": ""} {
		_ = os.Setenv(name, value)
	}
	code := m.Run()
	_ = os.RemoveAll(empty)
	os.Exit(code)
}
