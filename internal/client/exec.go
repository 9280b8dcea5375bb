package client

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/container"
)

// ExecCreate prepares a process in a container and returns its id.
func (c *Client) ExecCreate(ctx context.Context, name string, r container.ExecCreateRequest) (string, error) {
	var out container.ExecCreateResponse
	err := c.call(ctx, http.MethodPost, "/containers/"+segment(name)+"/exec", nil, r, &out)
	return out.ID, err
}

// ExecStart runs a prepared process detached.
func (c *Client) ExecStart(ctx context.Context, id string, r container.ExecStartRequest) error {
	r.Detach = true
	return c.call(ctx, http.MethodPost, "/exec/"+segment(id)+"/start", nil, r, nil)
}

// ExecAttach runs a prepared process and connects to its streams.
func (c *Client) ExecAttach(ctx context.Context, id string, r container.ExecStartRequest) (*Stream, error) {
	return c.hijack(ctx, "/exec/"+segment(id)+"/start", nil, r)
}

// ExecExitCode is how an execution ended; nil while it runs. Nothing else of its description is decoded: every exec waits
// for this.
func (c *Client) ExecExitCode(ctx context.Context, id string) (*int, error) {
	var out struct{ ExitCode *int }
	err := c.call(ctx, http.MethodGet, "/exec/"+segment(id)+"/json", nil, nil, &out)
	return out.ExitCode, err
}

func (c *Client) ExecResize(ctx context.Context, id string, height, width uint) error {
	return c.call(ctx, http.MethodPost, "/exec/"+segment(id)+"/resize", size(height, width), nil, nil)
}
