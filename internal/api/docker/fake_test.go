package docker

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/engine"
	images "gantry/internal/image"
	"gantry/internal/logs"
)

// fake is a Backend that writes down how it was called and answers with err, or with something plausible.
type fake struct {
	err   error
	panic bool

	mu      sync.Mutex // guards what follows
	calls   []string
	created engine.CreateRequest
	updated container.UpdateConfig

	tty      bool
	entries  []logs.Entry
	stream   engine.Stream
	execGone error // of InspectExec
	waiting  chan struct{}
	waited   chan engine.WaitResult
	progress []images.Progress
	pullErr  error
	imageID  digest.Digest // before a pull
	events   []events.Message
	query    engine.EventQuery
	loaded   []byte
}

func (f *fake) call(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	if f.panic {
		panic("a bug")
	}
	return f.err
}

// took returns the calls and forgets them.
func (f *fake) took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.calls, "; ")
	f.calls = nil
	return s
}

func number(n *int) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func (f *fake) CreateContainer(_ context.Context, r engine.CreateRequest) (container.CreateResponse, error) {
	f.mu.Lock()
	f.created = r
	f.mu.Unlock()
	return container.CreateResponse{ID: "c1"}, f.call("create %s", r.Name)
}

func (f *fake) PlanContainer(_ context.Context, r engine.CreateRequest, w io.Writer) error {
	if err := f.call("plan %s", r.Config.Image); err != nil {
		return err
	}
	_, err := io.WriteString(w, "make the process\n")
	return err
}

func (f *fake) StartContainer(_ context.Context, id string) error { return f.call("start %s", id) }
func (f *fake) StopContainer(_ context.Context, id, signal string, timeout *int) error {
	return f.call("stop %s %s %s", id, signal, number(timeout))
}

func (f *fake) RestartContainer(_ context.Context, id, signal string, timeout *int) error {
	return f.call("restart %s %s %s", id, signal, number(timeout))
}

func (f *fake) KillContainer(_ context.Context, id, signal string) error {
	return f.call("kill %s %s", id, signal)
}

func (f *fake) PauseContainer(_ context.Context, id string) error { return f.call("pause %s", id) }

func (f *fake) UnpauseContainer(_ context.Context, id string) error { return f.call("unpause %s", id) }

func (f *fake) RenameContainer(_ context.Context, id, name string) error {
	return f.call("rename %s %s", id, name)
}

func (f *fake) UpdateContainer(_ context.Context, id string, u container.UpdateConfig) (container.UpdateResponse, error) {
	f.updated = u
	return container.UpdateResponse{}, f.call("update %s", id)
}

func (f *fake) RemoveContainer(_ context.Context, id string, o engine.RemoveOptions) error {
	return f.call("remove %s %+v", id, o)
}

func (f *fake) PruneContainers(_ context.Context, fl map[string]map[string]bool) (container.PruneReport, error) {
	return container.PruneReport{SpaceReclaimed: 7}, f.call("prune containers %v", fl)
}

func (f *fake) WaitContainer(_ context.Context, id string, c container.WaitCondition) (<-chan engine.WaitResult, error) {
	err := f.call("wait %s %s", id, c)
	if f.waiting != nil {
		close(f.waiting)
	}
	return f.waited, err
}

func (f *fake) ListContainers(_ context.Context, o engine.ListOptions) ([]container.Summary, error) {
	return []container.Summary{{
		ID: "c1", Names: []string{"/one"}, Image: "debian", State: "running", Status: "Up 1 second",
		Health: &container.HealthSummary{},
	}}, f.call("list %+v", o)
}

func (f *fake) InspectContainer(_ context.Context, id string, size bool) (*container.InspectResponse, error) {
	return &container.InspectResponse{
		ID: "c1", Name: "/one", Config: &container.Config{Tty: f.tty, Image: "debian"}, State: &container.State{Status: "running", Running: true},
		HostConfig: &container.HostConfig{}, NetworkSettings: &container.NetworkSettings{SandboxID: "s1", Networks: map[string]*network.EndpointSettings{
			"bridge": {EndpointID: "e1", IPPrefixLen: 16},
		}},
	}, f.call("inspect %s %v", id, size)
}

