package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
)

// defaultPool are the subnets tried when none is configured: the ones that Docker users expect, in Docker's order.
func defaultPool() []netip.Prefix {
	var pool []netip.Prefix
	for b := byte(17); b <= 31; b++ {
		pool = append(pool, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, b, 0, 0}), 16))
	}
	for b := 0; b < 256; b += 16 {
		pool = append(pool, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(b), 0}), 20))
	}
	return pool
}

// hostPrefixes are the destinations of the host's routes (but the default route) and its addresses' subnets, apart
// from those of the link with the given index.
func hostPrefixes(except int) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		if p, ok := prefixOf(n); ok && p.Bits() > 0 {
			prefixes = append(prefixes, p.Masked())
		}
	}
	byRoute, err := routes()
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range byRoute {
		if r.LinkIndex != except {
			add(r.Dst)
		}
	}
	byAddress, err := addresses(nil)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range byAddress {
		if a.LinkIndex != except {
			add(a.IPNet)
		}
	}
	return prefixes, nil
}

func overlapsAny(p netip.Prefix, list []netip.Prefix) bool {
	for _, other := range list {
		if p.Overlaps(other) {
			return true
		}
	}
	return false
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), ones), addr.Unmap().Is4()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// gatewayOf is the bridge's address: the first of the subnet.
func gatewayOf(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// macOf derives a locally administered unicast address from an IPv4 address, so that a neighbour's cache stays right
// when an address is used again.
func macOf(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// allocator hands out a subnet's addresses, going round, so that a freed one rests as long as possible.
type allocator struct {
	subnet      netip.Prefix
	base, count uint32 // the first host address and the number of them
	next        uint32 // offset from base
	used        map[netip.Addr]bool
}

func newAllocator(subnet netip.Prefix) *allocator {
	network := subnet.Masked().Addr().As4()
	size := uint32(1) << (32 - subnet.Bits())
	// Without the network's, the gateway's and the broadcast address.
	return &allocator{subnet: subnet.Masked(), base: binary.BigEndian.Uint32(network[:]) + 2, count: size - 3, used: map[netip.Addr]bool{}}
}

// take returns a free address, or false if there is none.
func (a *allocator) take() (netip.Addr, bool) {
	for range a.count {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], a.base+a.next)
		a.next = (a.next + 1) % a.count
		if ip := netip.AddrFrom4(b); !a.used[ip] {
			a.used[ip] = true
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// claim takes one certain address.
func (a *allocator) claim(ip netip.Addr) error {
	if !ip.Is4() || !a.subnet.Contains(ip) {
		return fmt.Errorf("address %s is not in subnet %s: %w", ip, a.subnet, errdefs.ErrInvalidArgument)
	}
	b := ip.As4()
	if n := binary.BigEndian.Uint32(b[:]); n < a.base || n-a.base >= a.count {
		return fmt.Errorf("address %s of subnet %s is reserved: %w", ip, a.subnet, errdefs.ErrInvalidArgument)
	}
	if a.used[ip] {
		return fmt.Errorf("address %s is in use: %w", ip, errdefs.ErrConflict)
	}
	a.used[ip] = true
	return nil
}

func (a *allocator) free(ip netip.Addr) { delete(a.used, ip) }
