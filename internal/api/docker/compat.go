package docker

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

// This file is what differs between API versions, after "API version history" of moby's api/docs.

// createBody is the body of create with the fields that the newest version has dropped.
type createBody struct {
	container.CreateRequest
	MacAddress network.HardwareAddr // of the container's main network; since 1.44 in its endpoint's settings
}

// normalize gives the body the meaning that it has in the newest version. The warnings are for the client.
func (b *createBody) normalize(version apiVersion) (warnings []string, err error) {
	if b.Config == nil {
		return nil, badRequest("config cannot be empty in order to create a container")
	}
	if b.HostConfig == nil {
		b.HostConfig = &container.HostConfig{}
	}
	h := b.HostConfig
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil
	}
	if err := b.olderDefaults(version); err != nil {
		return nil, err
	}
	for _, m := range h.Mounts {
		if err := checkMount(m, version); err != nil {
			return nil, err
		}
	}
	if err := b.moveMAC(version); err != nil {
		return nil, err
	}
	return b.portBindings(version), nil
}

// olderDefaults sets what older clients leave out because it was the default, and drops what they cannot mean.
func (b *createBody) olderDefaults(version apiVersion) error {
	h := b.HostConfig
	if version < v(25) { // the client removes
		h.AutoRemove = false
	}
	if version < v(40) && h.IpcMode.IsEmpty() {
		h.IpcMode = container.IPCModeShareable
	}
	if version < v(40) {
		for _, m := range h.Mounts {
			if m.BindOptions != nil {
				m.BindOptions.NonRecursive = false
			}
		}
	}
	if version < v(42) {
		h.ConsoleSize = [2]uint{}
		for i := range h.Mounts {
			dropForeignOptions(&h.Mounts[i])
		}
	}
	if version < v(43) {
		h.Annotations = nil
	}
	if version < v(44) {
		if b.Healthcheck != nil {
			b.Healthcheck.StartInterval = 0
		}
		if n := b.NetworkingConfig; n != nil && len(n.EndpointsConfig) > 1 {
			return badRequest("container cannot be created with multiple network endpoints before API v1.44")
		}
	}
	return nil
}

// dropForeignOptions removes options of another type of mount, which were not checked before 1.42.
func dropForeignOptions(m *mount.Mount) {
	if m.Type != mount.TypeVolume {
		m.VolumeOptions = nil
	}
	if m.Type != mount.TypeTmpfs {
		m.TmpfsOptions = nil
	}
	if m.Type != mount.TypeBind {
		m.BindOptions = nil
	}
	if m.BindOptions != nil {
		m.BindOptions.CreateMountpoint = false
	}
}

