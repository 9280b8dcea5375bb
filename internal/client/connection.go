package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/moby/moby/api/types/common"
)

// connection is one connection to the engine, with one request at a time on it.
type connection struct {
	net.Conn
	reader *bufio.Reader
	stop   func() bool // ends the watch over the context of the request
}

// connect takes a connection that is idle, or makes one.
func (c *Client) connect(ctx context.Context) (conn *connection, used bool, err error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		conn = c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return conn, true, nil
	}
	c.mu.Unlock()
	conn, err = c.open(ctx)
	return conn, false, err
}

func (c *Client) open(ctx context.Context) (*connection, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, reader: bufio.NewReader(conn)}, nil
}

// Prepare makes a connection for a later request. If that fails, the request tells why.
func (c *Client) Prepare(ctx context.Context) {
	if conn, err := c.open(ctx); err == nil {
		c.keep(conn)
	}
}

func (c *Client) keep(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, conn)
}

// send writes a request and reads the head of its answer. On an error the connection is closed. The context ends what
// happens on the connection until the answer is closed.
func (c *connection) send(req *http.Request) (*http.Response, error) {
	c.stop = context.AfterFunc(req.Context(), func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	writeErr := req.Write(c)
	// An engine that refuses a long request answers before it has read it.
	resp, err := http.ReadResponse(c.reader, req)
	if err == nil {
		return resp, nil
	}
	c.stop()
	if ctxErr := req.Context().Err(); ctxErr != nil {
		err = ctxErr
	} else if writeErr != nil {
		err = writeErr
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the engine closed the connection")
	}
	return nil, errors.Join(fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err), ignoreClosed(c.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// answer is the body of an answer. Read to its end, it gives its connection back.
type answer struct {
	io.ReadCloser
	conn     *connection
	client   *Client
	header   http.Header
	reusable bool
	ended    bool
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	a.ended = a.ended || err == io.EOF
	return n, err
}

// Close ends the answer. What has not been read is not waited for: then the connection goes too.
func (a *answer) Close() error {
	if a.conn == nil {
		return nil
	}
	conn := a.conn
	a.conn = nil
	if !conn.stop() || !a.ended || !a.reusable {
		return conn.Close()
	}
	a.client.keep(conn)
	return nil
}

// Stream is a connection that was taken over from HTTP: the bytes of attach and exec.
type Stream struct {
	net.Conn
	Reader *bufio.Reader // reads from the connection, beginning with what came with the answer
}

func (s *Stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// CloseWrite tells the other side that the input has ended.
func (s *Stream) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// hijack posts to path with an upgrade to a raw stream, which the caller closes.
func (c *Client) hijack(ctx context.Context, path string, query url.Values, in any) (*Stream, error) {
	if err := c.negotiate(ctx); err != nil {
		return nil, err
	}
	req, err := c.request(ctx, http.MethodPost, "/v"+c.Version()+path, query, in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	conn, _, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := conn.send(req)
	if err != nil {
		return nil, err
	}
	conn.stop() // a stream ends by itself, or by being closed
	switch resp.StatusCode {
	case http.StatusSwitchingProtocols, http.StatusOK: // engines before API 1.20 answered 200
		return &Stream{Conn: conn.Conn, Reader: conn.reader}, nil
	}
	return nil, errors.Join(refusal(resp.Status, resp.StatusCode, resp.Body), conn.Close())
}

// maxRefusal bounds what is read of an engine's error message.
const maxRefusal = 1 << 20

// refusal turns an engine's refusal into an error of its class (see errdefs), in its words.
func refusal(status string, code int, body io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(body, maxRefusal))
	if err != nil {
		return fmt.Errorf("read the engine's error message: %w", err)
	}
	var said common.ErrorResponse
	message := strings.TrimSpace(string(text))
	if jsonv1.Unmarshal(text, &said) == nil && said.Message != "" {
		message = said.Message
	}
	if message == "" {
		message = status
	}
	class := errhttp.ToNative(code)
	if class == nil {
		class = errdefs.ErrUnknown
	}
	return &classed{error: errors.New("Error response from daemon: " + message), class: class}
}

// classed has the class of an HTTP status without its words.
type classed struct {
	error
	class error
}

func (e *classed) Is(target error) bool { return errors.Is(e.class, target) }
