package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"

	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PullOptions say what to pull: Name without a tag and Tag, which may be a digest; no tag is all of them.
type PullOptions struct {
	Name, Tag    string
	RegistryAuth string // X-Registry-Auth
	Platform     *ocispec.Platform
}

// ImagePull returns the engine's messages; the caller closes them.
func (c *Client) ImagePull(ctx context.Context, o PullOptions) (*Messages, error) {
	var header []string
	if o.RegistryAuth != "" {
		header = []string{"X-Registry-Auth", o.RegistryAuth}
	}
	q := set("fromImage", o.Name, "tag", o.Tag, "platform", platformText(o.Platform))
	body, err := c.stream(ctx, http.MethodPost, "/images/create", q, nil, header...)
	if err != nil {
		return nil, err
	}
	return &Messages{body}, nil
}

// ImageLoad sends an archive and returns the engine's messages; the caller closes them.
func (c *Client) ImageLoad(ctx context.Context, archive io.Reader, quiet bool, platform *ocispec.Platform) (*Messages, error) {
	q := url.Values{}
	if quiet {
		q.Set("quiet", "1")
	} else {
		q.Set("quiet", "0")
	}
	if err := addPlatforms(q, "platform", platform); err != nil {
		return nil, err
	}
	body, err := c.stream(ctx, http.MethodPost, "/images/load", q, archive, "Content-Type", "application/x-tar")
	if err != nil {
		return nil, err
	}
	return &Messages{body}, nil
}

// addPlatforms adds platforms to a query as JSON.
func addPlatforms(q url.Values, name string, platforms ...*ocispec.Platform) error {
	for _, p := range platforms {
		if p == nil {
			continue
		}
		text, err := jsonv1.Marshal(p)
		if err != nil {
			return err
		}
		q.Add(name, string(text))
	}
	return nil
}

// Messages are the progress of a pull or load.
type Messages struct{ io.ReadCloser }

// All yields the messages until their end or the first error.
func (m *Messages) All() iter.Seq2[jsonstream.Message, error] {
	dec := json.NewDecoder(m)
	return func(yield func(jsonstream.Message, error) bool) {
		for {
			var message jsonstream.Message
			err := dec.Decode(&message)
			if errors.Is(err, io.EOF) || !yield(message, err) || err != nil {
				return
			}
		}
	}
}

func (c *Client) ImageList(ctx context.Context, all bool, f Filters) ([]image.Summary, error) {
	var out []image.Summary
	err := c.call(ctx, http.MethodGet, "/images/json", set("all", flag(all), "filters", f.String()), nil, &out)
	return out, err
}

// ImageInspect returns the answer as the API's type and as it came.
func (c *Client) ImageInspect(ctx context.Context, name string) (*image.InspectResponse, []byte, error) {
	return inspect[image.InspectResponse](ctx, c, "/images/"+imagePath(name)+"/json", nil)
}

// imagePath is an image's name in a path: its slashes are the path's.
func imagePath(name string) string { return (&url.URL{Path: name}).EscapedPath() }

func (c *Client) ImageHistory(ctx context.Context, name string, platform *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	q := url.Values{}
	if err := addPlatforms(q, "platform", platform); err != nil {
		return nil, err
	}
	var out []image.HistoryResponseItem
	err := c.call(ctx, http.MethodGet, "/images/"+imagePath(name)+"/history", q, nil, &out)
	return out, err
}

// ImageTag gives an image another name: repository and tag.
func (c *Client) ImageTag(ctx context.Context, source, repository, tag string) error {
	return c.call(ctx, http.MethodPost, "/images/"+imagePath(source)+"/tag", set("repo", repository, "tag", tag), nil, nil)
}

// ImageRemoveOptions are those of rmi.
type ImageRemoveOptions struct {
	Force, NoPrune bool
	Platforms      []*ocispec.Platform
}

func (c *Client) ImageRemove(ctx context.Context, name string, o ImageRemoveOptions) ([]image.DeleteResponse, error) {
	q := set("force", flag(o.Force), "noprune", flag(o.NoPrune))
	if err := addPlatforms(q, "platforms", o.Platforms...); err != nil {
		return nil, err
	}
	var out []image.DeleteResponse
	err := c.call(ctx, http.MethodDelete, "/images/"+imagePath(name), q, nil, &out)
	return out, err
}

func (c *Client) ImagePrune(ctx context.Context, f Filters) (image.PruneReport, error) {
	var out image.PruneReport
	err := c.call(ctx, http.MethodPost, "/images/prune", set("filters", f.String()), nil, &out)
	return out, err
}
