package network

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	hostIP    = netip.MustParseAddr("203.0.113.1")
	outsideIP = netip.MustParseAddr("203.0.113.2")
	serial    atomic.Int32
)

const patience = 5 * time.Second

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func options() Options {
	n := serial.Add(1)
	name := fmt.Sprintf("gt%d-%d", os.Getpid(), n)
	return Options{Bridge: name, Table: name, Subnet: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", 100+n)), Pool: 2}
}

func open(t *testing.T, o Options, live ...Endpoint) *Network {
	t.Helper()
	n, err := Open(t.Context(), o, live)
	fatal(t, err)
	t.Cleanup(func() {
		if err := n.Remove(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// container is a network namespace that outlives the pool's descriptor, as one with a process in it does.
type container struct {
	*Endpoint
	namespace *os.File
}

func start(t *testing.T, n *Network, r Request) container {
	t.Helper()
	e, err := n.Connect(t.Context(), r)
	fatal(t, err)
	path := e.Namespace
	if r.Own != nil {
		path = fmt.Sprintf("/proc/self/fd/%d", r.Own.Fd())
	}
	ns, err := os.Open(path)
	fatal(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	n.Joined(e)
	return container{e, ns}
}

// within runs a function on a thread in a network namespace; nil is the host's.
func within(ns *os.File, do func() error) error {
	if ns == nil {
		return do()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- do()
	}()
	return <-result
}

// echo serves on tcp and udp in the namespace and answers with the peer's address as it sees it.
func echo(t *testing.T, ns *os.File, port int) {
	t.Helper()
	fatal(t, within(ns, func() error {
		l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _, _ = l.Close(), u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go answer(c)
			}
		}()
		go func() {
			b := make([]byte, 100)
			for {
				n, peer, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(fmt.Sprintf("%s %s\n", strings.TrimSpace(string(b[:n])), peer)), peer)
			}
		}()
		return nil
	}))
}

func answer(c net.Conn) {
	defer func() { _ = c.Close() }()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil {
		_, _ = fmt.Fprintf(c, "%s %s\n", strings.TrimSpace(line), c.RemoteAddr())
	}
}

// ask sends a word from the namespace and returns the address that the server saw.
func ask(ns *os.File, network, address string, timeout time.Duration) (seen string, err error) {
	err = within(ns, func() error {
		c, err := net.DialTimeout(network, address, timeout)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return err
		}
		word, peer, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word != "hello" {
			return fmt.Errorf("answer %q", line)
		}
		seen, _, err = net.SplitHostPort(peer)
		return err
	})
	return seen, err
}

func reaches(t *testing.T, from *os.File, address, wantSeen string) {
	t.Helper()
	for _, network := range []string{"tcp4", "udp4"} {
		seen, err := ask(from, network, address, patience)
		if err != nil {
			t.Errorf("%s %s: %v", network, address, err)
		} else if wantSeen != "" && seen != wantSeen {
			t.Errorf("%s %s: the server saw %s, want %s", network, address, seen, wantSeen)
		}
	}
}

func refused(t *testing.T, from *os.File, address string) {
	t.Helper()
	for _, network := range []string{"tcp4", "udp4"} {
		if seen, err := ask(from, network, address, 200*time.Millisecond); err == nil {
			t.Errorf("%s %s: answered to %s, want nothing", network, address, seen)
		}
	}
}

// outside makes a namespace beyond the host's outer interface, once.
func outside(t *testing.T) *os.File {
	t.Helper()
	ns, h, err := enter(nil)
	fatal(t, err)
	t.Cleanup(h.Close)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "outer", 1400
	fatal(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd())), PeerTxQLen: -1, PeerMTU: 1400}))
	t.Cleanup(func() { _, _ = deleteLink("outer"), ns.Close() })
	link, err := netlink.LinkByName("outer")
	fatal(t, err)
	fatal(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(hostIP, 24))}))
	fatal(t, netlink.LinkSetUp(link))
	peer, err := h.LinkByName("eth0")
	fatal(t, err)
	fatal(t, h.AddrAdd(peer, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(outsideIP, 24))}))
	fatal(t, h.LinkSetUp(peer))
	fatal(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: outsideIP.AsSlice()}))
	return ns
}

