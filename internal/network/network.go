// Package network gives containers their network: a bridge with veth pairs, addresses, masquerading and published
// ports by nftables maps, all spoken over netlink.
//
// # The pool
//
// A sandbox is a network namespace already wired to the bridge with an address and a default route, held only by a
// descriptor of this process: when it dies, the kernel takes namespace, veth and address back, and nothing is left to
// repair but the bridge and the table. A container that runs keeps its own namespace; Open finds its endpoint again.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// Options configure the default bridge of one engine.
type Options struct {
	Bridge string       // interface name, at most 15 bytes ("gantry0")
	Table  string       // nftables table ("gantry")
	Subnet netip.Prefix // zero: the first of the default pool that collides with no route or address of the host
	Pool   int          // sandboxes kept ready
}

// Network is the default bridge. It is safe for concurrent use.
type Network struct {
	o        Options
	info     Info
	index    int // of the bridge
	firewall *firewall
	events   *os.File // the kernel's messages about the ruleset
	ports    *portTable
	refill   chan struct{} // wakes the worker that fills the pool
	sweep    chan struct{} // wakes the worker that deletes links
	stop     context.CancelFunc
	workers  sync.WaitGroup

	mu        sync.Mutex
	addresses *allocator
	ready     []*sandbox
	endpoints map[string]*attachment // by Endpoint.ID
	trash     []trashed
	pending   int           // addresses on their way: into the pool, or free when the sweeper is done
	freed     chan struct{} // closed and replaced whenever one of them arrived
	closed    bool
}

// Info describes the network.
type Info struct {
	Bridge  string
	Subnet  netip.Prefix
	Gateway netip.Addr
	MTU     int
	// Forwarding tells that Open had to switch net.ipv4.ip_forward on; it stays on.
	Forwarding bool
}

// Port is a published port. HostPort 0 asks for a free one (32768 upwards); HostIP zero means every address.
type Port struct {
	Proto         string // "tcp", "udp", "sctp"
	HostIP        netip.Addr
	HostPort      uint16
	LastHostPort  uint16 `json:",omitempty"` // the end of a range from HostPort on, of which a free one is asked for; 0: no range
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
	// container has joined it. Empty for an endpoint in a namespace of the caller's own.
	Namespace string
}

// Open creates or takes over bridge and table, and enables forwarding. Leftovers of an earlier process are removed,
// endpoints named in live kept: their links, addresses, ports and map elements.
func Open(ctx context.Context, o Options, live []Endpoint) (*Network, error) {
	if o.Bridge == "" || len(o.Bridge) >= unix.IFNAMSIZ || o.Table == "" {
		return nil, fmt.Errorf("bridge %q, table %q: want an interface name of 1 to %d bytes and a table: %w", o.Bridge, o.Table, unix.IFNAMSIZ-1, errdefs.ErrInvalidArgument)
	}
	bridge, subnet, err := openBridge(o, live)
	if err != nil {
		return nil, err
	}
	n := &Network{
		o: o, index: bridge.Index, ports: newPortTable(),
		info:      Info{Bridge: o.Bridge, Subnet: subnet, Gateway: gatewayOf(subnet), MTU: bridge.MTU},
		addresses: newAllocator(subnet), endpoints: map[string]*attachment{}, freed: make(chan struct{}),
		refill: make(chan struct{}, 1), sweep: make(chan struct{}, 1),
	}
	if err := n.prepareHost(ctx, live); err != nil {
		n.ports.releaseAll()
		if len(live) == 0 {
			err = errors.Join(err, deleteLink(o.Bridge))
		}
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.workers.Go(func() { n.refiller(running) })
	n.workers.Go(func() { n.sweeper(running) })
	n.workers.Go(func() { n.firewall.guard(n.events) })
	wake(n.refill)
	return n, nil
}

// prepareHost does what comes after the bridge: forwarding, live endpoints, table.
func (n *Network) prepareHost(ctx context.Context, live []Endpoint) (err error) {
	if n.info.Forwarding, err = enableForwarding(n.o.Bridge); err != nil {
		return err
	}
	if err := n.adopt(ctx, live); err != nil {
		return err
	}
	if n.firewall, err = openFirewall(n.o.Table, n.o.Bridge, n.info.Subnet, live); err != nil {
		return err
	}
	if n.events, err = n.firewall.watch(); err != nil && len(live) == 0 {
		err = errors.Join(err, n.firewall.remove())
	}
	return err
}

// adopt registers the endpoints of running containers and removes every other port of the bridge.
func (n *Network) adopt(ctx context.Context, live []Endpoint) error {
	keep := map[string]bool{}
	for _, e := range live {
		if err := n.addresses.claim(e.IP.Addr()); err != nil {
			return fmt.Errorf("take over endpoint %.12s of container %.12s: %w", e.ID, e.Container, err)
		}
		a := &attachment{endpoint: e}
		for _, p := range e.Ports {
			r, err := n.ports.adopt(p)
			if err != nil { // the maps still lead to the container; only the reservation is somebody else's now
				log.G(ctx).WithError(err).Warnf("container %.12s: published port is not reserved any more", e.Container)
			}
			a.ports = append(a.ports, r)
		}
		if err := attach(e.Interface, n.index); err != nil {
			return fmt.Errorf("take over endpoint %.12s of container %.12s: %w", e.ID, e.Container, err)
		}
		keep[e.Interface] = true
		n.endpoints[e.ID] = a
	}
	return removePorts(n.index, keep)
}

// Close stops the pool; bridge, table and live endpoints stay.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	n.stop()
	errs := []error{n.events.Close()}
	n.workers.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.ready {
		errs = append(errs, s.namespace.Close())
	}
	var names []string
	for _, t := range n.trash {
		names = append(names, t.link)
	}
	errs = append(errs, deleteLinks(n.index, names))
	n.ready, n.trash = nil, nil
	for _, a := range n.endpoints {
		errs = append(errs, a.letGo())
	}
	n.ports.releaseAll()
	return errors.Join(errs...)
}

// Remove closes the network and takes bridge, table and all endpoints away. IP forwarding stays as it is.
func (n *Network) Remove() error {
	err := n.Close()
	return errors.Join(err, removePorts(n.index, nil), deleteLink(n.o.Bridge), n.firewall.remove())
}

// Info describes the network.
func (n *Network) Info() Info { return n.info }
