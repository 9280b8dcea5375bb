// Package client speaks the Docker Engine API to an engine: Gantry's or any other's. It does what the command line
// needs and starts at once: no package of it computes anything before main, and a request is one write and one read on
// a connection, without goroutines of its own. (docs/decisions/008 has the figures.)
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	jsonv1 "github.com/go-json-experiment/json/v1"
)

// MaxAPIVersion is the newest version of the Engine API that this client speaks.
const MaxAPIVersion = "1.56"

// Client is an engine. Its methods may be called at once from several goroutines; each takes a connection.
type Client struct {
	dial    func(ctx context.Context) (net.Conn, error)
	agent   string
	version string // of the API; "" until it has been negotiated

	mu   sync.Mutex
	idle []*connection // guarded by mu
}

// Options say how to reach an engine.
type Options struct {
	// Dial connects to the engine.
	Dial func(ctx context.Context) (net.Conn, error)
	// Version of the API to speak; "" asks the engine once which it knows.
	Version string
	// UserAgent names the program.
	UserAgent string
}

// New makes a client; nothing is sent yet.
func New(o Options) *Client { return &Client{dial: o.Dial, agent: o.UserAgent, version: o.Version} }

// Version is the API's version that is spoken, or "" before a negotiation.
func (c *Client) Version() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Close closes the connections that are not in use.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, conn := range c.idle {
		errs = append(errs, conn.Close())
	}
	c.idle = nil
	return errors.Join(errs...)
}

// maxAnswer bounds an answer that is read whole: a list of many thousand containers.
const maxAnswer = 256 << 20

// call makes one request with in, if any, as JSON, and decodes the answer into out, if any.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	body, err := c.stream(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: read the engine's answer: %w", method, path, err)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = text
		return nil
	}
	if err := jsonv1.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s: decode the engine's answer: %w", method, path, err)
	}
	return nil
}

// stream makes one request and returns the body of the answer, which the caller closes. in is sent as JSON, or as it is
// if it is a reader.
func (c *Client) stream(ctx context.Context, method, path string, query url.Values, in any, header ...string) (*answer, error) {
	if err := c.negotiate(ctx); err != nil {
		return nil, err
	}
	req, err := c.request(ctx, method, "/v"+c.Version()+path, query, in)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return c.roundTrip(req)
}

func (c *Client) roundTrip(req *http.Request) (*answer, error) {
	conn, used, err := c.connect(req.Context())
	if err != nil {
		return nil, err
	}
	resp, err := conn.send(req)
	if err != nil && used && req.Method == http.MethodGet && req.Context().Err() == nil {
		return c.roundTrip(req) // the engine had closed it meanwhile
	}
	if err != nil {
		return nil, err
	}
	body := &answer{ReadCloser: resp.Body, conn: conn, client: c, header: resp.Header, reusable: !resp.Close}
	if resp.StatusCode >= http.StatusBadRequest {
		defer func() { _ = body.Close() }()
		return nil, refusal(resp.Status, resp.StatusCode, body)
	}
	return body, nil
}

// host stands in requests over a socket, which has no name.
const host = "api.moby.localhost"

func (c *Client) request(ctx context.Context, method, path string, query url.Values, in any) (*http.Request, error) {
	var body io.Reader
	switch in := in.(type) {
	case nil:
	case io.Reader:
		body = io.NopCloser(in) // of unknown length, and not to be closed
	default:
		text, err := jsonv1.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	target := "http://" + host + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.agent)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// negotiate takes the newest version that both sides know.
func (c *Client) negotiate(ctx context.Context) error {
	if c.Version() != "" {
		return nil
	}
	theirs, err := c.ping(ctx, http.MethodHead)
	if err == nil && theirs == "" { // engines before API 1.40 know only GET
		theirs, err = c.ping(ctx, http.MethodGet)
	}
	if err != nil {
		return fmt.Errorf("ask the engine for its version: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = MaxAPIVersion
	if theirs != "" && olderVersion(theirs, MaxAPIVersion) {
		c.version = theirs
	}
	return nil
}

// ping returns the newest version that the engine knows; "" if it does not say.
func (c *Client) ping(ctx context.Context, method string) (string, error) {
	req, err := c.request(ctx, method, "/_ping", nil, nil)
	if err != nil {
		return "", err
	}
	conn, _, err := c.connect(ctx)
	if err != nil {
		return "", err
	}
	resp, err := conn.send(req)
	if err != nil {
		return "", err
	}
	body := &answer{ReadCloser: resp.Body, conn: conn, client: c, reusable: !resp.Close}
	_, err = io.Copy(io.Discard, io.LimitReader(body, maxRefusal))
	return resp.Header.Get("Api-Version"), errors.Join(err, body.Close())
}

func olderVersion(a, b string) bool {
	var x, y [2]int
	_, errA := fmt.Sscanf(a, "%d.%d", &x[0], &x[1])
	_, errB := fmt.Sscanf(b, "%d.%d", &y[0], &y[1])
	return errA == nil && errB == nil && (x[0] < y[0] || x[0] == y[0] && x[1] < y[1])
}

// segment is a name as one part of a path.
func segment(name string) string { return url.PathEscape(strings.TrimPrefix(name, "/")) }

// set fills a query with what is not empty.
func set(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// flag is 1, as a query has it, or nothing.
func flag(on bool) string {
	if on {
		return "1"
	}
	return ""
}

// Filters are the terms of a list's filters: each name with one or more values.
type Filters map[string]map[string]bool

// Add adds a value to a filter.
func (f Filters) Add(name, value string) {
	if f[name] == nil {
		f[name] = map[string]bool{}
	}
	f[name][value] = true
}

// Clone is a copy that can be added to.
func (f Filters) Clone() Filters {
	out := Filters{}
	for name, values := range f {
		for value := range values {
			out.Add(name, value)
		}
	}
	return out
}

func (f Filters) String() string {
	if len(f) == 0 {
		return ""
	}
	text, err := jsonv1.Marshal(f)
	if err != nil {
		return "" // maps of strings can be encoded
	}
	return string(text)
}
