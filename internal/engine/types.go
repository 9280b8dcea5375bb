package engine

import (
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/logs"
)

// Config is everything that create was told. It is stored as it came, once, and never copied into other structs.
type Config = container.CreateRequest

// CreateRequest is one create.
type CreateRequest struct {
	Name     string // "" asks for a made-up one
	Platform *ocispec.Platform
	Config   Config
}

// ListOptions select containers.
type ListOptions struct {
	All     bool
	Limit   int
	Size    bool
	Filters map[string]map[string]bool // docker's filters: key → values
}

// RemoveOptions are those of docker rm.
type RemoveOptions struct{ Force, Volumes, Link bool }

// AttachOptions say which streams; Logs replays what has been logged before the live stream.
type AttachOptions struct {
	Stdin, Stdout, Stderr, Logs, Stream bool
}

// Stream is a live connection to a process: what is written goes to its stdin, what is read is its output, raw for a
// terminal, else in frames of Docker's multiplexed stream.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// ExecStart are those of exec start.
type ExecStart struct {
	Detach bool
	TTY    bool
	Size   *[2]uint // height, width in cells
}

// WaitResult is how a container ended.
type WaitResult struct {
	Status int
	Err    string // why the status says nothing, e.g. "removed before it started"
}

// EventQuery selects events; Since and Until zero: live only, without end.
type EventQuery struct {
	Since, Until time.Time
	Filters      map[string]map[string]bool
}

// LogQuery is logs.Query with the choice of streams.
type LogQuery struct {
	logs.Query
	Stdout, Stderr bool
}
