package engine

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	netapi "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
)

// InspectContainer describes a container; size also measures its files.
func (e *Engine) InspectContainer(ctx context.Context, id string, size bool) (*container.InspectResponse, error) {
	c, err := e.lookup(id)
	if err != nil {
		return nil, err
	}
	v := c.view()
	rec := v.record
	args := e.commandOf(rec)
	manifest := rec.Image.Manifest
	r := &container.InspectResponse{
		ID: c.ID, Created: rec.Created.Format(time.RFC3339Nano), State: inspectState(v), Image: rec.Image.ID.String(),
		ResolvConfPath: filepath.Join(c.dir(), "resolv.conf"), HostnamePath: filepath.Join(c.dir(), "hostname"), HostsPath: filepath.Join(c.dir(), "hosts"),
		Name: "/" + rec.Name, RestartCount: rec.Last.Restarts, Driver: "overlay2", Platform: "linux", ExecIDs: v.execs,
		HostConfig: rec.Config.HostConfig, Config: e.inspectConfig(ctx, c, rec), Mounts: e.mountPoints(rec), ImageManifestDescriptor: &manifest,
		GraphDriver: &storage.DriverData{Name: "overlay2", Data: map[string]string{
			"UpperDir": filepath.Join(c.dir(), "upper"), "WorkDir": filepath.Join(c.dir(), "work"),
		}},
		NetworkSettings: &container.NetworkSettings{Networks: e.endpoints(v), Ports: portMap(v)},
	}
	if len(rec.Links) > 0 {
		host := *rec.Config.HostConfig
		host.Links = e.linkTexts(rec)
		r.HostConfig = &host
	}
	if rec.Config.HostConfig.LogConfig.Type == "json-file" {
		r.LogPath = c.logPath()
	}
	if len(args) > 0 {
		r.Path, r.Args = args[0], append([]string{}, args[1:]...)
	}
	if v.run.Pid != 0 {
		r.NetworkSettings.SandboxID = c.ID
		r.NetworkSettings.SandboxKey = "/proc/" + strconv.Itoa(v.run.Pid) + "/ns/net"
	}
	if size {
		own := diskUsage(filepath.Join(c.dir(), "upper"))
		whole := own + e.imageSize(ctx, rec)
		r.SizeRw, r.SizeRootFs = &own, &whole
	}
	return r, nil
}

// inspectConfig is the request's configuration with the host name that the container has and what it has of its image.
func (e *Engine) inspectConfig(ctx context.Context, c *Container, rec record) *container.Config {
	config := *rec.Config.Config
	if img, err := e.images.Get(ctx, rec.Image.ID.String(), &rec.Image.Platform); err == nil {
		inherit(&config, &img.Config.Config)
		config.Healthcheck = mergedHealthcheck(rec.Config.Config, &img.Config)
		config.ExposedPorts = exposed(&rec.Config, img)
	}
	if config.Hostname == "" {
		config.Hostname = c.hostname(rec)
	}
	if config.Labels == nil {
		config.Labels = map[string]string{}
	}
	return &config
}

// inherit fills what the request leaves to the image, as docker shows it.
func inherit(config *container.Config, from *dockerspec.DockerOCIImageConfig) {
	if len(config.Entrypoint) == 0 {
		if config.Entrypoint == nil {
			config.Entrypoint = from.Entrypoint
		}
		if len(config.Cmd) == 0 {
			config.Cmd = from.Cmd
		}
	} else if len(config.Entrypoint) == 1 && config.Entrypoint[0] == "" {
		config.Entrypoint = nil
	}
	set := map[string]bool{}
	for _, entry := range config.Env {
		name, _, _ := strings.Cut(entry, "=")
		set[name] = true
	}
	config.Env = slices.Clone(config.Env)
	for _, entry := range from.Env {
		if name, _, _ := strings.Cut(entry, "="); !set[name] {
			config.Env = append(config.Env, entry)
		}
	}
	config.User = cmp.Or(config.User, from.User)
	config.WorkingDir = cmp.Or(config.WorkingDir, from.WorkingDir)
	config.StopSignal = cmp.Or(config.StopSignal, from.StopSignal)
	config.Volumes = under(from.Volumes, config.Volumes)
}

func inspectState(v view) *container.State {
	last := v.record.Last
	s := &container.State{
		Status: phaseStates[v.phase], Running: v.phase.alive() || v.phase == phaseRestarting, Paused: v.phase == phasePaused,
		Restarting: v.phase == phaseRestarting, StartedAt: stamp(last.Started), FinishedAt: stamp(last.Finished),
		ExitCode: last.ExitCode, OOMKilled: last.OOMKilled, Error: last.Error,
	}
	s.Health = v.record.Health
	if v.phase.alive() {
		s.Pid, s.ExitCode, s.Error = v.run.Pid, 0, ""
	}
	return s
}

// stamp is a time in the API's form; the zero time is the year 1.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func portMap(v view) netapi.PortMap {
	m := netapi.PortMap{}
	for p := range v.record.Config.ExposedPorts {
		m[p] = nil
	}
	if v.run.Endpoint == nil {
		return m
	}
	for _, p := range v.run.Endpoint.Ports {
		if port, ok := netapi.PortFrom(p.ContainerPort, netapi.IPProtocol(p.Proto)); ok {
			m[port] = append(m[port], netapi.PortBinding{HostIP: anyAddress(p.HostIP), HostPort: strconv.Itoa(int(p.HostPort))})
		}
	}
	return m
}
