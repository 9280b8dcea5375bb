// Package docker serves the Docker Engine API over HTTP: it translates requests to calls of a Backend and the answers
// back, for every API version from MinAPIVersion to MaxAPIVersion. It holds no state of its own.
//
// The wire format is specified by moby's api/swagger.yaml; where that is silent, moby's daemon/server is the reference.
package docker

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
)

// The versions served. The newest is the one that this build's moby/client speaks (a test keeps them equal).
const (
	MinAPIVersion = "1.24"
	MaxAPIVersion = "1.56"
)

var minVersion, maxVersion = mustVersion(MinAPIVersion), mustVersion(MaxAPIVersion)

// handler answers one request. An error that it returns is written as the answer, unless one has begun.
type handler func(w *response, r *http.Request) error

// server routes requests. All fields are read-only after New.
type server struct {
	backend  Backend
	mux      *http.ServeMux
	agent    string   // Server header
	patterns []string // of all routes; a mux does not tell its own
}

// New returns the handler of the whole API, with and without the /vX.Y prefix. The version is the engine's own.
func New(b Backend, version string) http.Handler {
	s := &server{backend: b, mux: http.NewServeMux(), agent: "Gantry/" + version + " (linux)"}
	s.routes()
	return s
}

// handle adds a route; the pattern is one of net/http.ServeMux.
func (s *server) handle(pattern string, h handler) {
	s.patterns = append(s.patterns, pattern)
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		rw := w.(*response) // ServeHTTP passes nothing else
		if err := h(rw, r); err != nil {
			rw.fail(r, err)
		}
	})
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Server"] = []string{s.agent}
	h["Api-Version"] = []string{MaxAPIVersion}
	h["Ostype"] = []string{"linux"}
	h["Docker-Experimental"] = []string{"false"}

	rw := &response{ResponseWriter: w, version: maxVersion}
	defer rw.recover(r)
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil { // url.URL.Query would drop what it cannot read
		rw.fail(r, badRequest("invalid query: %w", err))
		return
	}
	version, rest := splitVersion(r.URL.Path)
	if version == "" {
		s.mux.ServeHTTP(rw, r)
		return
	}
	v, err := negotiate(version)
	if err != nil {
		rw.fail(r, err)
		return
	}
	rw.version = v
	s.mux.ServeHTTP(rw, stripPrefix(r, len(r.URL.Path)-len(rest)))
}

// stripPrefix returns a shallow copy of r without the first n bytes of its path, which hold no escapes.
func stripPrefix(r *http.Request, n int) *http.Request {
	r2, u := new(http.Request), new(url.URL)
	*r2, *u = *r, *r.URL
	u.Path = u.Path[n:]
	if u.RawPath != "" {
		u.RawPath = u.RawPath[n:]
	}
	r2.URL = u
	return r2
}

// splitVersion cuts "/v1.41/info" into "1.41" and "/info"; version is "" if the path has no such prefix.
func splitVersion(path string) (version, rest string) {
	after, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return "", path
	}
	version, tail, ok := strings.Cut(after, "/")
	if !ok || version == "" || strings.Trim(version, "0123456789.") != "" {
		return "", path
	}
	return version, after[len(after)-len(tail)-1:]
}

// negotiate checks a client's version against those served.
func negotiate(s string) (apiVersion, error) {
	v, err := parseVersion(s)
	switch {
	case err != nil:
		return 0, badRequest("%w", err)
	case v > maxVersion:
		return 0, badRequest("client version %s is too new. Maximum supported API version is %s", s, MaxAPIVersion)
	case v < minVersion:
		return 0, badRequest("client version %s is too old. Minimum supported API version is %s, "+
			"please upgrade your client to a newer version", s, MinAPIVersion)
	}
	return v, nil
}

// response is the ResponseWriter that every handler gets. It knows the version that the client speaks and what has been sent.
type response struct {
	http.ResponseWriter
	version  apiVersion
	started  bool // the header has been sent
	hijacked bool
}

func (w *response) WriteHeader(code int) {
	w.started = true
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(p []byte) (int, error) {
	w.started = true
	return w.ResponseWriter.Write(p)
}

// Flush sends what has been written; a writer that cannot is left to send it when it likes.
func (w *response) Flush() {
	w.started = true
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Hijack takes over the connection.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.started, w.hijacked = true, true
	}
	return conn, buf, err
}

// recover turns a panic of a handler into an answer 500, or a broken connection if the answer has begun: a client must
// not take half an answer for a whole one.
func (w *response) recover(r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	slog.Error("panic in an API handler", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if !w.started {
		w.fail(r, fmt.Errorf("internal error while serving %s %s", r.Method, r.URL.Path))
	} else if !w.hijacked {
		panic(http.ErrAbortHandler)
	}
}
