package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"

	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/moby/moby/api/types/container"
)

// ContainerStatPath describes a file of a container; a link is not followed.
func (c *Client) ContainerStatPath(ctx context.Context, name, path string) (container.PathStat, error) {
	body, err := c.stream(ctx, http.MethodHead, "/containers/"+segment(name)+"/archive", set("path", path), nil)
	if err != nil {
		return container.PathStat{}, err
	}
	stat, err := pathStat(body.header)
	_, drainErr := io.Copy(io.Discard, body) // to its end, which is here
	return stat, errors.Join(err, drainErr, body.Close())
}

func pathStat(header http.Header) (container.PathStat, error) {
	var stat container.PathStat
	text, err := base64.StdEncoding.DecodeString(header.Get("X-Docker-Container-Path-Stat"))
	if err == nil {
		err = jsonv1.Unmarshal(text, &stat)
	}
	if err != nil {
		return stat, fmt.Errorf("decode what the engine says about the path: %w", err)
	}
	return stat, nil
}

// CopyFromContainer returns a tar archive of a path, which the caller closes, and what the path is.
func (c *Client) CopyFromContainer(ctx context.Context, name, path string) (io.ReadCloser, container.PathStat, error) {
	body, err := c.stream(ctx, http.MethodGet, "/containers/"+segment(name)+"/archive", set("path", path), nil)
	if err != nil {
		return nil, container.PathStat{}, err
	}
	stat, err := pathStat(body.header)
	if err != nil {
		return nil, stat, errors.Join(err, body.Close())
	}
	return body, stat, nil
}

// CopyOptions say where an archive goes and what may change there.
type CopyOptions struct {
	Path                 string // of a directory
	OverwriteDirWithFile bool   // a directory may be replaced by a file, and the other way round
	CopyUIDGID           bool   // owners are the archive's
}

// CopyToContainer unpacks a tar archive into a directory of a container.
func (c *Client) CopyToContainer(ctx context.Context, name string, archive io.Reader, o CopyOptions) error {
	q := set("path", o.Path, "copyUIDGID", word(o.CopyUIDGID), "noOverwriteDirNonDir", word(!o.OverwriteDirWithFile))
	body, err := c.stream(ctx, http.MethodPut, "/containers/"+segment(name)+"/archive", q, archive, "Content-Type", "application/x-tar")
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, body)
	return errors.Join(err, body.Close())
}

// word is true, as this part of the API has it, or nothing.
func word(on bool) string {
	if on {
		return "true"
	}
	return ""
}

// ContainerExport returns a container's files as a tar archive, which the caller closes.
func (c *Client) ContainerExport(ctx context.Context, name string) (io.ReadCloser, error) {
	return reader(c.stream(ctx, http.MethodGet, "/containers/"+segment(name)+"/export", nil, nil))
}

// ContainerDiff lists what differs from the container's image.
func (c *Client) ContainerDiff(ctx context.Context, name string) ([]container.FilesystemChange, error) {
	var out []container.FilesystemChange
	err := c.call(ctx, http.MethodGet, "/containers/"+segment(name)+"/changes", nil, nil, &out)
	return out, err
}

// reader is an answer or nothing, not a nil pointer.
func reader(body *answer, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	return body, nil
}
