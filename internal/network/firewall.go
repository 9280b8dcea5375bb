package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/containerd/log"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Registers of 4 bytes (nftables: NFT_REG32_00 and up); the first is also the start of verdict-free register 1.
const (
	reg0 = unix.NFT_REG32_00 + iota
	reg1
	reg2
)

// ctStatusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h: the flow's destination was translated.
const ctStatusDNAT = 1 << 5

// firewall is one engine's nftables table. Its rules are the same for any number of containers; published ports are
// elements of two maps.
type firewall struct {
	mu     sync.Mutex
	table  *nftables.Table
	byAddr *nftables.Set // address . protocol . port → container's address . port
	byPort *nftables.Set // protocol . port, on every address of the host
	bridge string
	subnet netip.Prefix
	live   map[string]Endpoint // what is published, by Endpoint.ID
}

// openFirewall replaces the table by a new one in one transaction, with the elements of the live endpoints.
func openFirewall(table, bridge string, subnet netip.Prefix, live []Endpoint) (*firewall, error) {
	t := &nftables.Table{Name: table, Family: nftables.TableFamilyIPv4}
	target := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	f := &firewall{
		table: t, bridge: bridge, subnet: subnet, live: map[string]Endpoint{},
		byAddr: &nftables.Set{
			Table: t, Name: "published_on", IsMap: true, DataType: target, KeyByteOrder: binaryutil.BigEndian,
			KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
		},
		byPort: &nftables.Set{
			Table: t, Name: "published", IsMap: true, DataType: target, KeyByteOrder: binaryutil.BigEndian,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		},
	}
	for _, e := range live {
		f.live[e.ID] = e
	}
	return f, f.write()
}

// write replaces the table by a new one with everything that is published, in one transaction.
func (f *firewall) write() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.AddTable(f.table) // so that there is one to delete
	conn.DelTable(f.table)
	conn.AddTable(f.table)
	var byAddr, byPort []nftables.SetElement
	for _, e := range f.live {
		a, p := elements(e)
		byAddr, byPort = append(byAddr, a...), append(byPort, p...)
	}
	if err := errors.Join(conn.AddSet(f.byAddr, byAddr), conn.AddSet(f.byPort, byPort)); err != nil {
		return fmt.Errorf("compose nftables maps: %w", err)
	}
	f.addChains(conn)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", f.table.Name, err)
	}
	return nil
}

// addChains composes the rules; docs/network.md shows them in nft's language.
func (f *firewall) addChains(conn *nftables.Conn) {
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules ...[]expr.Any) {
		c := conn.AddChain(&nftables.Chain{Name: name, Table: f.table, Type: kind, Hooknum: hook, Priority: priority})
		for _, r := range rules {
			conn.AddRule(&nftables.Rule{Table: f.table, Chain: c, Exprs: r})
		}
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	in, out := expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME
	verdict := func(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }
	masquerade := []expr.Any{&expr.Masq{}}

	// route_localnet on the bridge is for answers to the host; a container must not reach the host's loopback by it.
	chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
		rule(f.device(in, true), address(daddr, loopback), verdict(expr.VerdictDrop)))
	// Nobody on a neighbouring network may use a port that is published on loopback.
	chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest,
		rule(address(daddr, loopback), verdict(expr.VerdictReturn)), f.translateByAddr(), f.translateByPort())
	chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest,
		f.translateByAddr(), f.translateByPort())
	chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		rule(address(saddr, f.subnet), f.device(out, false), masquerade),
		rule(address(saddr, loopback), f.device(out, true), masquerade),
		rule(address(saddr, f.subnet), f.device(out, true), ct(expr.CtKeySTATUS, ctStatusDNAT), masquerade))
	chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
		rule(f.device(out, true), ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept)),
		rule(f.device(out, true), ct(expr.CtKeySTATUS, ctStatusDNAT), verdict(expr.VerdictAccept)),
		rule(f.device(out, true), f.device(in, false), verdict(expr.VerdictDrop)))
}

func rule(parts ...[]expr.Any) (list []expr.Any) {
	for _, p := range parts {
		list = append(list, p...)
	}
	return list
}

