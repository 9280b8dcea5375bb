package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/client"
)

// maxErrorBody bounds what is read of a server's error message.
const maxErrorBody = 1 << 20

// stream is a connection that was taken over from HTTP: attach and exec.
type stream struct {
	net.Conn
	reader *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.reader.Read(p) }

// CloseWrite tells the other side that the input has ended.
func (s *stream) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// hijack sends POST path with an upgrade to a raw stream. Unlike the client library's, it returns the server's own
// words when it refuses.
func hijack(ctx context.Context, api *client.Client, path string, query url.Values, body any) (*stream, error) {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	target := url.URL{Scheme: "http", Host: client.DummyHost, Path: "/v" + api.ClientVersion() + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	conn, err := api.Dialer()(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the engine: %w", err)
	}
	s := &stream{Conn: conn, reader: bufio.NewReader(conn)}
	if err := s.upgrade(req); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *stream) upgrade(req *http.Request) error {
	if err := req.Write(s.Conn); err != nil {
		return fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
	}
	resp, err := http.ReadResponse(s.reader, req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
	}
	switch resp.StatusCode {
	case http.StatusSwitchingProtocols, http.StatusOK: // servers before API 1.20 answered 200
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	return responseError(resp)
}

// responseError turns a refusal of the server into an error of its class, in its words.
func responseError(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return fmt.Errorf("read the engine's error message: %w", err)
	}
	var answer common.ErrorResponse
	message := strings.TrimSpace(string(text))
	if json.Unmarshal(text, &answer) == nil && answer.Message != "" {
		message = answer.Message
	}
	if message == "" {
		message = resp.Status
	}
	class := errhttp.ToNative(resp.StatusCode)
	if class == nil {
		class = errdefs.ErrUnknown
	}
	return &classedError{error: errors.New("Error response from daemon: " + message), class: class}
}

// classedError has the class of an HTTP status without its words.
type classedError struct {
	error
	class error
}

func (e *classedError) Is(target error) bool { return errors.Is(e.class, target) }
