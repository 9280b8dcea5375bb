// Package network gives containers their network: a bridge with veth pairs, addresses, masquerading and published
// ports by nftables maps, all spoken over netlink.
//
// # The pool
//
// A sandbox is a network namespace already wired to the bridge with an address and a default route, held only by a
// descriptor of this process: when it dies, the kernel takes namespace, veth and address back, and nothing is left to
// repair but the bridge and the table. A container that runs keeps its own namespace; Restore finds it again.
package network

import (
	"context"
	"net"
	"net/netip"
	"os"
)

// Options configure the default bridge of one engine.
type Options struct {
	Bridge string       // interface name, at most 15 bytes ("gantry0")
	Table  string       // nftables table ("gantry")
	Subnet netip.Prefix // zero: the first of the default pool that collides with no route or address of the host
	Pool   int          // sandboxes kept ready
}

// Network is the default bridge. It is safe for concurrent use.
type Network struct{}

// Open creates or takes over bridge and table, and enables forwarding. Leftovers of an earlier process are removed,
// endpoints named in live kept.
func Open(ctx context.Context, o Options, live []Endpoint) (*Network, error) { panic("contract") }

// Close stops the pool; bridge, table and live endpoints stay. Remove also takes bridge and table away.
func (n *Network) Close() error  { panic("contract") }
func (n *Network) Remove() error { panic("contract") }

// Info describes the network.
type Info struct {
	Bridge  string
	Subnet  netip.Prefix
	Gateway netip.Addr
	MTU     int
}

func (n *Network) Info() Info { panic("contract") }

// Port is a published port. HostPort 0 asks for a free one (32768 upwards); HostIP zero means every address.
type Port struct {
	Proto         string // "tcp", "udp", "sctp"
	HostIP        netip.Addr
	HostPort      uint16
	ContainerPort uint16
}

// Request is what a container wants.
type Request struct {
	Container string
	IP        netip.Addr       // zero: any free one
	MAC       net.HardwareAddr // nil: derived from the address
	Ports     []Port
	// Own asks for the endpoint in an existing network namespace instead of one of the pool (user namespaces).
	Own *os.File
}

// Endpoint is a container's place in the network. The JSON form is stored with the container, for Open.
type Endpoint struct {
	ID        string // 64 hex digits
	Container string
	Interface string // host's end of the veth pair
	IP        netip.Prefix
	Gateway   netip.Addr
	MAC       string
	Ports     []Port // with the host ports that were chosen
	// Namespace is the sandbox's path, for the runtime specification: /proc/<pid>/fd/<n> of this process until the
	// container has joined it.
	Namespace string
}

// Connect takes a sandbox (from the pool), publishes the ports, and returns the endpoint. A port that is taken is
// errdefs.ErrUnavailable-like with the port named: "port 0.0.0.0:8080/tcp is taken".
func (n *Network) Connect(ctx context.Context, r Request) (*Endpoint, error) { panic("contract") }

// Joined tells that the container's process holds the namespace now: this process lets go of it.
func (n *Network) Joined(e *Endpoint) { panic("contract") }

// Disconnect unpublishes, deletes the veth pair and frees the address. Idempotent.
func (n *Network) Disconnect(ctx context.Context, e *Endpoint) error { panic("contract") }