func publish(host uint16, ip string) []Port {
	var a netip.Addr
	if ip != "" {
		a = netip.MustParseAddr(ip)
	}
	return []Port{{Proto: "tcp", HostIP: a, HostPort: host, ContainerPort: 80}, {Proto: "udp", HostIP: a, HostPort: host, ContainerPort: 80}}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

func TestTraffic(t *testing.T) {
	client := outside(t)
	for _, bridged := range []string{"1", "0"} {
		t.Run("bridge-nf-call-iptables="+bridged, func(t *testing.T) {
			if _, err := setSysctl(bridged, "net/bridge/bridge-nf-call-iptables"); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			testTraffic(t, client)
		})
	}
}

func testTraffic(t *testing.T, client *os.File) {
	o := options()
	n := open(t, o)
	if n.Info().MTU != 1400 {
		t.Errorf("MTU %d, want the outer interface's 1400", n.Info().MTU)
	}
	a := start(t, n, Request{Container: "a", Ports: publish(8080, "")})
	b := start(t, n, Request{Container: "b", Ports: publish(8081, "127.0.0.1")})
	c := start(t, n, Request{Container: "c", Ports: publish(8082, hostIP.String())})
	for _, x := range []container{a, b, c} {
		echo(t, x.namespace, 80)
	}
	echo(t, client, 99)
	gateway := n.Info().Gateway.String()
	t.Run("from loopback", func(t *testing.T) {
		reaches(t, nil, "127.0.0.1:8080", gateway)
		reaches(t, nil, "127.0.0.1:8081", gateway)
		refused(t, nil, "127.0.0.1:8082")
	})
	t.Run("from the host's own address", func(t *testing.T) {
		reaches(t, nil, hostIP.String()+":8080", "")
		reaches(t, nil, hostIP.String()+":8082", "")
		refused(t, nil, hostIP.String()+":8081")
	})
	t.Run("from outside", func(t *testing.T) {
		reaches(t, client, hostIP.String()+":8080", outsideIP.String())
		reaches(t, client, hostIP.String()+":8082", outsideIP.String())
		refused(t, client, hostIP.String()+":8081")
	})
	t.Run("container to container", func(t *testing.T) {
		reaches(t, a.namespace, b.IP.Addr().String()+":80", a.IP.Addr().String())
		reaches(t, a.namespace, hostIP.String()+":8082", "")
	})
	t.Run("container to itself by the host's port", func(t *testing.T) {
		reaches(t, a.namespace, hostIP.String()+":8080", gateway)
		reaches(t, a.namespace, gateway+":8080", gateway)
	})
	t.Run("outwards", func(t *testing.T) { reaches(t, a.namespace, outsideIP.String()+":99", hostIP.String()) })
	t.Run("outside cannot route to the subnet", func(t *testing.T) {
		fatal(t, within(client, func() error {
			return netlink.RouteReplace(&netlink.Route{Dst: ipNet(o.Subnet), Gw: hostIP.AsSlice()})
		}))
		refused(t, client, a.IP.Addr().String()+":80")
	})
	t.Run("loopback of the host is the host's", func(t *testing.T) {
		echo(t, nil, 7070)
		for name, ns := range map[string]*os.File{"container": a.namespace, "neighbour": client} {
			via := map[string]string{"container": gateway, "neighbour": hostIP.String()}[name]
			fatal(t, within(ns, func() error { return loopbackVia(via) }))
			refused(t, ns, "127.0.0.1:7070")
			refused(t, ns, "127.0.0.1:8081")
		}
	})
	t.Run("unpublished", func(t *testing.T) {
		fatal(t, n.Disconnect(t.Context(), a.Endpoint))
		fatal(t, n.Disconnect(t.Context(), a.Endpoint))
		refused(t, nil, "127.0.0.1:8080")
		eventually(t, "deletion of "+a.Interface, func() bool { _, err := netlink.LinkByName(a.Interface); return isGone(err) })
		d := start(t, n, Request{Container: "d", Ports: publish(8080, "")})
		echo(t, d.namespace, 80)
		reaches(t, client, hostIP.String()+":8080", outsideIP.String())
	})
}

// TestUDPFlows: the kernel remembers where a client's packets went; what is published or not any more must count.
func TestUDPFlows(t *testing.T) {
	client := outside(t)
	n := open(t, options())
	var c net.Conn
	fatal(t, within(client, func() (err error) {
		c, err = net.Dial("udp4", hostIP.String()+":8080")
		return err
	}))
	defer func() { _ = c.Close() }()
	answered := func() bool {
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			return false // an ICMP error of an earlier packet
		}
		fatal(t, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		_, err := c.Read(make([]byte, 100))
		return err == nil
	}
	if answered() {
		t.Fatal("an answer before anything is published")
	}
	a := start(t, n, Request{Ports: publish(8080, "")})
	echo(t, a.namespace, 80)
	eventually(t, "an answer of the container", answered)
	fatal(t, n.Disconnect(t.Context(), a.Endpoint))
	eventually(t, "deletion of "+a.Interface, func() bool { _, err := netlink.LinkByName(a.Interface); return isGone(err) })
	echo(t, nil, 8080)
	eventually(t, "an answer of the host", answered)
}

// loopbackVia sends this namespace's packets for 127.0.0.1 to a neighbour, as an attacker would.
func loopbackVia(gateway string) error {
	if _, err := setSysctl("1", "net/ipv4/conf/eth0/route_localnet"); err != nil {
		return err
	}
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}
	if err := netlink.AddrDel(lo, addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{
		Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 0), Mask: net.CIDRMask(8, 32)}, Gw: net.ParseIP(gateway), LinkIndex: link.Attrs().Index,
	})
}
