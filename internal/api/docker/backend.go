package docker

import (
	"context"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/engine"
	images "gantry/internal/image"
	"gantry/internal/logs"
)

// Backend is what the API needs of the engine; *engine.Engine is it. Containers are named by id, unambiguous prefix of
// an id, or name. Errors are classified by containerd/errdefs (ErrNotFound 404, ErrInvalidArgument 400, ErrConflict or
// ErrAlreadyExists 409, ErrFailedPrecondition 409, ErrUnavailable 503, ErrUnauthenticated 401, ErrNotImplemented 501, else 500);
// engine.ErrNotModified is 304.
type Backend interface {
	CreateContainer(ctx context.Context, r engine.CreateRequest) (container.CreateResponse, error)
	// PlanContainer writes the system calls that would make such a container.
	PlanContainer(ctx context.Context, r engine.CreateRequest, w io.Writer) error
	StartContainer(ctx context.Context, id string) error
	StopContainer(ctx context.Context, id, signal string, timeout *int) error
	RestartContainer(ctx context.Context, id, signal string, timeout *int) error
	KillContainer(ctx context.Context, id, signal string) error
	PauseContainer(ctx context.Context, id string) error
	UnpauseContainer(ctx context.Context, id string) error
	RenameContainer(ctx context.Context, id, name string) error
	UpdateContainer(ctx context.Context, id string, u container.UpdateConfig) (container.UpdateResponse, error)
	RemoveContainer(ctx context.Context, id string, o engine.RemoveOptions) error
	PruneContainers(ctx context.Context, filters map[string]map[string]bool) (container.PruneReport, error)
	// WaitContainer returns at once with a channel that gets one result when condition ("not-running", "next-exit",
	// "removed") holds: the caller may then start the container without missing its end.
	WaitContainer(ctx context.Context, id string, condition container.WaitCondition) (<-chan engine.WaitResult, error)
	ListContainers(ctx context.Context, o engine.ListOptions) ([]container.Summary, error)
	InspectContainer(ctx context.Context, id string, size bool) (*container.InspectResponse, error)
	TopContainer(ctx context.Context, id, psArgs string) (*container.TopResponse, error)
	// StatsContainer calls each once, or every second while stream.
	StatsContainer(ctx context.Context, id string, stream, oneShot bool, each func(*container.StatsResponse) error) error
	LogsContainer(ctx context.Context, id string, q engine.LogQuery, each func(logs.Entry) error) error
	// AttachContainer also tells whether the container has a terminal (no frames).
	AttachContainer(ctx context.Context, id string, o engine.AttachOptions) (s engine.Stream, tty bool, err error)
	ResizeContainer(ctx context.Context, id string, height, width uint) error

	// StatPath describes a file of a container; of a link, the link.
	StatPath(ctx context.Context, id, path string) (*container.PathStat, error)
	// ReadArchive calls begin, unless there is nothing to read, and writes a tar archive to the writer that it returns.
	ReadArchive(ctx context.Context, id, path string, begin func(*container.PathStat) io.Writer) error
	ExtractArchive(ctx context.Context, id, dir string, r io.Reader, o engine.ExtractOptions) error
	ExportContainer(ctx context.Context, id string, begin func() io.Writer) error
	ChangesContainer(ctx context.Context, id string) ([]container.FilesystemChange, error)

	CreateExec(ctx context.Context, container string, r container.ExecCreateRequest) (id string, err error)
	// StartExec starts it; the stream is nil if detached.
	StartExec(ctx context.Context, id string, o engine.ExecStart) (s engine.Stream, tty bool, err error)
	InspectExec(ctx context.Context, id string) (*container.ExecInspectResponse, error)
	ResizeExec(ctx context.Context, id string, height, width uint) error

	PullImage(ctx context.Context, ref string, platform *ocispec.Platform, auth *images.Auth, progress func(images.Progress)) (*images.Image, error)
	LoadImages(ctx context.Context, r io.Reader, progress func(images.Progress)) ([]images.Loaded, error)
	ListImages(ctx context.Context, all bool, filters map[string]map[string]bool) ([]image.Summary, error)
	InspectImage(ctx context.Context, ref string, platform *ocispec.Platform) (*image.InspectResponse, error)
	HistoryImage(ctx context.Context, ref string, platform *ocispec.Platform) ([]image.HistoryResponseItem, error)
	TagImage(ctx context.Context, ref, name string) error
	RemoveImage(ctx context.Context, ref string, force, noPrune bool) ([]image.DeleteResponse, error)
	PruneImages(ctx context.Context, filters map[string]map[string]bool) (image.PruneReport, error)

	ListVolumes(ctx context.Context, filters map[string]map[string]bool) (volume.ListResponse, error)
	CreateVolume(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error)
	InspectVolume(ctx context.Context, name string) (*volume.Volume, error)
	RemoveVolume(ctx context.Context, name string, force bool) error
	PruneVolumes(ctx context.Context, filters map[string]map[string]bool) (volume.PruneReport, error)
	ListNetworks(ctx context.Context, filters map[string]map[string]bool) ([]network.Inspect, error)
	InspectNetwork(ctx context.Context, idOrName string) (*network.Inspect, error)

	// Events calls each for past and live events until ctx ends or q.Until has passed.
	Events(ctx context.Context, q engine.EventQuery, each func(events.Message) error) error
	Info(ctx context.Context) (*system.Info, error)
	Version(ctx context.Context) system.VersionResponse
	// Started is when the engine was.
	Started() time.Time
}
