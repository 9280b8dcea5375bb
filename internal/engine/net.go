package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	mountapi "github.com/moby/moby/api/types/mount"
	netapi "github.com/moby/moby/api/types/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/image"
	"gantry/internal/network"
)

// connect puts the container on the bridge; nil if it wants another network.
func (c *Container) connect(ctx context.Context, rec record, img *image.Image) (*network.Endpoint, error) {
	if !onBridge(rec.Config.HostConfig.NetworkMode) || rec.Config.NetworkDisabled {
		c.engine.networkEvent(c, rec, events.ActionConnect)
		return nil, nil
	}
	request := network.Request{Container: c.ID}
	var err error
	if request.Ports, err = ports(&rec.Config, img); err != nil {
		return nil, err
	}
	if settings := bridgeSettings(&rec.Config); settings != nil {
		request.MAC = []byte(settings.MacAddress)
		if settings.IPAMConfig != nil {
			request.IP = settings.IPAMConfig.IPv4Address
		}
	}
	endpoint, err := c.engine.net.Connect(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("set up the network of container %s: %w", rec.Name, err)
	}
	c.engine.networkEvent(c, rec, events.ActionConnect)
	return endpoint, nil
}

// onBridge reports whether a mode is the default bridge; records of older engines have "default".
func onBridge(mode container.NetworkMode) bool { return mode.IsDefault() || mode.IsBridge() }

func (c *Container) disconnect(ctx context.Context, endpoint *network.Endpoint) error {
	c.engine.networkEvent(c, c.view().record, events.ActionDisconnect)
	if endpoint == nil {
		return nil
	}
	return c.engine.net.Disconnect(ctx, endpoint)
}

// networkEvent reports that a container joins or leaves its network, if it has one of its own.
func (e *Engine) networkEvent(c *Container, rec record, action events.Action) {
	mode := rec.Config.HostConfig.NetworkMode
	name := string(mode)
	switch {
	case rec.Config.NetworkDisabled, mode.IsContainer():
		return
	case onBridge(mode):
		name = netapi.NetworkBridge
	}
	e.events.publish(events.NetworkEventType, action, e.networkID(name), map[string]string{"container": c.ID, "name": name, "type": networkDrivers[name]})
}

// bridgeSettings are what the request says about its endpoint on the default bridge.
func bridgeSettings(c *Config) *netapi.EndpointSettings {
	if c.NetworkingConfig == nil {
		return nil
	}
	for _, name := range []string{"default", "bridge"} {
		if s := c.NetworkingConfig.EndpointsConfig[name]; s != nil {
			return s
		}
	}
	return nil
}

// ports are the published ports: -p, and with -P every exposed one that -p does not name.
func ports(c *Config, img *image.Image) ([]network.Port, error) {
	bindings := maps.Clone(c.HostConfig.PortBindings)
	if bindings == nil {
		bindings = netapi.PortMap{}
	}
	if c.HostConfig.PublishAllPorts {
		for p := range exposed(c, img) {
			if len(bindings[p]) == 0 {
				bindings[p] = []netapi.PortBinding{{}}
			}
		}
	}
	var list []network.Port
	for _, p := range slices.SortedFunc(maps.Keys(bindings), func(a, b netapi.Port) int { return strings.Compare(a.String(), b.String()) }) {
		for _, b := range bindings[p] {
			first, last, err := hostPorts(b.HostPort)
			if err != nil {
				return nil, fmt.Errorf("published port %s: %w", p, err)
			}
			list = append(list, network.Port{Proto: string(p.Proto()), HostIP: b.HostIP, HostPort: first, LastHostPort: last, ContainerPort: p.Num()})
		}
	}
	return list, nil
}

// hostPorts reads a host port or a range of them, of which a free one is wanted; 0 to 0 leaves the choice to the kernel.
func hostPorts(text string) (first, last uint16, err error) {
	if text == "" {
		return 0, 0, nil
	}
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	a, errA := strconv.ParseUint(low, 10, 16)
	b, errB := strconv.ParseUint(high, 10, 16)
	if errA != nil || errB != nil || a > b || (isRange && a == 0) {
		return 0, 0, refuse("invalid port specification: %q: want a number or a range of them", text)
	}
	return uint16(a), uint16(b), nil
}

