package network

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// inside is the name of the container's end of a veth pair.
const inside = "eth0"

// sandbox is a network namespace wired to the bridge.
type sandbox struct {
	namespace *os.File
	link      string // host's end
	ip        netip.Addr
	mac       net.HardwareAddr
}

// newSandbox makes a namespace and wires it. The caller owns ip, and frees it if there is an error.
func (n *Network) newSandbox(ip netip.Addr, mac net.HardwareAddr) (*sandbox, error) {
	namespace, handle, err := enter(nil)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	s, err := n.wire(namespace, handle, ip, mac)
	if err != nil {
		return nil, errors.Join(err, namespace.Close())
	}
	return s, nil
}

// wireInto wires an existing namespace; the file stays the caller's.
func (n *Network) wireInto(own *os.File, ip netip.Addr, mac net.HardwareAddr) (*sandbox, error) {
	_, handle, err := enter(own)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	return n.wire(own, handle, ip, mac)
}

// enter opens a netlink handle in a network namespace: an existing one, or nil for a new one, which it returns.
// The goroutine's thread visits the namespace and comes back; if it cannot come back it ends with the goroutine.
func enter(existing *os.File) (namespace *os.File, handle *netlink.Handle, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var home *os.File
		if home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			runtime.UnlockOSThread()
			return
		}
		defer func() { _ = home.Close() }()
		namespace, handle, err = visit(existing)
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return namespace, handle, err
}

// sandboxSysctls are what Docker gives a container's namespace: any user may bind low ports and ping, nobody else is
// in there.
var sandboxSysctls = map[string]string{
	"ip_unprivileged_port_start": "0",
	"ping_group_range":           "0 2147483647",
}

// visit does what must be done inside: IPv6 is switched off for interfaces to come (an IPv4-only network must not
// listen to router advertisements), and a netlink socket belongs to the namespace it was made in.
func visit(existing *os.File) (namespace *os.File, handle *netlink.Handle, err error) {
	if existing != nil {
		if err := unix.Setns(int(existing.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, nil, fmt.Errorf("join network namespace %s: %w", existing.Name(), err)
		}
	} else {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return nil, nil, fmt.Errorf("create a network namespace: %w", err)
		}
		if namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return nil, nil, err
		}
		defer func() {
			if err != nil {
				_ = namespace.Close()
			}
		}()
		for name, value := range sandboxSysctls {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
				return nil, nil, fmt.Errorf("set a sandbox's sysctl to %s: %w", value, err)
			}
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil && !os.IsNotExist(err) {
		return nil, nil, fmt.Errorf("switch IPv6 off in a sandbox: %w", err)
	}
	if handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, nil, fmt.Errorf("open netlink in a sandbox: %w", err)
	}
	return namespace, handle, nil
}

// wire connects a namespace to the bridge and configures its interfaces.
func (n *Network) wire(namespace *os.File, handle *netlink.Handle, ip netip.Addr, mac net.HardwareAddr) (_ *sandbox, err error) {
	if mac == nil {
		mac = macOf(ip)
	}
	s := &sandbox{namespace: namespace, link: linkName(), ip: ip, mac: mac}
	if err := addVeth(s.link, n.index, n.info.MTU, int(namespace.Fd()), mac); err != nil {
		return nil, fmt.Errorf("create veth pair %s on bridge %s: %w", s.link, n.o.Bridge, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, deleteLink(s.link))
		}
	}()
	if err := setHairpin(s.link); err != nil {
		return nil, err
	}
	return s, n.configure(handle, ip)
}

// configure sets the container's side up: loopback, address, default route.
func (n *Network) configure(handle *netlink.Handle, ip netip.Addr) error {
	loopback := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}} // it has index 1 in every namespace
	if err := handle.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("set the loopback interface up: %w", err)
	}
	link, err := handle.LinkByName(inside)
	if err != nil {
		return fmt.Errorf("find %s in the sandbox: %w", inside, err)
	}
	address := netip.PrefixFrom(ip, n.info.Subnet.Bits())
	if err := handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		return fmt.Errorf("give %s address %s: %w", inside, address, err)
	}
	if err := handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", inside, err)
	}
	if err := handle.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: n.info.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route %s by %s: %w", inside, n.info.Gateway, err)
	}
	return nil
}

// addVeth makes the pair in one message: the host's end up and on the bridge, the other in the namespace.
func addVeth(name string, bridge, mtu, namespace int, mac net.HardwareAddr) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Flags, head.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC) // it cannot be up yet: the driver pairs the ends last
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(inside))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	peer.AddRtAttr(unix.IFLA_ADDRESS, mac)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(namespace)))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// linkName is a new name each time: the kernel may still be deleting an old link.
func linkName() string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "veth" + hex.EncodeToString(b[:])
}
