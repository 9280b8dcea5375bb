package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// The sweeper looks every sweepTick whether the kernel is done, and does it itself after sweepGrace.
const (
	sweepTick  = 20 * time.Millisecond
	sweepGrace = 400 * time.Millisecond
)

// trashed is a link to delete, and the address to free when it is gone.
type trashed struct {
	link string
	ip   netip.Addr
	udp  bool // flows of connectionless protocols would be remembered
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// refiller keeps the pool full.
func (n *Network) refiller(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.refill:
		}
		for ctx.Err() == nil && n.wanting() {
			if !n.prepare(ctx) {
				break
			}
		}
	}
}

// prepare adds a sandbox to the pool. If it cannot, the next request or freed address wakes the refiller again.
func (n *Network) prepare(ctx context.Context) bool {
	n.mu.Lock()
	ip, ok := n.addresses.take()
	if ok {
		n.pending++
	}
	n.mu.Unlock()
	if !ok {
		return false
	}
	s, err := n.newSandbox(ip, nil)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending--
	defer n.announce()
	if err != nil {
		n.addresses.free(ip)
		log.G(ctx).WithError(err).Warn("the pool of network sandboxes is not refilled")
		return false
	}
	n.ready = append(n.ready, s)
	return true
}

func (n *Network) wanting() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.ready) < n.o.Pool
}

// sweeper sees to it that links of ended containers go: the kernel deletes most of them, with the namespaces.
func (n *Network) sweeper(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.sweep:
		}
		for ctx.Err() == nil {
			n.mu.Lock()
			batch := n.trash
			n.trash = nil
			n.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			n.destroy(ctx, batch)
		}
	}
}

// destroy waits for the kernel, which deletes the links of dead namespaces many at a time, and deletes what remains.
// Only then are the addresses free.
func (n *Network) destroy(ctx context.Context, batch []trashed) {
	isThere := func(t trashed) bool { _, err := linkIndex(t.link); return !isGone(err) }
	tick := time.NewTicker(sweepTick)
	defer tick.Stop()
	for end := time.Now().Add(sweepGrace); time.Now().Before(end) && ctx.Err() == nil && slices.ContainsFunc(batch, isThere); {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	var names []string
	for _, t := range batch {
		names = append(names, t.link)
	}
	if err := deleteLinks(n.index, names); err != nil {
		log.G(ctx).WithError(err).Warn("network links stay")
	}
	var free []netip.Addr
	for _, t := range batch {
		if isThere(t) {
			continue // and its address stays taken
		}
		if t.udp {
			forgetFlowsOf(ctx, t.ip)
		}
		free = append(free, t.ip)
	}
	n.mu.Lock()
	n.pending -= len(batch)
	n.mu.Unlock()
	n.freeAddresses(free...)
	wake(n.refill)
}

func (n *Network) discard(t trashed) {
	n.mu.Lock()
	n.trash = append(n.trash, t)
	n.pending++
	n.mu.Unlock()
	wake(n.sweep)
}

// freeAddresses gives addresses back.
func (n *Network) freeAddresses(list ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ip := range list {
		n.addresses.free(ip)
	}
	n.announce()
}

// announce tells those who wait for an address that one may be there. The caller holds the lock.
func (n *Network) announce() {
	close(n.freed)
	n.freed = make(chan struct{})
}

// acquire returns a sandbox for a request: of the pool if it fits, else a new one.
func (n *Network) acquire(ctx context.Context, r Request) (*sandbox, error) {
	defer wake(n.refill)
	s, ip, err := n.reserve(ctx, r)
	if err != nil || s != nil {
		return s, err
	}
	if r.Own != nil {
		s, err = n.wireInto(r.Own, ip, r.MAC)
	} else {
		s, err = n.newSandbox(ip, r.MAC)
	}
	if err != nil {
		n.freeAddresses(ip)
	}
	return s, err
}

// reserve returns a ready sandbox or an address to build one with. If the subnet is exhausted it waits for addresses
// that are about to be free.
func (n *Network) reserve(ctx context.Context, r Request) (*sandbox, netip.Addr, error) {
	plain := r.Own == nil && r.MAC == nil
	for {
		n.mu.Lock()
		if n.closed {
			n.mu.Unlock()
			return nil, netip.Addr{}, fmt.Errorf("network %s is closed: %w", n.o.Bridge, errdefs.ErrUnavailable)
		}
		s := n.pick(r.IP, plain)
		ip, err := r.IP, error(nil)
		switch {
		case s != nil && plain:
			n.mu.Unlock()
			return s, s.ip, nil
		case s != nil: // it holds the address, but cannot be used
			n.mu.Unlock()
			return nil, s.ip, n.dismantle(s)
		case ip.IsValid():
			err = n.addresses.claim(ip)
		default:
			var ok bool
			if ip, ok = n.addresses.take(); !ok {
				err = fmt.Errorf("no free address in subnet %s: %w", n.info.Subnet, errdefs.ErrResourceExhausted)
			}
		}
		pending, freed := n.pending, n.freed
		n.mu.Unlock()
		if err == nil || pending == 0 || errdefs.IsInvalidArgument(err) {
			return nil, ip, err
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, netip.Addr{}, fmt.Errorf("wait for a free address in subnet %s: %w", n.info.Subnet, ctx.Err())
		}
	}
}

// pick takes a sandbox out of the pool: the one with the address; any, if the request is plain; and for a request
// that needs another kind one all the same if it holds the last address.
func (n *Network) pick(ip netip.Addr, plain bool) *sandbox {
	i := -1
	switch {
	case ip.IsValid():
		i = slices.IndexFunc(n.ready, func(s *sandbox) bool { return s.ip == ip })
	case plain || len(n.addresses.used) >= int(n.addresses.count):
		i = len(n.ready) - 1
	}
	if i < 0 {
		return nil
	}
	s := n.ready[i]
	n.ready = slices.Delete(n.ready, i, i+1)
	return s
}

// dismantle takes a ready sandbox apart; its address stays taken.
func (n *Network) dismantle(s *sandbox) error {
	if err := deleteLink(s.link); err != nil {
		return err
	}
	return s.namespace.Close()
}