// exposed are the ports of EXPOSE and --expose.
func exposed(c *Config, img *image.Image) netapi.PortSet {
	set := maps.Clone(c.ExposedPorts)
	if set == nil {
		set = netapi.PortSet{}
	}
	for text := range img.Config.Config.ExposedPorts {
		if p, err := netapi.ParsePort(text); err == nil {
			set[p] = struct{}{}
		}
	}
	return set
}

// mounts are the user's, sources resolved, and the three files that every container of its own network gets.
func (c *Container) mounts(rec record, img *image.Image, endpoint *network.Endpoint) ([]specs.Mount, error) {
	volumes := maps.Clone(rec.Config.Volumes)
	if volumes == nil {
		volumes = map[string]struct{}{}
	}
	maps.Copy(volumes, img.Config.Config.Volumes)
	points, err := mountPoints(rec.Config.HostConfig, volumes, rec.Borrowed)
	if err != nil {
		return nil, err
	}
	list, err := c.hostFiles(rec, endpoint)
	if err != nil {
		return nil, err
	}
	if wantsInit(rec.Config.HostConfig) {
		list = append(list, specs.Mount{Destination: initPath, Type: "bind", Source: c.engine.o.Init, Options: []string{"bind", "ro"}})
	}
	for _, m := range points {
		source := m.Source
		switch {
		case m.Kind == mountapi.TypeVolume:
			source = c.engine.volumeData(rec.Volumes[m.Destination].Name)
		case m.Kind == mountapi.TypeBind && m.Create:
			if err := os.MkdirAll(source, 0o755); err != nil && !os.IsExist(err) {
				if _, statErr := os.Stat(source); statErr != nil {
					return nil, fmt.Errorf("make the source of mount %s: %w", m.Destination, err)
				}
			}
		}
		list = slices.DeleteFunc(list, func(s specs.Mount) bool { return s.Destination == m.Destination })
		list = append(list, m.spec(source))
	}
	sortByDepth(list)
	return list, nil
}

// sortByDepth puts mounts that are nearer to the root first, as docker does: a volume on /etc must not hide /etc/hosts.
func sortByDepth(list []specs.Mount) {
	slices.SortStableFunc(list, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
}

// hostFiles writes /etc/hosts, /etc/hostname and /etc/resolv.conf and returns their mounts. A container that joins
// another's network has the other's files.
func (c *Container) hostFiles(rec record, endpoint *network.Endpoint) ([]specs.Mount, error) {
	owner, host := c, rec.Config.HostConfig
	if host.NetworkMode.IsContainer() {
		other, err := c.engine.lookup(host.NetworkMode.ConnectedContainer())
		if err != nil {
			return nil, err
		}
		owner = other
	} else if err := c.writeHostFiles(rec, endpoint); err != nil {
		return nil, err
	}
	options := []string{"rbind", "rprivate"}
	if host.ReadonlyRootfs {
		options = append(options, "ro")
	}
	var list []specs.Mount
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		list = append(list, specs.Mount{Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(owner.dir(), name), Options: options})
	}
	return list, nil
}

