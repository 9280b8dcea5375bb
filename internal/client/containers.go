package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ContainerCreate makes a container; platform may be nil.
func (c *Client) ContainerCreate(ctx context.Context, req *container.CreateRequest, name string, platform *ocispec.Platform) (container.CreateResponse, error) {
	var out container.CreateResponse
	err := c.call(ctx, http.MethodPost, "/containers/create", set("name", name, "platform", platformText(platform)), req, &out)
	return out, err
}

func platformText(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	text := p.OS
	for _, part := range []string{p.Architecture, p.Variant} {
		if part != "" {
			text += "/" + part
		}
	}
	return text
}

// ContainerPlan asks a Gantry engine for the system calls that would make the container, as text.
func (c *Client) ContainerPlan(ctx context.Context, req *container.CreateRequest) ([]byte, error) {
	r, err := c.request(ctx, http.MethodPost, "/gantry/plan", nil, req)
	if err != nil {
		return nil, err
	}
	body, err := c.roundTrip(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return io.ReadAll(io.LimitReader(body, maxAnswer))
}

// post makes a request of a container's that answers nothing.
func (c *Client) post(ctx context.Context, name, verb string, query url.Values) error {
	return c.call(ctx, http.MethodPost, "/containers/"+segment(name)+"/"+verb, query, nil, nil)
}

func (c *Client) ContainerStart(ctx context.Context, name string) error {
	return c.post(ctx, name, "start", nil)
}

func (c *Client) ContainerPause(ctx context.Context, name string) error {
	return c.post(ctx, name, "pause", nil)
}

func (c *Client) ContainerUnpause(ctx context.Context, name string) error {
	return c.post(ctx, name, "unpause", nil)
}

func (c *Client) ContainerKill(ctx context.Context, name, signal string) error {
	return c.post(ctx, name, "kill", set("signal", signal))
}

func (c *Client) ContainerRename(ctx context.Context, name, newName string) error {
	return c.post(ctx, name, "rename", set("name", newName))
}

func (c *Client) ContainerResize(ctx context.Context, name string, height, width uint) error {
	return c.post(ctx, name, "resize", size(height, width))
}

func size(height, width uint) url.Values {
	return set("h", strconv.FormatUint(uint64(height), 10), "w", strconv.FormatUint(uint64(width), 10))
}

// StopOptions are those of stop and restart; a nil Timeout (in seconds) is the container's own.
type StopOptions struct {
	Signal  string
	Timeout *int
}

func (o StopOptions) query() url.Values {
	q := set("signal", o.Signal)
	if o.Timeout != nil {
		q.Set("t", strconv.Itoa(*o.Timeout))
	}
	return q
}

func (c *Client) ContainerStop(ctx context.Context, name string, o StopOptions) error {
	return c.post(ctx, name, "stop", o.query())
}

func (c *Client) ContainerRestart(ctx context.Context, name string, o StopOptions) error {
	return c.post(ctx, name, "restart", o.query())
}

// RemoveOptions are those of rm.
type RemoveOptions struct{ Force, Volumes, Link bool }

func (c *Client) ContainerRemove(ctx context.Context, name string, o RemoveOptions) error {
	q := set("force", flag(o.Force), "v", flag(o.Volumes), "link", flag(o.Link))
	return c.call(ctx, http.MethodDelete, "/containers/"+segment(name), q, nil, nil)
}

// ContainerInspect returns the answer as the API's type and as it came.
func (c *Client) ContainerInspect(ctx context.Context, name string, size bool) (*container.InspectResponse, []byte, error) {
	return inspect[container.InspectResponse](ctx, c, "/containers/"+segment(name)+"/json", set("size", flag(size)))
}

// ListOptions are those of ps; Limit 0 is no limit.
type ListOptions struct {
	All, Size bool
	Limit     int
	Filters   Filters
}

func (c *Client) ContainerList(ctx context.Context, o ListOptions) ([]container.Summary, error) {
	q := set("all", flag(o.All), "size", flag(o.Size), "filters", o.Filters.String())
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	var out []container.Summary
	err := c.call(ctx, http.MethodGet, "/containers/json", q, nil, &out)
	return out, err
}

func (c *Client) ContainerTop(ctx context.Context, name string, args []string) (container.TopResponse, error) {
	var out container.TopResponse
	err := c.call(ctx, http.MethodGet, "/containers/"+segment(name)+"/top", set("ps_args", strings.Join(args, " ")), nil, &out)
	return out, err
}

// ContainerStats takes two samples, about a second apart.
func (c *Client) ContainerStats(ctx context.Context, name string) (*container.StatsResponse, error) {
	out := &container.StatsResponse{}
	err := c.call(ctx, http.MethodGet, "/containers/"+segment(name)+"/stats", url.Values{"stream": {"0"}}, nil, out)
	return out, err
}

// ContainerUpdate returns the engine's warnings.
func (c *Client) ContainerUpdate(ctx context.Context, name string, r container.UpdateConfig) ([]string, error) {
	var out container.UpdateResponse
	err := c.call(ctx, http.MethodPost, "/containers/"+segment(name)+"/update", nil, r, &out)
	return out.Warnings, err
}

// LogsOptions are those of logs; times are as the user wrote them.
type LogsOptions struct {
	Since, Until, Tail          string
	Timestamps, Follow, Details bool
}

// ContainerLogs returns both streams of a container's log, multiplexed unless it has a terminal.
func (c *Client) ContainerLogs(ctx context.Context, name string, o LogsOptions) (io.ReadCloser, error) {
	since, err := timestamp(o.Since)
	if err != nil {
		return nil, fmt.Errorf("invalid value for \"since\": %w", err)
	}
	until, err := timestamp(o.Until)
	if err != nil {
		return nil, fmt.Errorf("invalid value for \"until\": %w", err)
	}
	q := set("stdout", "1", "stderr", "1", "since", since, "until", until, "tail", o.Tail,
		"timestamps", flag(o.Timestamps), "follow", flag(o.Follow), "details", flag(o.Details))
	return reader(c.stream(ctx, http.MethodGet, "/containers/"+segment(name)+"/logs", q, nil))
}

// ContainerAttach connects to the streams that the query names.
func (c *Client) ContainerAttach(ctx context.Context, name string, query url.Values) (*Stream, error) {
	return c.hijack(ctx, "/containers/"+segment(name)+"/attach", query, nil)
}

// Exit is how a wait ended.
type Exit struct {
	container.WaitResponse
	Err error
}

// ContainerWait returns when the engine has taken note of the wait; the exit comes later.
func (c *Client) ContainerWait(ctx context.Context, name string, condition container.WaitCondition) <-chan Exit {
	exit := make(chan Exit, 1)
	path := "/containers/" + segment(name) + "/wait"
	body, err := c.stream(ctx, http.MethodPost, path, set("condition", string(condition)), nil)
	if err != nil {
		exit <- Exit{Err: err}
		return exit
	}
	go func() {
		defer func() { _ = body.Close() }()
		var e Exit
		e.Err = decode(body, &e.WaitResponse)
		exit <- e
	}()
	return exit
}

// ContainerPrune removes stopped containers.
func (c *Client) ContainerPrune(ctx context.Context, f Filters) (container.PruneReport, error) {
	var out container.PruneReport
	err := c.call(ctx, http.MethodPost, "/containers/prune", set("filters", f.String()), nil, &out)
	return out, err
}
