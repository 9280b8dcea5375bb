package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// parseExtraHosts normalises NAME=IP and NAME:IP (with [IP] too) to the API's NAME:IP; host-gateway is kept.
func parseExtraHosts(list []string) ([]string, error) {
	var out []string
	for _, spec := range list {
		name, addr, ok := strings.Cut(spec, "=")
		if !ok {
			name, addr, ok = strings.Cut(spec, ":")
		}
		if !ok || name == "" {
			return nil, fmt.Errorf("bad format for add-host: %q", spec)
		}
		if addr != "host-gateway" {
			if inner, bracketed := strings.CutPrefix(addr, "["); bracketed {
				addr = strings.TrimSuffix(inner, "]")
			}
			if _, err := netip.ParseAddr(addr); err != nil {
				return nil, fmt.Errorf("invalid IP address in add-host: %q", addr)
			}
		}
		out = append(out, name+":"+addr)
	}
	return out, nil
}

// attachment is one --network: a name and what the endpoint there shall be.
type attachment struct {
	name     string
	endpoint network.EndpointSettings
}

// networking gives the network mode and the endpoints of the container.
func (f *containerFlags) networking() (container.NetworkMode, *network.NetworkingConfig, error) {
	var nets []attachment
	for _, spec := range f.networks {
		n, err := parseNetwork(spec)
		if err != nil {
			return "", nil, fmt.Errorf("invalid argument %q for --network: %w", spec, err)
		}
		nets = append(nets, n)
	}
	if len(nets) == 0 {
		nets = []attachment{{name: network.NetworkDefault}}
	}
	if err := f.firstEndpoint(&nets[0].endpoint); err != nil {
		return "", nil, err
	}
	mode := container.NetworkMode(nets[0].name)
	endpoints := make(map[string]*network.EndpointSettings, len(nets))
	for i := range nets {
		name := nets[i].name
		if endpoints[name] != nil {
			return "", nil, fmt.Errorf("network %q is specified multiple times", name)
		}
		alone := mode.IsHost() || mode.IsNone() || mode.IsContainer()
		if len(nets) > 1 && alone {
			return "", nil, errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
		}
		endpoints[name] = &nets[i].endpoint
	}
	if mode.IsContainer() || mode.IsHost() || mode.IsNone() {
		endpoints = map[string]*network.EndpointSettings{}
	}
	return mode, &network.NetworkingConfig{EndpointsConfig: endpoints}, nil
}

// firstEndpoint applies --ip, --ip6, --link-local-ip, --mac-address, --network-alias and --link: they are the first network's.
func (f *containerFlags) firstEndpoint(ep *network.EndpointSettings) (err error) {
	ep.Aliases = append(ep.Aliases, f.networkAliases...)
	if len(f.links) > 0 && len(f.networks) > 0 {
		ep.Links = f.links
	}
	for _, addr := range []struct{ flag, value string }{{"ip", f.ip}, {"ip6", f.ip6}} {
		if addr.value == "" {
			continue
		}
		if err := setAddress(ep, addr.flag, addr.value); err != nil {
			return err
		}
	}
	for _, addr := range f.linkLocalIPs {
		if err := setAddress(ep, "link-local-ip", addr); err != nil {
			return err
		}
	}
	if f.mac != "" {
		ep.MacAddress, err = parseMAC(f.mac)
	}
	return err
}

func parseMAC(s string) (network.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil {
		return nil, fmt.Errorf("invalid MAC address %q", s)
	}
	return network.HardwareAddr(mac), nil
}

func setAddress(ep *network.EndpointSettings, key, value string) error {
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return fmt.Errorf("invalid %s address %q", key, value)
	}
	if ep.IPAMConfig == nil {
		ep.IPAMConfig = &network.EndpointIPAMConfig{}
	}
	switch key {
	case "ip":
		ep.IPAMConfig.IPv4Address = addr
	case "ip6":
		ep.IPAMConfig.IPv6Address = addr
	default:
		ep.IPAMConfig.LinkLocalIPs = append(ep.IPAMConfig.LinkLocalIPs, addr)
	}
	return nil
}

// parseNetwork reads NAME or name=NAME,alias=…,ip=…,driver-opt=k=v (CSV).
func parseNetwork(spec string) (attachment, error) {
	var n attachment
	if !strings.Contains(spec, "=") {
		n.name = spec
		if spec == "" {
			return n, errors.New("the name is empty")
		}
		return n, nil
	}
	fields, err := csv.NewReader(strings.NewReader(spec)).Read()
	if err != nil {
		return n, err
	}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok || key == "" {
			return n, fmt.Errorf("invalid field %s", field)
		}
		if err := n.field(strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)); err != nil {
			return n, err
		}
	}
	if n.name == "" {
		return n, errors.New("network name/id is not specified")
	}
	return n, nil
}

func (n *attachment) field(key, value string) (err error) {
	ep := &n.endpoint
	switch key {
	case "name":
		n.name = value
	case "alias":
		ep.Aliases = append(ep.Aliases, value)
	case "ip", "ip6", "link-local-ip":
		return setAddress(ep, key, value)
	case "mac-address":
		ep.MacAddress, err = parseMAC(value)
	case "driver-opt":
		if ep.DriverOpts == nil {
			ep.DriverOpts = map[string]string{}
		}
		option, text, _ := strings.Cut(value, "=")
		ep.DriverOpts[strings.ToLower(option)] = text
	case "gw-priority":
		ep.GwPriority, err = strconv.Atoi(value)
	default:
		return fmt.Errorf("invalid field key %s", key)
	}
	return err
}