// device matches packets that come from, or go to, the bridge (or do not).
func (f *firewall) device(key expr.MetaKey, is bool) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, f.bridge)
	op := expr.CmpOpEq
	if !is {
		op = expr.CmpOpNeq
	}
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: name}}
}

// Offsets of the addresses in an IPv4 header (RFC 791).
const (
	saddr = 12
	daddr = 16
)

func address(offset uint32, p netip.Prefix) []expr.Any {
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// ct matches flows with one of the bits in their state or status.
func ct(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: key},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func (f *firewall) translateByAddr() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: daddr, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Payload{DestRegister: reg2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetID: f.byAddr.ID, SetName: f.byAddr.Name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0, RegProtoMin: reg1},
	}
}

func (f *firewall) translateByPort() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg0, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0},
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetID: f.byPort.ID, SetName: f.byPort.Name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0, RegProtoMin: reg1},
	}
}

// elements are an endpoint's published ports as elements of the two maps: fields padded to registers of 4 bytes.
func elements(e Endpoint) (byAddr, byPort []nftables.SetElement) {
	for _, p := range e.Ports {
		key := portField([]byte{byte(protocols[p.Proto].number), 0, 0, 0}, p.HostPort)
		target := portField(e.IP.Addr().AsSlice(), p.ContainerPort)
		if p.HostIP.IsValid() {
			byAddr = append(byAddr, nftables.SetElement{Key: append(p.HostIP.AsSlice(), key...), Val: target})
		} else {
			byPort = append(byPort, nftables.SetElement{Key: key, Val: target})
		}
	}
	return byAddr, byPort
}

func portField(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

// publish adds an endpoint's elements. If somebody flushed the ruleset meanwhile, all of it is written anew.
func (f *firewall) publish(e Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live[e.ID] = e
	err := f.change(e, (*nftables.Conn).SetAddElements)
	if errors.Is(err, unix.ENOENT) {
		err = f.write()
	}
	if err != nil {
		delete(f.live, e.ID)
	}
	return err
}

// unpublish takes an endpoint's elements away; if the ruleset was flushed, the others' are written anew.
func (f *firewall) unpublish(e Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, e.ID)
	err := f.change(e, (*nftables.Conn).SetDeleteElements)
	if errors.Is(err, unix.ENOENT) {
		err = f.write()
	}
	if err != nil {
		f.live[e.ID] = e
	}
	return err
}

// change adds or deletes an endpoint's elements. The caller holds the lock.
func (f *firewall) change(e Endpoint, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	byAddr, byPort := elements(e)
	if len(byAddr) > 0 {
		err = do(conn, f.byAddr, byAddr)
	}
	if len(byPort) > 0 && err == nil {
		err = do(conn, f.byPort, byPort)
	}
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		return fmt.Errorf("change the maps of nftables table %s: %w", f.table.Name, err)
	}
	return nil
}

// remove deletes the table; it is no error if there is none.
func (f *firewall) remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.DelTable(f.table)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", f.table.Name, err)
	}
	return nil
}

// forgetFlowsOf drops what the kernel remembers of UDP flows with a container's address: the next owner of the
// address or of the port would get its packets.
func forgetFlowsOf(ctx context.Context, ip netip.Addr) {
	filter := &netlink.ConntrackFilter{}
	forgetFlows(ctx, filter, errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddIP(netlink.ConntrackReplySrcIP, ip.AsSlice())))
}

// forgetFlowsTo drops UDP flows that came for a host port before it was published.
func forgetFlowsTo(ctx context.Context, port uint16) {
	filter := &netlink.ConntrackFilter{}
	forgetFlows(ctx, filter, errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, port)))
}

func forgetFlows(ctx context.Context, filter *netlink.ConntrackFilter, err error) {
	if err == nil {
		_, err = list(func() ([]struct{}, error) { // again: a listing that was interrupted leaves some
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, filter)
			return nil, err
		})
	}
	if err != nil {
		log.G(ctx).WithError(err).Warn("old UDP flows are not forgotten")
	}
}