func (f *fake) TopContainer(_ context.Context, id, args string) (*container.TopResponse, error) {
	return &container.TopResponse{Titles: []string{"PID"}}, f.call("top %s %s", id, args)
}

func (f *fake) StatsContainer(_ context.Context, id string, stream, oneShot bool, each func(*container.StatsResponse) error) error {
	if err := f.call("stats %s %v %v", id, stream, oneShot); err != nil {
		return err
	}
	return each(&container.StatsResponse{ID: "c1"})
}

func (f *fake) LogsContainer(_ context.Context, id string, q engine.LogQuery, each func(logs.Entry) error) error {
	if err := f.call("logs %s %v %v tail=%d follow=%v since=%d until=%d", id, q.Stdout, q.Stderr, q.Tail, q.Follow, seconds(q.Since), seconds(q.Until)); err != nil {
		return err
	}
	for _, e := range f.entries {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) AttachContainer(_ context.Context, id string, o engine.AttachOptions) (engine.Stream, bool, error) {
	return f.stream, f.tty, f.call("attach %s %+v", id, o)
}

func (f *fake) ResizeContainer(_ context.Context, id string, h, w uint) error {
	return f.call("resize %s %dx%d", id, h, w)
}

func (f *fake) CreateExec(_ context.Context, id string, r container.ExecCreateRequest) (string, error) {
	return "x1", f.call("exec %s %v", id, r.Cmd)
}

func (f *fake) StartExec(_ context.Context, id string, o engine.ExecStart) (engine.Stream, bool, error) {
	return f.stream, f.tty, f.call("exec start %s %v %v", id, o.Detach, o.TTY)
}

func (f *fake) InspectExec(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	zero := 0
	return &container.ExecInspectResponse{ID: id, ExitCode: &zero}, f.execGone
}

func (f *fake) ResizeExec(_ context.Context, id string, h, w uint) error {
	return f.call("exec resize %s %dx%d", id, h, w)
}

var pulled = digest.FromString("pulled")

func (f *fake) PullImage(_ context.Context, ref string, p *ocispec.Platform, auth *images.Auth, progress func(images.Progress)) (*images.Image, error) {
	user := ""
	if auth != nil {
		user = auth.Username + ":" + auth.Password
	}
	arch := ""
	if p != nil {
		arch = p.Architecture
	}
	if err := f.call("pull %s %s %s", ref, arch, user); err != nil {
		return nil, err
	}
	for _, p := range f.progress {
		progress(p)
	}
	return &images.Image{ID: pulled}, f.pullErr
}

func (f *fake) LoadImages(_ context.Context, r io.Reader, progress func(images.Progress)) ([]images.Loaded, error) {
	if err := f.call("load"); err != nil {
		return nil, err
	}
	progress(images.Progress{ID: "l1", Status: "Extracting", Current: 1, Total: 2})
	data, err := io.ReadAll(r)
	f.loaded = data
	named := &images.Image{ID: pulled, Names: []string{"docker.io/library/a:1", "docker.io/library/had:before"}}
	return []images.Loaded{{Image: named, Loaded: []string{"docker.io/library/a:1"}}, {Image: &images.Image{ID: pulled}}}, err
}

func (f *fake) ListImages(_ context.Context, all bool, fl map[string]map[string]bool) ([]image.Summary, error) {
	return []image.Summary{{ID: "sha256:1", Size: 5, Descriptor: &ocispec.Descriptor{}}}, f.call("images %v %v", all, fl)
}

func (f *fake) InspectImage(_ context.Context, ref string, p *ocispec.Platform) (*image.InspectResponse, error) {
	arch := ""
	if p != nil {
		arch = p.Architecture
	}
	return &image.InspectResponse{ID: f.imageID.String(), Size: 5, Descriptor: &ocispec.Descriptor{}}, f.call("image %s %s", ref, arch)
}

func (f *fake) HistoryImage(_ context.Context, ref string, _ *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	return nil, f.call("history %s", ref)
}

func (f *fake) TagImage(_ context.Context, ref, name string) error {
	return f.call("tag %s %s", ref, name)
}

func (f *fake) RemoveImage(_ context.Context, ref string, force, noPrune bool) ([]image.DeleteResponse, error) {
	return []image.DeleteResponse{{Untagged: ref}}, f.call("rmi %s %v %v", ref, force, noPrune)
}

func (f *fake) PruneImages(_ context.Context, fl map[string]map[string]bool) (image.PruneReport, error) {
	return image.PruneReport{}, f.call("prune images %v", fl)
}

func (f *fake) ListVolumes(_ context.Context, fl map[string]map[string]bool) (volume.ListResponse, error) {
	return volume.ListResponse{}, f.call("volumes %v", fl)
}

func (f *fake) CreateVolume(_ context.Context, r volume.CreateRequest) (*volume.Volume, error) {
	return &volume.Volume{Name: r.Name}, f.call("create volume %s", r.Name)
}

func (f *fake) InspectVolume(_ context.Context, name string) (*volume.Volume, error) {
	return &volume.Volume{Name: name}, f.call("volume %s", name)
}

func (f *fake) RemoveVolume(_ context.Context, name string, force bool) error {
	return f.call("remove volume %s %v", name, force)
}

func (f *fake) PruneVolumes(_ context.Context, fl map[string]map[string]bool) (volume.PruneReport, error) {
	return volume.PruneReport{}, f.call("prune volumes %v", fl)
}

func (f *fake) ListNetworks(_ context.Context, fl map[string]map[string]bool) ([]network.Inspect, error) {
	return nil, f.call("networks %v", fl)
}

func (f *fake) InspectNetwork(_ context.Context, id string) (*network.Inspect, error) {
	return &network.Inspect{Network: network.Network{Name: id}}, f.call("network %s", id)
}

func (f *fake) Events(_ context.Context, q engine.EventQuery, each func(events.Message) error) error {
	f.query = q
	for _, m := range f.events {
		if err := each(m); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fake) Info(context.Context) (*system.Info, error) {
	return &system.Info{ID: "i1", Driver: "overlay"}, f.call("info")
}

func (f *fake) Version(context.Context) system.VersionResponse {
	return system.VersionResponse{Version: "9.9"}
}
func (f *fake) Started() time.Time { return time.Unix(1, 0) }

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// duplex is a Stream over one end of a socket pair; the test holds the other end as the process.
type duplex struct{ *net.UnixConn }

// process returns a stream and the process's side of it.
func process() (engine.Stream, *net.UnixConn, error) {
	a, b, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	return duplex{a}, b, nil
}

func (f *fake) StatPath(context.Context, string, string) (*container.PathStat, error) {
	return &container.PathStat{Name: "file", Size: 3, Mode: 0o644}, nil
}

func (f *fake) ReadArchive(ctx context.Context, id, path string, begin func(*container.PathStat) io.Writer) error {
	stat, err := f.StatPath(ctx, id, path)
	if err == nil {
		_, err = begin(stat).Write([]byte("archive of " + path))
	}
	return err
}

func (f *fake) ExtractArchive(_ context.Context, _, _ string, r io.Reader, _ engine.ExtractOptions) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func (f *fake) ExportContainer(_ context.Context, _ string, begin func() io.Writer) error {
	_, err := begin().Write([]byte("export"))
	return err
}

func (f *fake) ChangesContainer(context.Context, string) ([]container.FilesystemChange, error) {
	return []container.FilesystemChange{}, nil
}
