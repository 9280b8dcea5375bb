package cli

import (
	"encoding/csv"
	"fmt"
	"net/netip"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/moby/moby/api/types/network"
)

// parsePorts turns -p and --expose into what the API wants: exposed ports and their bindings.
func parsePorts(publish, expose []string) (network.PortSet, network.PortMap, error) {
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for _, spec := range publish {
		short, err := shortPortSpec(spec)
		if err != nil {
			return nil, nil, err
		}
		mappings, err := nat.ParsePortSpec(short)
		if err != nil {
			return nil, nil, fmt.Errorf("publish %q: %w", spec, err)
		}
		for _, m := range mappings {
			port, binding, err := apiPort(m)
			if err != nil {
				return nil, nil, fmt.Errorf("publish %q: %w", spec, err)
			}
			exposed[port] = struct{}{}
			bindings[port] = append(bindings[port], binding)
		}
	}
	for _, spec := range expose {
		if strings.Contains(spec, ":") {
			return nil, nil, fmt.Errorf("invalid port format for --expose: %q", spec)
		}
		ports, err := network.ParsePortRange(spec)
		if err != nil {
			return nil, nil, fmt.Errorf("invalid range format for --expose: %w", err)
		}
		for port := range ports.All() {
			exposed[port] = struct{}{}
		}
	}
	return exposed, bindings, nil
}

func apiPort(m nat.PortMapping) (network.Port, network.PortBinding, error) {
	port, err := network.ParsePort(string(m.Port))
	if err != nil {
		return port, network.PortBinding{}, err
	}
	binding := network.PortBinding{HostPort: m.Binding.HostPort}
	if m.Binding.HostIP != "" {
		if binding.HostIP, err = netip.ParseAddr(m.Binding.HostIP); err != nil {
			return port, binding, err
		}
	}
	return port, binding, nil
}

// shortPortSpec turns published=8080,target=80,protocol=tcp into 8080:80/tcp.
func shortPortSpec(spec string) (string, error) {
	if !strings.Contains(spec, "=") {
		return spec, nil
	}
	fields, err := csv.NewReader(strings.NewReader(spec)).Read()
	if err != nil {
		return "", fmt.Errorf("publish %q: %w", spec, err)
	}
	var published, target, protocol string
	for _, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		switch strings.ToLower(key) {
		case "published":
			published = value
		case "target":
			target = value
		case "protocol":
			protocol = "/" + value
		case "mode": // of swarm services only
		default:
			return "", fmt.Errorf("publish %q: unknown field %q", spec, key)
		}
	}
	if target == "" {
		return "", fmt.Errorf("publish %q: target is missing", spec)
	}
	if published == "" {
		return target + protocol, nil
	}
	return published + ":" + target + protocol, nil
}
