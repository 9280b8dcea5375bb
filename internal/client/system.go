package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"strconv"
	"time"

	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

// inspect asks for one object and returns it as the API's type and as it came.
func inspect[T any](ctx context.Context, c *Client, path string, query map[string][]string) (*T, []byte, error) {
	var raw []byte
	if err := c.call(ctx, http.MethodGet, path, query, nil, &raw); err != nil {
		return nil, nil, err
	}
	out := new(T)
	if err := jsonv1.Unmarshal(raw, out); err != nil {
		return nil, nil, fmt.Errorf("GET %s: decode the engine's answer: %w", path, err)
	}
	return out, bytes.TrimSpace(raw), nil
}

// decode reads one JSON value.
func decode(r io.Reader, out any) error {
	text, err := io.ReadAll(io.LimitReader(r, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the engine's answer: %w", err)
	}
	if err := jsonv1.Unmarshal(text, out); err != nil {
		return fmt.Errorf("decode the engine's answer: %w", err)
	}
	return nil
}

func (c *Client) ServerVersion(ctx context.Context) (*system.VersionResponse, error) {
	out := &system.VersionResponse{}
	err := c.call(ctx, http.MethodGet, "/version", nil, nil, out)
	return out, err
}

func (c *Client) Info(ctx context.Context) (*system.Info, error) {
	out := &system.Info{}
	err := c.call(ctx, http.MethodGet, "/info", nil, nil, out)
	return out, err
}

func (c *Client) DiskUsage(ctx context.Context) (*system.DiskUsage, error) {
	out := &system.DiskUsage{}
	err := c.call(ctx, http.MethodGet, "/system/df", map[string][]string{"type": {"container", "image", "volume"}}, nil, out)
	return out, err
}

// EventsOptions are those of events; times are as the user wrote them.
type EventsOptions struct {
	Since, Until string
	Filters      Filters
}

// Events yields events until the engine or the context ends them.
func (c *Client) Events(ctx context.Context, o EventsOptions) (iter.Seq2[events.Message, error], error) {
	since, err := timestamp(o.Since)
	if err != nil {
		return nil, fmt.Errorf("invalid value for \"since\": %w", err)
	}
	until, err := timestamp(o.Until)
	if err != nil {
		return nil, fmt.Errorf("invalid value for \"until\": %w", err)
	}
	body, err := c.stream(ctx, http.MethodGet, "/events", set("since", since, "until", until, "filters", o.Filters.String()), nil)
	if err != nil {
		return nil, err
	}
	return func(yield func(events.Message, error) bool) {
		defer func() { _ = body.Close() }()
		dec := json.NewDecoder(body)
		for {
			var e events.Message
			err := dec.Decode(&e)
			if errors.Is(err, io.EOF) || !yield(e, err) || err != nil {
				return
			}
		}
	}, nil
}

// timestamp reads a time as docker's command line takes it (Unix seconds, a duration before now, RFC 3339 with parts left
// out) and returns Unix seconds with nanoseconds, as the API does; "" stays "".
func timestamp(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return unixText(time.Now().Add(-d)), nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
		return s, nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02T15Z07:00",
		"2006-01-02T15", "2006-01-02Z07:00", "2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return unixText(t), nil
		}
	}
	return "", fmt.Errorf("%q is neither a time (2006-01-02T15:04:05Z), nor Unix seconds, nor a duration (10m)", s)
}

func unixText(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

func (c *Client) VolumeCreate(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error) {
	out := &volume.Volume{}
	err := c.call(ctx, http.MethodPost, "/volumes/create", nil, r, out)
	return out, err
}

func (c *Client) VolumeList(ctx context.Context, f Filters) (volume.ListResponse, error) {
	var out volume.ListResponse
	err := c.call(ctx, http.MethodGet, "/volumes", set("filters", f.String()), nil, &out)
	return out, err
}

func (c *Client) VolumeInspect(ctx context.Context, name string) (*volume.Volume, []byte, error) {
	return inspect[volume.Volume](ctx, c, "/volumes/"+segment(name), nil)
}

func (c *Client) VolumeRemove(ctx context.Context, name string, force bool) error {
	return c.call(ctx, http.MethodDelete, "/volumes/"+segment(name), set("force", flag(force)), nil, nil)
}

// VolumePrune removes unused volumes, those with a name only if the filter all says so.
func (c *Client) VolumePrune(ctx context.Context, f Filters) (volume.PruneReport, error) {
	var out volume.PruneReport
	err := c.call(ctx, http.MethodPost, "/volumes/prune", set("filters", f.String()), nil, &out)
	return out, err
}

func (c *Client) NetworkList(ctx context.Context, f Filters) ([]network.Summary, error) {
	var out []network.Summary
	err := c.call(ctx, http.MethodGet, "/networks", set("filters", f.String()), nil, &out)
	return out, err
}

func (c *Client) NetworkInspect(ctx context.Context, name string) (*network.Inspect, []byte, error) {
	return inspect[network.Inspect](ctx, c, "/networks/"+segment(name), nil)
}

func (c *Client) NetworkPrune(ctx context.Context, f Filters) (network.PruneReport, error) {
	var out network.PruneReport
	err := c.call(ctx, http.MethodPost, "/networks/prune", set("filters", f.String()), nil, &out)
	return out, err
}
