package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	netapi "github.com/moby/moby/api/types/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/image"
)

// CreateContainer checks everything that can be known before a start, and stores the container durably. A bad request
// leaves nothing behind.
func (e *Engine) CreateContainer(ctx context.Context, r CreateRequest) (container.CreateResponse, error) {
	normalize(&r.Config)
	completeLogConfig(&r.Config.HostConfig.LogConfig, e.o.LogOptions)
	e.nameByID(r.Config.HostConfig)
	img, err := e.imageFor(ctx, r)
	if err != nil {
		return container.CreateResponse{}, err
	}
	r.Config.Labels = under(img.Config.Config.Labels, r.Config.Labels)
	points, warnings, err := e.check(&r.Config, img)
	if errdefs.IsNotFound(err) { // 404 is for the image: clients pull it and ask again
		err = refuse("%v", err)
	}
	if err != nil {
		return container.CreateResponse{}, err
	}
	c := &Container{ID: randomID(), engine: e}
	c.record = record{
		ID: c.ID, Created: time.Now().UTC(), Config: r.Config,
		Image: imageRef{ID: img.ID, Manifest: img.Manifest, Platform: img.Platform},
	}
	if c.record.Links, err = e.linksOf(&r.Config); err != nil {
		return container.CreateResponse{}, err
	}
	c.record.Borrowed = slices.DeleteFunc(slices.Clone(points), func(m mountPoint) bool { return !m.Borrowed })
	if c.record.Name, err = e.reserveName(r.Name, c.ID); err != nil {
		return container.CreateResponse{}, err
	}
	if err := e.establish(ctx, c, img, points); err != nil {
		e.freeName(c.record.Name)
		return container.CreateResponse{}, fmt.Errorf("create container %s: %w", c.record.Name, err)
	}
	e.mu.Lock()
	e.containers[c.ID] = c
	e.mu.Unlock()
	e.containerEvent(c, events.ActionCreate)
	return container.CreateResponse{ID: c.ID, Warnings: warnings}, nil
}