func checkMount(m mount.Mount, version apiVersion) error {
	switch {
	case m.VolumeOptions != nil && m.Type != mount.TypeVolume:
		return badRequest("VolumeOptions must not be specified on mount type %q", m.Type)
	case m.BindOptions != nil && m.Type != mount.TypeBind:
		return badRequest("BindOptions must not be specified on mount type %q", m.Type)
	case m.TmpfsOptions != nil && m.Type != mount.TypeTmpfs:
		return badRequest("TmpfsOptions must not be specified on mount type %q", m.Type)
	case version < v(44) && m.BindOptions != nil && m.BindOptions.ReadOnlyForceRecursive:
		return badRequest("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
	case version < v(45) && m.VolumeOptions != nil && m.VolumeOptions.Subpath != "":
		return badRequest("VolumeOptions.Subpath needs API v1.45 or newer")
	case version < v(48) && m.Type == mount.TypeImage:
		return badRequest(`mount type "image" needs API v1.48 or newer`)
	}
	return nil
}

// moveMAC moves the container-wide MAC address to the settings of the network that it is for.
func (b *createBody) moveMAC(version apiVersion) error {
	if len(b.MacAddress) == 0 {
		return nil
	}
	if version >= v(52) {
		return badRequest("container-wide MAC address no longer supported; use endpoint-specific MAC address instead")
	}
	mode := b.HostConfig.NetworkMode
	if mode.IsNone() || mode.IsContainer() || mode == network.NetworkHost {
		return badRequest("conflicting options: mac-address and the network mode")
	}
	name := string(mode)
	if name == "" || mode.IsDefault() {
		name = network.NetworkBridge
	}
	if b.NetworkingConfig == nil {
		b.NetworkingConfig = &network.NetworkingConfig{}
	}
	if b.NetworkingConfig.EndpointsConfig == nil {
		b.NetworkingConfig.EndpointsConfig = map[string]*network.EndpointSettings{}
	}
	all := b.NetworkingConfig.EndpointsConfig
	for _, key := range []string{name, network.NetworkDefault} {
		if e := all[key]; e != nil && (key == name || name == network.NetworkBridge) {
			if len(e.MacAddress) != 0 && !slices.Equal(e.MacAddress, b.MacAddress) {
				return badRequest("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
			}
			e.MacAddress = b.MacAddress
			return nil
		}
	}
	all[name] = &network.EndpointSettings{MacAddress: b.MacAddress}
	return nil
}

// portBindings treats an empty list of bindings as one of any address and port, which newer clients are warned of.
func (b *createBody) portBindings(version apiVersion) []string {
	var affected []string
	for port, bindings := range b.HostConfig.PortBindings {
		if len(bindings) == 0 {
			b.HostConfig.PortBindings[port] = []network.PortBinding{{}}
			affected = append(affected, port.String())
		}
	}
	if len(affected) == 0 || version < v(52) {
		return []string{}
	}
	slices.Sort(affected)
	return []string{"Following container port(s) have an empty list of port-bindings: " + strings.Join(affected, ", ") +
		". Such bindings will be discarded in a future version."}
}

// summariesFor shapes the list of containers; an empty one is [] and not null.
func summariesFor(version apiVersion, list []container.Summary) []container.Summary {
	if list == nil {
		return []container.Summary{}
	}
	for i := range list {
		c := &list[i]
		if version < v(46) {
			c.HostConfig.Annotations = nil
		}
		if version < v(48) {
			c.ImageManifestDescriptor = nil
		}
		if version < v(52) {
			c.Health = nil
		}
	}
	return list
}

// legacyNetwork are the fields that told a container's address on the default bridge, until 1.52.
type legacyNetwork struct {
	*container.NetworkSettings
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []struct{}
	SecondaryIPv6Addresses []struct{}
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      netip.Addr
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            netip.Addr
	MacAddress             network.HardwareAddr
}

// legacyInspect shadows the field that differs.
type legacyInspect struct {
	*container.InspectResponse
	NetworkSettings *legacyNetwork
}

// inspectFor shapes the answer of inspect.
func inspectFor(version apiVersion, c *container.InspectResponse) any {
	if version >= v(52) || c.NetworkSettings == nil {
		return c
	}
	old := &legacyNetwork{NetworkSettings: c.NetworkSettings}
	if e := c.NetworkSettings.Networks[network.NetworkBridge]; e != nil {
		old.EndpointID, old.MacAddress = e.EndpointID, e.MacAddress
		old.Gateway, old.IPAddress, old.IPPrefixLen = e.Gateway, e.IPAddress, e.IPPrefixLen
		old.IPv6Gateway, old.GlobalIPv6Address, old.GlobalIPv6PrefixLen = e.IPv6Gateway, e.GlobalIPv6Address, e.GlobalIPv6PrefixLen
	}
	return &legacyInspect{InspectResponse: c, NetworkSettings: old}
}

type legacyImageSummary struct {
	image.Summary
	VirtualSize int64 // until 1.44; always the same as Size
}

// imagesFor shapes the list of images.
func imagesFor(version apiVersion, list []image.Summary) any {
	for i := range list {
		im := &list[i]
		if version < v(43) && len(im.RepoTags) == 0 && len(im.RepoDigests) == 0 {
			im.RepoTags, im.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		if im.RepoTags == nil {
			im.RepoTags = []string{}
		}
		if im.RepoDigests == nil {
			im.RepoDigests = []string{}
		}
		if version < v(48) {
			im.Descriptor = nil
		}
	}
	if version >= v(44) {
		if list == nil {
			return []image.Summary{}
		}
		return list
	}
	old := make([]legacyImageSummary, len(list))
	for i, im := range list {
		old[i] = legacyImageSummary{im, im.Size}
	}
	return old
}

type legacyImage struct {
	*image.InspectResponse
	VirtualSize int64
}

// imageFor shapes the answer of an image's inspect.
func imageFor(version apiVersion, im *image.InspectResponse) any {
	if version < v(48) {
		im.Descriptor = nil
	}
	if version < v(44) {
		return &legacyImage{im, im.Size}
	}
	return im
}

// legacyEvent carries the fields of before 1.22, which were sent until 1.52, for containers and images.
type legacyEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

// eventFor shapes one event.
func eventFor(version apiVersion, m events.Message) any {
	if version >= v(52) {
		return m
	}
	switch m.Type {
	case events.ContainerEventType:
		return legacyEvent{string(m.Action), m.Actor.ID, m.Actor.Attributes["image"], m}
	case events.ImageEventType:
		return legacyEvent{string(m.Action), m.Actor.ID, "", m}
	}
	return m
}
