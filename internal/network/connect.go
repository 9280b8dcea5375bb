package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"
)

// attachment is what this process holds for an endpoint.
type attachment struct {
	endpoint  Endpoint
	namespace *os.File // nil once joined, adopted, or the caller's own
	ports     []*reservation
}

// letGo closes the namespace's descriptor.
func (a *attachment) letGo() error {
	if a.namespace == nil {
		return nil
	}
	err := a.namespace.Close()
	a.namespace = nil
	return err
}

// Connect takes a sandbox (from the pool), publishes the ports, and returns the endpoint. A port that is taken is an
// error that wraps EADDRINUSE and names the port: "Bind for 0.0.0.0:8080 failed: port is already allocated". An address in use is
// errdefs.ErrConflict, one outside the subnet or a port that makes no sense errdefs.ErrInvalidArgument, an exhausted
// subnet errdefs.ErrResourceExhausted.
func (n *Network) Connect(ctx context.Context, r Request) (_ *Endpoint, err error) {
	if len(r.MAC) != 0 && (len(r.MAC) != 6 || r.MAC[0]&1 != 0) {
		return nil, fmt.Errorf("hardware address %s: want six bytes of a unicast address: %w", r.MAC, errdefs.ErrInvalidArgument)
	}
	if len(r.MAC) == 0 {
		r.MAC = nil
	}
	a := &attachment{}
	if a.ports, err = n.ports.reserve(r.Ports); err != nil {
		return nil, err
	}
	s, err := n.acquire(ctx, r)
	if err != nil {
		n.ports.release(a.ports)
		return nil, err
	}
	if r.Own == nil {
		a.namespace = s.namespace
	}
	a.endpoint = n.describe(r, s, a.ports)
	if err := n.publish(ctx, a); err != nil {
		n.ports.release(a.ports)
		n.discard(trashed{link: s.link, ip: s.ip})
		return nil, errors.Join(err, a.letGo())
	}
	n.mu.Lock()
	n.endpoints[a.endpoint.ID] = a
	n.mu.Unlock()
	e := a.endpoint
	e.Ports = slices.Clone(e.Ports)
	return &e, nil
}

func (n *Network) describe(r Request, s *sandbox, ports []*reservation) Endpoint {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	e := Endpoint{
		ID: hex.EncodeToString(id[:]), Container: r.Container, Interface: s.link,
		IP: netip.PrefixFrom(s.ip, n.info.Subnet.Bits()), Gateway: n.info.Gateway, MAC: s.mac.String(),
	}
	for _, p := range ports {
		e.Ports = append(e.Ports, p.port)
	}
	if r.Own == nil {
		e.Namespace = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.namespace.Fd())
	}
	return e
}

// publish adds the map elements. Flows of connectionless protocols that began before must find them, too.
func (n *Network) publish(ctx context.Context, a *attachment) error {
	if len(a.endpoint.Ports) == 0 {
		return nil
	}
	if err := n.firewall.publish(a.endpoint); err != nil {
		return fmt.Errorf("publish the ports of container %.12s: %w", a.endpoint.Container, err)
	}
	for _, p := range a.endpoint.Ports {
		if p.Proto == "udp" {
			forgetFlowsTo(ctx, p.HostPort)
		}
	}
	return nil
}

// Joined tells that the container's process holds the namespace now: this process lets go of it.
func (n *Network) Joined(e *Endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.endpoints[e.ID]; a != nil {
		_ = a.letGo() // a namespace's descriptor has nothing to write back
	}
}

// Disconnect unpublishes, deletes the veth pair and frees the address, the latter two in the background. Idempotent.
func (n *Network) Disconnect(_ context.Context, e *Endpoint) error {
	n.mu.Lock()
	a := n.endpoints[e.ID]
	delete(n.endpoints, e.ID)
	n.mu.Unlock()
	if a == nil {
		return nil
	}
	var err error
	if len(a.endpoint.Ports) > 0 {
		if err = n.firewall.unpublish(a.endpoint); err != nil {
			n.mu.Lock()
			n.endpoints[e.ID] = a // ports that still lead to the address keep it taken
			n.mu.Unlock()
			return fmt.Errorf("unpublish the ports of container %.12s: %w", e.Container, err)
		}
	}
	n.ports.release(a.ports)
	udp := slices.ContainsFunc(a.endpoint.Ports, func(p Port) bool { return p.Proto == "udp" })
	n.discard(trashed{link: a.endpoint.Interface, ip: a.endpoint.IP.Addr(), udp: udp})
	return a.letGo()
}