// normalize fills what a request may leave out, so that nobody has to ask for nil later.
func normalize(c *Config) {
	if c.Config == nil {
		c.Config = &container.Config{}
	}
	if c.HostConfig == nil {
		c.HostConfig = &container.HostConfig{}
	}
	host := c.HostConfig
	if host.NetworkMode == "" || host.NetworkMode.IsDefault() {
		host.NetworkMode = netapi.NetworkBridge
	}
	if host.RestartPolicy.Name == "" {
		host.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if host.LogConfig.Type == "" {
		host.LogConfig.Type = "json-file"
	}
	if host.LogConfig.Config == nil {
		host.LogConfig.Config = map[string]string{}
	}
	if host.Runtime == "" {
		host.Runtime = "gantry"
	}
	if host.OomKillDisable == nil {
		host.OomKillDisable = new(bool)
	}
	if !host.Privileged && !slices.ContainsFunc(host.SecurityOpt, unmasks) {
		if host.MaskedPaths == nil {
			host.MaskedPaths = maskedPaths
		}
		if host.ReadonlyPaths == nil {
			host.ReadonlyPaths = readonlyPaths
		}
	}
	host.MemorySwap = swapLimit(&host.Resources)
	if c.WorkingDir != "" {
		c.WorkingDir = path.Clean(c.WorkingDir)
	}
	if host.ShmSize == 0 {
		host.ShmSize = 64 << 20
	}
	if host.IpcMode == "" {
		host.IpcMode = container.IPCModePrivate
	}
	if host.CgroupnsMode == "" {
		host.CgroupnsMode = container.CgroupnsModePrivate
	}
}

// unmasks reports whether a security option takes the masks of /proc and /sys away.
func unmasks(option string) bool { return option == "systempaths=unconfined" }

// nameByID replaces the name of a container whose namespace is joined by its id: it may be renamed before the start.
func (e *Engine) nameByID(host *container.HostConfig) {
	id := func(ref string) (string, bool) {
		if ref == "" {
			return "", false
		}
		c, err := e.lookup(ref)
		if err != nil { // checkModes refuses it
			return "", false
		}
		return "container:" + c.ID, true
	}
	if mode, found := id(host.PidMode.Container()); found {
		host.PidMode = container.PidMode(mode)
	}
	if mode, found := id(host.IpcMode.Container()); found {
		host.IpcMode = container.IpcMode(mode)
	}
	if mode, found := id(host.NetworkMode.ConnectedContainer()); found {
		host.NetworkMode = container.NetworkMode(mode)
	}
}

// under are the entries of both, where those of upper win; nil if there are none.
func under[V any](lower, upper map[string]V) map[string]V {
	if len(lower) == 0 {
		return upper
	}
	all := maps.Clone(lower)
	maps.Copy(all, upper)
	return all
}

func (e *Engine) imageFor(ctx context.Context, r CreateRequest) (*image.Image, error) {
	if r.Config.Image == "" {
		return nil, refuse("no image specified")
	}
	img, err := e.images.Get(ctx, r.Config.Image, r.Platform)
	if errdefs.IsNotFound(err) {
		return nil, noSuchImage(r.Config.Image, err)
	}
	return img, err
}

// check validates a request by compiling it as a start would, and returns the mounts that it asks for.
func (e *Engine) check(c *Config, img *image.Image) ([]mountPoint, []string, error) {
	host := c.HostConfig
	if err := container.ValidateRestartPolicy(host.RestartPolicy); err != nil {
		return nil, nil, refuse("%w", err)
	}
	if host.AutoRemove && !host.RestartPolicy.IsNone() {
		return nil, nil, refuse("can't create 'AutoRemove' container with restart policy")
	}
	if err := e.checkModes(host); err != nil {
		return nil, nil, err
	}
	if _, err := e.linksOf(c); err != nil {
		return nil, nil, err
	}
	if err := checkDevices(host.Devices); err != nil {
		return nil, nil, err
	}
	warnings, err := checkConfig(c)
	if err != nil {
		return nil, nil, err
	}
	if _, err := logOptions(record{ID: "check", Name: "check", Config: *c, Image: imageRef{ID: img.ID}}, ""); err != nil {
		return nil, nil, err
	}
	if _, err := stopSignal(c.StopSignal, img); err != nil {
		return nil, nil, err
	}
	if _, err := ports(c, img); err != nil {
		return nil, nil, err
	}
	volumes := maps.Clone(c.Volumes)
	if volumes == nil {
		volumes = map[string]struct{}{}
	}
	maps.Copy(volumes, img.Config.Config.Volumes)
	borrowed, err := e.volumesFrom(host.VolumesFrom)
	if err != nil {
		return nil, nil, err
	}
	points, err := mountPoints(host, volumes, borrowed)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range points {
		if err := checkSource(m); err != nil {
			return nil, nil, err
		}
	}
	_, err = buildSpec(c.Config, host, start{ID: "check", Hostname: "check", Image: &img.Config, User: specs.User{}, Home: "/", Cgroup: "/check"})
	return points, warnings, err
}

// checkModes refuses what this engine cannot do, instead of passing over it.
func (e *Engine) checkModes(host *container.HostConfig) error {
	mode := host.NetworkMode
	switch {
	case onBridge(mode), mode.IsHost(), mode.IsNone():
	case mode.IsContainer():
		if mode.ConnectedContainer() == "" {
			return refuse("Invalid network mode: invalid container format container:<name|id>")
		}
		if _, err := e.lookup(mode.ConnectedContainer()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("network %s not found%w", mode, noText{errdefs.ErrNotFound})
	}
	if other := host.PidMode.Container(); other != "" {
		if _, err := e.lookup(other); err != nil {
			return err
		}
	}
	if other := host.IpcMode.Container(); other != "" {
		donor, err := e.lookup(other)
		if err != nil {
			return err
		}
		if mode := donor.view().record.Config.HostConfig.IpcMode; !mode.IsShareable() && !mode.IsHost() {
			return refuse("cannot join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", other)
		}
	}
	switch {
	case !host.PidMode.Valid():
		return refuse("invalid PID mode: %q", host.PidMode)
	case !host.IpcMode.Valid():
		return refuse("invalid IPC mode: %q", host.IpcMode)
	case !host.UTSMode.Valid():
		return refuse("invalid UTS mode: %q", host.UTSMode)
	case !host.UsernsMode.Valid():
		return refuse("invalid user namespace mode: %q", host.UsernsMode)
	case !host.CgroupnsMode.Valid():
		return refuse("invalid cgroup namespace mode: %q", host.CgroupnsMode)
	case len(host.DeviceRequests) > 0:
		return refuse("device requests (--gpus) need a device driver, and there is none")
	case host.VolumeDriver != "" && host.VolumeDriver != "local":
		return refuse("volume driver %q is not supported, only local", host.VolumeDriver)
	case host.Runtime != "" && host.Runtime != "gantry" && host.Runtime != "runc":
		return refuse("unknown or invalid runtime name: %s", host.Runtime)
	case !host.Isolation.IsDefault():
		return refuse("invalid isolation (%s): only the default is supported", host.Isolation)
	case len(host.StorageOpt) > 0:
		return refuse("--storage-opt is not supported by the overlay storage")
	}
	return nil
}

// checkSource looks for a bind's source, which --mount wants to exist and -v makes at the start.
func checkSource(m mountPoint) error {
	if m.Kind != mount.TypeBind || m.Create {
		return nil
	}
	if _, err := os.Stat(m.Source); err != nil {
		if os.IsNotExist(err) {
			return refuse("invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
		}
		return fmt.Errorf("bind source: %w", err)
	}
	return nil
}

// establish makes the container's directories and volumes and stores it; on an error nothing of it is left.
func (e *Engine) establish(ctx context.Context, c *Container, img *image.Image, points []mountPoint) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, e.trash.remove(c.dir()), e.images.Release(context.WithoutCancel(ctx), c.ID))
			e.dropAnonymous(context.WithoutCancel(ctx), c)
		}
	}()
	if err := e.images.Hold(ctx, c.ID, img); err != nil {
		return err
	}
	for _, dir := range []string{"", "upper"} {
		if err := os.Mkdir(filepath.Join(c.dir(), dir), 0o711); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(c.dir(), "upper"), 0o755); err != nil {
		return err
	}
	if err := e.useVolumes(ctx, c, img, points); err != nil {
		return err
	}
	return c.save(ctx)
}
