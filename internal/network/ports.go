package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The ports for those who do not care: the kernel's default ip_local_port_range.
const (
	firstEphemeral = 32768
	lastEphemeral  = 60999
)

var anyAddress = netip.IPv4Unspecified()

// protocols are the transport protocols that can be published. SCTP has no socket here that would keep others off:
// the kernel may have no SCTP at all, and still translate its addresses.
var protocols = map[string]struct{ number, socketType int }{
	"tcp":  {unix.IPPROTO_TCP, unix.SOCK_STREAM},
	"udp":  {unix.IPPROTO_UDP, unix.SOCK_DGRAM},
	"sctp": {number: unix.IPPROTO_SCTP},
}

// reservation is a host port held by a bound socket, which nobody reads: packets are translated before they reach it.
type reservation struct {
	port Port
	fd   int // -1: none
}

type portKey struct {
	proto string
	port  uint16
}

// portTable are the host ports of one engine.
type portTable struct {
	mu   sync.Mutex
	held map[portKey][]*reservation
	next int // offset from firstEphemeral
}

func newPortTable() *portTable { return &portTable{held: map[portKey][]*reservation{}} }

// reserve takes all of the ports or none.
func (t *portTable) reserve(ports []Port) (list []*reservation, err error) {
	defer func() {
		if err != nil {
			t.release(list)
			list = nil
		}
	}()
	for _, p := range ports {
		if p, err = normalize(p); err != nil {
			return list, err
		}
		r, err := t.take(p)
		if err != nil {
			return list, err
		}
		list = append(list, r)
	}
	return list, nil
}

// normalize checks a port and makes every unspecified address the same.
func normalize(p Port) (Port, error) {
	if _, known := protocols[p.Proto]; !known {
		return p, fmt.Errorf("publish port %d: unknown protocol %q: %w", p.ContainerPort, p.Proto, errdefs.ErrInvalidArgument)
	}
	if p.ContainerPort == 0 {
		return p, fmt.Errorf("publish port %d: the container's port must not be 0: %w", p.HostPort, errdefs.ErrInvalidArgument)
	}
	if !p.HostIP.IsValid() || p.HostIP == anyAddress {
		p.HostIP = netip.Addr{}
	} else if p.HostIP = p.HostIP.Unmap(); !p.HostIP.Is4() {
		return p, fmt.Errorf("publish port %d on %s: only IPv4 addresses are supported: %w", p.ContainerPort, p.HostIP, errdefs.ErrNotImplemented)
	}
	return p, nil
}

func (t *portTable) take(p Port) (*reservation, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.HostPort != 0 {
		return t.first(p)
	}
	const count = lastEphemeral - firstEphemeral + 1
	for range count {
		p.HostPort = uint16(firstEphemeral + t.next)
		t.next = (t.next + 1) % count
		if r, err := t.bind(p); !errors.Is(err, unix.EADDRINUSE) {
			return r, err
		}
	}
	return nil, fmt.Errorf("no free port from %d to %d for %s port %d: %w", firstEphemeral, lastEphemeral, p.Proto, p.ContainerPort, unix.EADDRINUSE)
}

// first reserves the first free port of a range. The caller holds the lock.
func (t *portTable) first(p Port) (*reservation, error) {
	from, last := p.HostPort, p.LastHostPort
	p.LastHostPort = 0
	if last <= from {
		return t.bind(p)
	}
	for n := int(from); n <= int(last); n++ {
		p.HostPort = uint16(n)
		if r, err := t.bind(p); !errors.Is(err, unix.EADDRINUSE) {
			return r, err
		}
	}
	return nil, fmt.Errorf("no free port from %d to %d for %s port %d: %w", from, last, p.Proto, p.ContainerPort, unix.EADDRINUSE)
}

// bind reserves a certain port. The caller holds the lock.
func (t *portTable) bind(p Port) (*reservation, error) {
	key := portKey{p.Proto, p.HostPort}
	for _, r := range t.held[key] {
		if !r.port.HostIP.IsValid() || !p.HostIP.IsValid() || r.port.HostIP == p.HostIP {
			return nil, taken(p)
		}
	}
	fd, err := bindSocket(p)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, taken(p)
	}
	if err != nil {
		return nil, fmt.Errorf("reserve port %s: %w", portName(p), err)
	}
	r := &reservation{port: p, fd: fd}
	t.held[key] = append(t.held[key], r)
	return r, nil
}

// adopt registers a port that is published already, and binds it if nobody else took it meanwhile.
func (t *portTable) adopt(p Port) (*reservation, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.bind(p)
	if err != nil {
		r = &reservation{port: p, fd: -1}
		key := portKey{p.Proto, p.HostPort}
		t.held[key] = append(t.held[key], r)
	}
	return r, err
}

func (t *portTable) release(list []*reservation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range list {
		t.drop(r)
	}
}

func (t *portTable) drop(r *reservation) {
	key := portKey{r.port.Proto, r.port.HostPort}
	kept := t.held[key][:0]
	for _, other := range t.held[key] {
		if other != r {
			kept = append(kept, other)
		}
	}
	if t.held[key] = kept; len(kept) == 0 {
		delete(t.held, key)
	}
	if r.fd >= 0 {
		_ = unix.Close(r.fd) // nothing was written to it
		r.fd = -1
	}
}

func (t *portTable) releaseAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, list := range t.held {
		for _, r := range append([]*reservation(nil), list...) {
			t.drop(r)
		}
	}
}

func portName(p Port) string {
	ip := p.HostIP
	if !ip.IsValid() {
		ip = anyAddress
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(ip, p.HostPort), p.Proto)
}

// takenError reads "Bind for 0.0.0.0:8080 failed: port is already allocated", words that scripts look for, and is an
// EADDRINUSE.
type takenError struct{ port string }

func (e takenError) Error() string {
	return "Bind for " + e.port + " failed: port is already allocated"
}
func (takenError) Unwrap() error { return unix.EADDRINUSE }

func taken(p Port) error {
	address, _, _ := strings.Cut(portName(p), "/")
	return takenError{address}
}

// bindSocket binds without SO_REUSEADDR and does not listen: the kernel gives the port to nobody else (socket(7)).
// Connections of an earlier user that linger in TIME_WAIT forbid that for a minute; then a listening socket with
// SO_REUSEADDR does it, which the kernel grants only if nobody has the port.
func bindSocket(p Port) (int, error) {
	kind := protocols[p.Proto].socketType
	if kind == 0 {
		return -1, nil
	}
	fd, err := openBound(p, kind, false)
	if errors.Is(err, unix.EADDRINUSE) && kind == unix.SOCK_STREAM {
		return openBound(p, kind, true)
	}
	return fd, err
}

func openBound(p Port, kind int, listen bool) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if listen {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		address := &unix.SockaddrInet4{Port: int(p.HostPort)}
		if p.HostIP.IsValid() {
			address.Addr = p.HostIP.As4()
		}
		err = unix.Bind(fd, address)
	}
	if err == nil && listen {
		err = unix.Listen(fd, 0)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