func (c *Container) writeHostFiles(rec record, endpoint *network.Endpoint) error {
	host, name := rec.Config.HostConfig, c.hostname(rec)
	var address netip.Addr
	if endpoint != nil {
		address = endpoint.IP.Addr()
	}
	extra, err := c.extraHosts(host.ExtraHosts)
	if err != nil {
		return err
	}
	linked := c.engine.linkHosts(rec.Links)
	hosts := network.Hosts(name, rec.Config.Domainname, address, extra, linked...)
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if host.NetworkMode.IsHost() {
		if onHost, err := os.ReadFile("/etc/hosts"); err == nil && len(extra)+len(linked) == 0 {
			hosts = onHost
		}
	}
	if !host.NetworkMode.IsHost() || len(host.DNS)+len(host.DNSSearch)+len(host.DNSOptions) > 0 {
		var dns []string
		for _, d := range host.DNS {
			dns = append(dns, d.String())
		}
		resolv = network.ResolvConf(resolv, dns, host.DNSSearch, host.DNSOptions)
	}
	for file, text := range map[string][]byte{"hosts": hosts, "hostname": []byte(name + "\n"), "resolv.conf": resolv} {
		if err := os.WriteFile(filepath.Join(c.dir(), file), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// extraHosts replaces host-gateway in --add-host by the bridge's address.
func (c *Container) extraHosts(list []string) ([]string, error) {
	out := make([]string, 0, len(list))
	for _, entry := range list {
		name, address, found := strings.Cut(entry, ":")
		if !found || name == "" {
			return nil, refuse("invalid extra host %q: want NAME:ADDRESS", entry)
		}
		if address == "host-gateway" {
			entry = name + ":" + c.engine.net.Info().Gateway.String()
		}
		out = append(out, entry)
	}
	return out, nil
}

// networkID is the identifier of one of the three networks of this installation.
func (e *Engine) networkID(name string) string {
	sum := sha256.Sum256([]byte(e.id + "/" + name))
	return hex.EncodeToString(sum[:])
}

// ListNetworks lists the networks that the filters (name, id, driver, type, scope) select.
func (e *Engine) ListNetworks(_ context.Context, filters map[string]map[string]bool) ([]netapi.Inspect, error) {
	if err := knownFilters(filters, "name", "id", "driver", "type", "scope", "label", "dangling"); err != nil {
		return nil, err
	}
	for s := range filters["type"] {
		if s != "builtin" && s != "custom" {
			return nil, refuse("invalid filter: 'type'='%s'", s)
		}
	}
	if err := boolFilters(filters, "dangling"); err != nil {
		return nil, err
	}
	list := []netapi.Inspect{}
	for _, n := range e.networks() {
		switch {
		case !anyMatch(filters["name"], func(s string) bool { return strings.Contains(n.Name, s) }),
			!anyMatch(filters["id"], func(s string) bool { return strings.HasPrefix(n.ID, s) }),
			!anyMatch(filters["driver"], func(s string) bool { return s == n.Driver }),
			!anyMatch(filters["scope"], func(s string) bool { return s == n.Scope }),
			!anyMatch(filters["type"], func(s string) bool { return s == "builtin" }),
			!anyMatch(filters["dangling"], func(s string) bool { return !isTrue(s) }),
			len(filters["label"]) > 0:
			continue
		}
		list = append(list, n)
	}
	return list, nil
}

// InspectNetwork describes a network, by name, id or prefix of one.
func (e *Engine) InspectNetwork(_ context.Context, ref string) (*netapi.Inspect, error) {
	for _, n := range e.networks() {
		if n.Name == ref || (ref == "default" && n.Name == "bridge") || (len(ref) >= 4 && strings.HasPrefix(n.ID, ref)) {
			return &n, nil
		}
	}
	return nil, fmt.Errorf("network %s not found%w", ref, noText{errdefs.ErrNotFound})
}

// networkDrivers are the three networks that every engine has, with their drivers.
var networkDrivers = map[string]string{"bridge": "bridge", "host": "host", "none": "null"}

// networks are the three that every engine has.
func (e *Engine) networks() []netapi.Inspect {
	var list []netapi.Inspect
	for name, driver := range networkDrivers {
		n := netapi.Inspect{Containers: map[string]netapi.EndpointResource{}}
		n.Name, n.ID, n.Driver, n.Scope, n.Created = name, e.networkID(name), driver, "local", e.started
		n.IPAM = netapi.IPAM{Driver: "default", Config: []netapi.IPAMConfig{}}
		n.Options, n.Labels = map[string]string{}, map[string]string{}
		if name == "bridge" {
			info := e.net.Info()
			n.EnableIPv4 = true
			n.IPAM.Config = []netapi.IPAMConfig{{Subnet: info.Subnet, Gateway: info.Gateway}}
			n.Options["com.docker.network.bridge.name"] = info.Bridge
			n.Options["com.docker.network.bridge.default_bridge"] = "true"
			n.Options["com.docker.network.driver.mtu"] = strconv.Itoa(info.MTU)
		}
		for _, c := range e.all() {
			if v := c.view(); v.run.Endpoint != nil && name == "bridge" {
				ep := v.run.Endpoint
				n.Containers[c.ID] = netapi.EndpointResource{Name: v.record.Name, EndpointID: ep.ID, MacAddress: hardwareAddr(ep.MAC), IPv4Address: ep.IP}
			}
		}
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b netapi.Inspect) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func hardwareAddr(text string) netapi.HardwareAddr {
	var mac netapi.HardwareAddr
	_ = mac.UnmarshalText([]byte(text)) // an unreadable one stays empty
	return mac
}
