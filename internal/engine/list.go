package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	mountapi "github.com/moby/moby/api/types/mount"
	netapi "github.com/moby/moby/api/types/network"
)

// ListContainers lists the selected containers, newest first.
func (e *Engine) ListContainers(ctx context.Context, o ListOptions) ([]container.Summary, error) {
	match, err := e.containerFilter(ctx, o.Filters)
	if err != nil {
		return nil, err
	}
	list := e.all()
	slices.SortFunc(list, func(a, b *Container) int { return b.record.Created.Compare(a.record.Created) })
	all := o.All || o.Limit > 0 || len(o.Filters["status"]) > 0 || len(o.Filters["exited"]) > 0
	out := []container.Summary{}
	for _, c := range list {
		v := c.view()
		if (!all && !v.phase.alive() && v.phase != phaseRestarting) || !match(v) {
			continue
		}
		if o.Limit > 0 && len(out) == o.Limit {
			break
		}
		s := e.summarize(v)
		if o.Size {
			s.SizeRw = diskUsage(c.dir() + "/upper")
			s.SizeRootFs = s.SizeRw + e.imageSize(ctx, v.record)
		}
		out = append(out, s)
	}
	return out, nil
}

func (e *Engine) summarize(v view) container.Summary {
	rec := v.record
	s := container.Summary{
		ID: rec.ID, Names: []string{"/" + rec.Name}, Image: rec.Config.Image, ImageID: rec.Image.ID.String(),
		Command: commandLine(e.commandOf(rec)), Created: rec.Created.Unix(), Labels: rec.Config.Labels,
		State: phaseStates[v.phase], Status: status(v, time.Now()), Ports: portSummaries(v), Mounts: e.mountPoints(rec),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: e.endpoints(v)}, Health: healthSummary(rec.Health),
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.HostConfig.NetworkMode = string(rec.Config.HostConfig.NetworkMode)
	s.HostConfig.Annotations = rec.Config.HostConfig.Annotations
	return s
}

// status tells in words what docker ps shows: "Up 5 minutes (Paused)".
func status(v view, now time.Time) string {
	last := v.record.Last
	ago := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch v.phase {
	case phaseRunning:
		return "Up " + ago(v.run.Started) + healthWords(v.record.Health)
	case phasePaused:
		return "Up " + ago(v.run.Started) + " (Paused)"
	case phaseRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", last.ExitCode, ago(last.Finished))
	case phaseExited:
		return fmt.Sprintf("Exited (%d) %s ago", last.ExitCode, ago(last.Finished))
	case phaseRemoving:
		return "Removal In Progress"
	default:
		return "Created"
	}
}

// commandOf is the command line that the container's configuration gives.
func (e *Engine) commandOf(rec record) []string {
	img, err := e.images.Get(e.ctx, rec.Image.ID.String(), &rec.Image.Platform)
	if err != nil {
		return command(rec.Config.Config, nil)
	}
	return command(rec.Config.Config, &img.Config)
}

func (e *Engine) imageSize(ctx context.Context, rec record) int64 {
	img, err := e.images.Get(ctx, rec.Image.ID.String(), &rec.Image.Platform)
	if err != nil {
		return 0
	}
	return img.Size
}

// commandLine joins words, quoting those with spaces.
func commandLine(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if strings.ContainsAny(w, " \t\n'\"") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		quoted[i] = w
	}
	return strings.Join(quoted, " ")
}

