package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const fallbackMTU = 1500

// openBridge creates the bridge, or takes over the one that is there, and returns it with its subnet.
func openBridge(o Options, live []Endpoint) (*netlink.LinkAttrs, netip.Prefix, error) {
	if o.Subnet.IsValid() && (!o.Subnet.Addr().Is4() || o.Subnet.Bits() < 8 || o.Subnet.Bits() > 30) {
		return nil, netip.Prefix{}, fmt.Errorf("subnet %s: want IPv4 and a prefix of 8 to 30 bits: %w", o.Subnet, errdefs.ErrInvalidArgument)
	}
	if !o.Subnet.IsValid() && len(live) > 0 {
		o.Subnet = live[0].IP // should the bridge be gone, the next one must fit
	}
	link, err := netlink.LinkByName(o.Bridge)
	switch {
	case isGone(err):
		return createBridge(o)
	case err != nil:
		return nil, netip.Prefix{}, fmt.Errorf("find bridge %s: %w", o.Bridge, err)
	case link.Type() != "bridge":
		return nil, netip.Prefix{}, fmt.Errorf("interface %s is no bridge but %s: %w", o.Bridge, link.Type(), errdefs.ErrFailedPrecondition)
	}
	subnet, err := subnetOf(link)
	if err != nil {
		return nil, netip.Prefix{}, err
	}
	if subnet.IsValid() && (!o.Subnet.IsValid() || o.Subnet.Masked() == subnet) {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, netip.Prefix{}, fmt.Errorf("set bridge %s up: %w", o.Bridge, err)
		}
		return link.Attrs(), subnet, nil
	}
	if len(live) > 0 {
		return nil, netip.Prefix{}, fmt.Errorf("bridge %s has subnet %s, not %s, and %d running containers: %w", o.Bridge, subnet, o.Subnet, len(live), errdefs.ErrFailedPrecondition)
	}
	if err := netlink.LinkDel(link); err != nil && !isGone(err) {
		return nil, netip.Prefix{}, fmt.Errorf("delete bridge %s to give it another subnet: %w", o.Bridge, err)
	}
	return createBridge(o)
}

// subnetOf is the subnet of a link's first IPv4 address; zero if it has none.
func subnetOf(link netlink.Link) (netip.Prefix, error) {
	found, err := addresses(link)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list the addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range found {
		if p, ok := prefixOf(a.IPNet); ok {
			return p.Masked(), nil
		}
	}
	return netip.Prefix{}, nil
}

func createBridge(o Options) (_ *netlink.LinkAttrs, subnet netip.Prefix, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = o.Bridge, outwardMTU()
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		return nil, subnet, fmt.Errorf("create bridge %s: %w", o.Bridge, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, netlink.LinkDel(link))
		}
	}()
	// Before it is up: an IPv4-only network has no IPv6 address that a router advertisement could lead astray.
	if _, err := setSysctl("0", "net/ipv6/conf", o.Bridge, "accept_ra"); err != nil && !os.IsNotExist(err) {
		return nil, subnet, err
	}
	if _, err := setSysctl("1", "net/ipv6/conf", o.Bridge, "disable_ipv6"); err != nil && !os.IsNotExist(err) {
		return nil, subnet, err
	}
	if subnet, err = addressBridge(link, o.Subnet); err != nil {
		return nil, subnet, err
	}
	// A fixed address: by default a bridge takes the lowest of its ports', which come and go.
	if err := netlink.LinkSetHardwareAddr(link, macOf(gatewayOf(subnet))); err != nil {
		return nil, subnet, fmt.Errorf("set the hardware address of %s: %w", o.Bridge, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, subnet, fmt.Errorf("set bridge %s up: %w", o.Bridge, err)
	}
	return link.Attrs(), subnet, nil
}

// addressBridge gives the bridge its gateway address, of the wanted subnet or the first free one of the pool. Two
// engines may start at once: each looks again after it took a subnet and goes on if the other has it as well.
func addressBridge(link netlink.Link, wanted netip.Prefix) (netip.Prefix, error) {
	candidates, name := defaultPool(), link.Attrs().Name
	if wanted.IsValid() {
		candidates = []netip.Prefix{wanted.Masked()}
	}
	for _, subnet := range candidates {
		taken, err := hostPrefixes(link.Attrs().Index)
		if err != nil {
			return netip.Prefix{}, err
		}
		if overlapsAny(subnet, taken) {
			continue
		}
		address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(gatewayOf(subnet), subnet.Bits()))}
		if err := netlink.AddrAdd(link, address); err != nil {
			return netip.Prefix{}, fmt.Errorf("give %s address %s: %w", name, address.IPNet, err)
		}
		if taken, err = hostPrefixes(link.Attrs().Index); err != nil {
			return netip.Prefix{}, err
		}
		if !overlapsAny(subnet, taken) {
			return subnet, nil
		}
		if err := netlink.AddrDel(link, address); err != nil {
			return netip.Prefix{}, fmt.Errorf("take address %s from %s again: %w", address.IPNet, name, err)
		}
	}
	if wanted.IsValid() {
		return netip.Prefix{}, fmt.Errorf("subnet %s of bridge %s overlaps a route or an address of the host: %w", wanted, name, errdefs.ErrConflict)
	}
	return netip.Prefix{}, fmt.Errorf("bridge %s: each of the %d default subnets overlaps a route or an address of the host: %w", name, len(candidates), errdefs.ErrConflict)
}

// outwardMTU is that of the default route's link.
func outwardMTU() int {
	found, err := routes()
	if err != nil {
		return fallbackMTU
	}
	for _, r := range found {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU > 0 {
				return link.Attrs().MTU
			}
		}
	}
	return fallbackMTU
}

// enableForwarding makes the host a router (true: it was none before), and lets packets from 127.0.0.0/8 leave by the
// bridge, for ports used by the host's own loopback.
func enableForwarding(bridge string) (changed bool, err error) {
	if changed, err = setSysctl("1", "net/ipv4/ip_forward"); err != nil {
		return false, err
	}
	_, err = setSysctl("1", "net/ipv4/conf", bridge, "route_localnet")
	return changed, err
}

// setSysctl writes a value below /proc/sys unless it is there already.
func setSysctl(value string, path ...string) (changed bool, err error) {
	file := filepath.Join(append([]string{"/proc/sys"}, path...)...)
	old, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("read sysctl: %w", err)
	}
	if string(bytes.TrimSpace(old)) == value {
		return false, nil
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return false, fmt.Errorf("set sysctl to %s: %w", value, err)
	}
	return true, nil
}

// removePorts deletes the bridge's ports that are not to be kept.
func removePorts(bridge int, keep map[string]bool) error {
	found, err := links()
	if err != nil {
		return fmt.Errorf("list the host's interfaces: %w", err)
	}
	var names []string
	for _, l := range found {
		if a := l.Attrs(); a.MasterIndex == bridge && l.Type() == "veth" && !keep[a.Name] {
			names = append(names, a.Name)
		}
	}
	return deleteLinks(bridge, names)
}

// deleteGroup plus a bridge's index is the interface group (netdevice(7), IFLA_GROUP) of its links to be deleted.
const deleteGroup = 0x67740000

// deleteLinks deletes interfaces by name, all at once: for each deletion the kernel waits for all processors. Those
// that are not there are no error.
func deleteLinks(bridge int, names []string) error {
	group := nl.Uint32Attr(uint32(deleteGroup + bridge))
	marked := false
	for _, name := range names {
		index, err := linkIndex(name)
		if err == nil {
			err = linkRequest(unix.RTM_SETLINK, int32(index), nl.NewRtAttr(unix.IFLA_GROUP, group))
			marked = marked || err == nil
		}
		if err != nil && !isGone(err) {
			return fmt.Errorf("mark interface %s for deletion: %w", name, err)
		}
	}
	if !marked {
		return nil
	}
	if err := linkRequest(unix.RTM_DELLINK, 0, nl.NewRtAttr(unix.IFLA_GROUP, group)); err != nil && !isGone(err) {
		return fmt.Errorf("delete interfaces %s: %w", names, err)
	}
	return nil
}

func linkRequest(kind int, index int32, attribute *nl.RtAttr) error {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = index
	req.AddData(head)
	req.AddData(attribute)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// deleteLink deletes an interface by name; it is no error if there is none.
func deleteLink(name string) error {
	index, err := linkIndex(name)
	if err == nil {
		err = netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index, Name: name}})
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}

// linkIndex finds an interface by name: ENODEV if there is none. (net.InterfaceByName lists all of them.)
func linkIndex(name string) (int, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return 0, err
	}
	return int(request.Uint32()), nil
}

// attach puts a link back on the bridge; one that is gone went with its container.
func attach(name string, bridge int) error {
	link, err := netlink.LinkByName(name)
	if err == nil && link.Attrs().MasterIndex == bridge {
		return nil
	}
	if err == nil {
		err = netlink.LinkSetMasterByIndex(link, bridge)
	}
	if err == nil {
		err = setHairpin(name)
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("attach interface %s to its bridge: %w", name, err)
	}
	return nil
}

// setHairpin lets a packet leave by the bridge port it came in: one to a published port of the sender itself.
func setHairpin(name string) error {
	index, err := linkIndex(name)
	if err == nil {
		err = netlink.LinkSetHairpin(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: index, Name: name}}, true)
	}
	if err != nil {
		return fmt.Errorf("set hairpin mode of %s: %w", name, err)
	}
	return nil
}

// list repeats a listing that the kernel says is inconsistent, since something changed meanwhile (NLM_F_DUMP_INTR).
func list[T any](get func() ([]T, error)) (found []T, err error) {
	for range 100 {
		if found, err = get(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}

func links() ([]netlink.Link, error) { return list(netlink.LinkList) }

func routes() ([]netlink.Route, error) {
	return list(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
}

// addresses are the IPv4 addresses of a link, or of all for nil.
func addresses(link netlink.Link) ([]netlink.Addr, error) {
	return list(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
}

func isGone(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV)
}