func portSummaries(v view) []container.PortSummary {
	list := []container.PortSummary{}
	if v.run.Endpoint != nil {
		for _, p := range v.run.Endpoint.Ports {
			list = append(list, container.PortSummary{IP: anyAddress(p.HostIP), PrivatePort: p.ContainerPort, PublicPort: p.HostPort, Type: p.Proto})
		}
	}
	for p := range v.record.Config.ExposedPorts {
		if !slices.ContainsFunc(list, func(s container.PortSummary) bool { return s.PrivatePort == p.Num() && s.Type == string(p.Proto()) }) {
			list = append(list, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
	}
	slices.SortFunc(list, func(a, b container.PortSummary) int { return int(a.PrivatePort) - int(b.PrivatePort) })
	return list
}

// anyAddress is the address of a published port: 0.0.0.0 stands for all.
func anyAddress(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return netip.IPv4Unspecified()
	}
	return a
}

// endpoints are the container's networks in the API's form.
func (e *Engine) endpoints(v view) map[string]*netapi.EndpointSettings {
	mode := v.record.Config.HostConfig.NetworkMode
	name := string(mode)
	switch {
	case mode.IsContainer(), v.record.Config.NetworkDisabled:
		return map[string]*netapi.EndpointSettings{}
	case mode.IsDefault():
		name = "bridge"
	}
	s := &netapi.EndpointSettings{}
	if asked := bridgeSettings(&v.record.Config); asked != nil && name == "bridge" {
		s = asked.Copy()
	}
	s.NetworkID = e.networkID(name)
	if ep := v.run.Endpoint; ep != nil {
		s.EndpointID, s.IPAddress, s.IPPrefixLen, s.Gateway, s.MacAddress = ep.ID, ep.IP.Addr(), ep.IP.Bits(), ep.Gateway, hardwareAddr(ep.MAC)
	}
	return map[string]*netapi.EndpointSettings{name: s}
}

// mountPoints are all mounts of a container; the image's VOLUMEs are known by their volumes.
func (rec record) mountPoints() ([]mountPoint, error) {
	points, err := mountPoints(rec.Config.HostConfig, rec.Config.Volumes, rec.Borrowed)
	if err != nil {
		return nil, err
	}
	for destination, use := range rec.Volumes {
		if !slices.ContainsFunc(points, func(m mountPoint) bool { return m.Destination == destination }) {
			points = append(points, mountPoint{Kind: mountapi.TypeVolume, Source: use.Name, Destination: destination, Options: []string{"rbind", "rprivate"}})
		}
	}
	return points, nil
}

// mountPoints are a container's mounts in the API's form.
func (e *Engine) mountPoints(rec record) []container.MountPoint {
	list := []container.MountPoint{}
	points, err := rec.mountPoints()
	if err != nil {
		return list
	}
	for _, m := range points {
		if m.Unlisted {
			continue
		}
		p := container.MountPoint{Type: m.Kind, Source: m.Source, Destination: m.Destination, Mode: m.Mode, RW: !m.ReadOnly}
		switch m.Kind {
		case mountapi.TypeBind:
			p.Propagation = mountapi.PropagationRPrivate
			for _, option := range m.Options {
				if bindModes[option] == "propagation" {
					p.Propagation = mountapi.Propagation(option)
				}
			}
		case mountapi.TypeVolume:
			p.Name, p.Driver = rec.Volumes[m.Destination].Name, "local"
			p.Source = e.volumeData(p.Name)
			if p.Mode == "" && m.Source != "" && !m.Borrowed && !rec.Volumes[m.Destination].Anonymous {
				p.Mode = "z" // docker's default for a volume that was named
			}
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b container.MountPoint) int { return strings.Compare(a.Destination, b.Destination) })
	return list
}

// containerFilter compiles docker's filters for containers.
func (e *Engine) containerFilter(ctx context.Context, filters map[string]map[string]bool) (func(view) bool, error) {
	err := knownFilters(filters, "id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "network", "publish", "expose", "health", "is-task", "isolation")
	if err != nil {
		return nil, err
	}
	if err := checkContainerFilters(filters); err != nil {
		return nil, err
	}
	for s := range filters["status"] {
		if err := container.ValidateContainerState(container.ContainerState(s)); err != nil {
			return nil, refuse("%w", err)
		}
	}
	for s := range filters["exited"] {
		if _, err := strconv.Atoi(s); err != nil {
			return nil, refuse("invalid filter 'exited=%s'", s)
		}
	}
	border := map[string]time.Time{}
	for _, key := range []string{"before", "since"} {
		for ref := range filters[key] {
			c, err := e.lookup(ref)
			if err != nil {
				return nil, err
			}
			border[key] = c.record.Created
		}
	}
	ancestors := map[string]bool{}
	for ref := range filters["ancestor"] {
		if id, err := e.images.ID(ref); err == nil {
			ancestors[id.String()] = true
		}
	}
	return func(v view) bool {
		rec := v.record
		return anyMatch(filters["id"], func(s string) bool { return strings.HasPrefix(rec.ID, s) }) &&
			anyMatch(filters["name"], func(s string) bool { return matchName(rec.Name, s) }) &&
			labelsMatch(filters["label"], rec.Config.Labels) &&
			anyMatch(filters["status"], func(s string) bool { return s == string(phaseStates[v.phase]) }) &&
			anyMatch(filters["exited"], func(s string) bool { return v.phase == phaseExited && s == strconv.Itoa(rec.Last.ExitCode) }) &&
			(len(filters["ancestor"]) == 0 || ancestors[rec.Image.ID.String()]) &&
			(len(filters["before"]) == 0 || rec.Created.Before(border["before"])) &&
			(len(filters["since"]) == 0 || rec.Created.After(border["since"])) &&
			anyMatch(filters["volume"], func(s string) bool { return e.mountsVolume(rec, s) }) &&
			anyMatch(filters["network"], func(s string) bool { return e.onNetwork(v, s) }) &&
			anyMatch(filters["publish"], func(s string) bool { return matchPort(v, s, true) }) &&
			anyMatch(filters["expose"], func(s string) bool { return matchPort(v, s, false) }) &&
			anyMatch(filters["health"], func(s string) bool { return s == string(healthSummary(rec.Health).Status) }) &&
			anyMatch(filters["is-task"], func(s string) bool { return !isTrue(s) })
	}, nil
}

// checkContainerFilters refuses values that no container could match.
func checkContainerFilters(filters map[string]map[string]bool) error {
	for s := range filters["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(s)); err != nil {
			return refuse("invalid filter 'health=%s': %v", s, err)
		}
	}
	for _, key := range []string{"publish", "expose"} {
		for s := range filters[key] {
			if _, err := netapi.ParsePortRange(s); err != nil {
				return refuse("invalid filter '%s=%s': %v", key, s, err)
			}
		}
	}
	return boolFilters(filters, "is-task")
}

// matchName is docker's: a part of the name, or with ^ and $ its ends.
func matchName(name, pattern string) bool {
	atStart, atEnd := strings.HasPrefix(pattern, "^"), strings.HasSuffix(pattern, "$")
	pattern = strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(pattern, "^"), "$"), "/")
	switch {
	case atStart && atEnd:
		return name == pattern
	case atStart:
		return strings.HasPrefix(name, pattern)
	case atEnd:
		return strings.HasSuffix(name, pattern)
	}
	return strings.Contains(name, pattern)
}

func (e *Engine) mountsVolume(rec record, ref string) bool {
	return slices.ContainsFunc(e.mountPoints(rec), func(m container.MountPoint) bool {
		return m.Name == ref || m.Destination == ref || m.Source == ref
	})
}

func (e *Engine) onNetwork(v view, ref string) bool {
	for name, s := range e.endpoints(v) {
		if name == ref || (len(ref) >= 4 && strings.HasPrefix(s.NetworkID, ref)) {
			return true
		}
	}
	return false
}

func matchPort(v view, text string, published bool) bool {
	r, err := netapi.ParsePortRange(text)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(portSummaries(v), func(p container.PortSummary) bool {
		port := p.PrivatePort
		if published {
			port = p.PublicPort
		}
		return port != 0 && port >= r.Start() && port <= r.End() && p.Type == string(r.Proto())
	})
}
