package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPortTaken(t *testing.T) {
	n := open(t, options())
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	fatal(t, err)
	defer func() { _ = l.Close() }()
	byHost := netip.MustParseAddrPort(l.Addr().String())
	start(t, n, Request{Ports: []Port{{Proto: "tcp", HostPort: 9000, ContainerPort: 1}}})
	for name, p := range map[string]Port{
		"by a process of the host":        {Proto: "tcp", HostPort: byHost.Port(), ContainerPort: 1},
		"by a container":                  {Proto: "tcp", HostPort: 9000, ContainerPort: 2},
		"on one address, by one on every": {Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 9000, ContainerPort: 2},
	} {
		_, err := n.Connect(t.Context(), Request{Ports: []Port{{Proto: "tcp", HostPort: 9001, ContainerPort: 3}, p}})
		if !errors.Is(err, unix.EADDRINUSE) || err.Error() != "Bind for "+strings.TrimSuffix(portName(p), "/tcp")+" failed: port is already allocated" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if other, err := net.Listen("tcp4", ":9000"); err == nil {
		t.Error("a published port was given to somebody else", other.Close())
	}
	start(t, n, Request{Ports: []Port{{Proto: "tcp", HostPort: 9001, ContainerPort: 3}, {Proto: "udp", HostPort: 9000, ContainerPort: 3}}})
}

func TestInvalidRequests(t *testing.T) {
	n := open(t, options())
	for name, r := range map[string]Request{
		"protocol":       {Ports: []Port{{Proto: "icmp", ContainerPort: 1}}},
		"container port": {Ports: []Port{{Proto: "tcp", HostPort: 1}}},
		"foreign subnet": {IP: netip.MustParseAddr("192.0.2.9")},
		"gateway":        {IP: n.Info().Gateway},
		"multicast MAC":  {MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}},
	} {
		if _, err := n.Connect(t.Context(), r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := n.Connect(t.Context(), Request{Ports: []Port{{Proto: "tcp", HostIP: netip.IPv6Loopback(), ContainerPort: 1}}}); !errdefs.IsNotImplemented(err) {
		t.Errorf("IPv6: %v", err)
	}
	if len(n.ports.held) != 0 {
		t.Errorf("ports still held: %v", n.ports.held)
	}
}

func TestEphemeralPorts(t *testing.T) {
	n := open(t, options())
	seen := map[uint16]bool{}
	for range 3 {
		c := start(t, n, Request{Ports: []Port{{Proto: "tcp", ContainerPort: 80}}})
		p := c.Ports[0].HostPort
		if p < firstEphemeral || p > lastEphemeral || seen[p] {
			t.Errorf("host port %d after %v", p, seen)
		}
		seen[p] = true
	}
}

func TestExhaustion(t *testing.T) {
	o := options()
	o.Subnet = netip.PrefixFrom(o.Subnet.Addr(), 29) // 5 addresses besides the gateway's
	n := open(t, o)
	seen := map[netip.Addr]bool{}
	var last container
	for range 5 {
		last = start(t, n, Request{})
		seen[last.IP.Addr()] = true
	}
	if len(seen) != 5 {
		t.Fatalf("addresses %v, want 5", seen)
	}
	if _, err := n.Connect(t.Context(), Request{}); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), o.Subnet.String()) {
		t.Fatalf("sixth: %v", err)
	}
	fatal(t, n.Disconnect(t.Context(), last.Endpoint))
	if again := start(t, n, Request{}); again.IP != last.IP {
		t.Errorf("freed %s, given %s", last.IP, again.IP)
	}
}

func TestWishes(t *testing.T) {
	n := open(t, options())
	eventually(t, "a full pool", func() bool { return !n.wanting() })
	n.mu.Lock()
	pooled, other := n.ready[0].ip, n.ready[1].ip
	n.mu.Unlock()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	own, h, err := enter(nil)
	fatal(t, err)
	h.Close()
	defer func() { _ = own.Close() }()
	a := start(t, n, Request{IP: pooled})
	for _, r := range []Request{{IP: other, MAC: mac}, {IP: other.Next().Next().Next()}, {Own: own, MAC: mac}, {MAC: mac}} {
		c := start(t, n, r)
		echo(t, c.namespace, 80)
		reaches(t, a.namespace, c.IP.Addr().String()+":80", pooled.String())
		if (r.IP.IsValid() && c.IP.Addr() != r.IP) || (r.MAC != nil && c.MAC != mac.String()) {
			t.Errorf("%+v for %+v", c.Endpoint, r)
		}
		fatal(t, within(c.namespace, func() error {
			link, err := netlink.LinkByName(inside)
			if err == nil && link.Attrs().HardwareAddr.String() != c.MAC {
				err = fmt.Errorf("hardware address %s, want %s", link.Attrs().HardwareAddr, c.MAC)
			}
			if six, listErr := netlink.AddrList(link, netlink.FAMILY_V6); listErr != nil || len(six) != 0 {
				t.Errorf("IPv6 addresses of an IPv4 network: %v, %v", six, listErr)
			}
			return err
		}))
		fatal(t, n.Disconnect(t.Context(), c.Endpoint))
	}
	if _, err := n.Connect(t.Context(), Request{IP: pooled}); !errdefs.IsConflict(err) {
		t.Errorf("address in use: %v", err)
	}
}

// TestTakeover kills a process that has the network open, and opens the network again.
func TestTakeover(t *testing.T) {
	client := outside(t)
	o := options()
	subnet := o.Subnet
	engine := exec.Command("/proc/self/exe")
	engine.Env = append(os.Environ(), "GANTRY_TEST_VICTIM="+o.Bridge, "GANTRY_TEST_SUBNET="+subnet.String())
	engine.Stderr = os.Stderr
	out, err := engine.StdoutPipe()
	fatal(t, err)
	fatal(t, engine.Start())
	defer func() { _ = engine.Process.Kill() }()
	var stored, lost Endpoint
	told := json.NewDecoder(out)
	fatal(t, errors.Join(told.Decode(&stored), told.Decode(&lost)))
	kept, err := os.Open(stored.Namespace)
	fatal(t, err)
	defer func() { _ = kept.Close() }()
	echo(t, kept, 80)
	fatal(t, engine.Process.Kill())
	_ = engine.Wait() // "signal: killed"
	reaches(t, client, hostIP.String()+":8080", outsideIP.String())

	o.Subnet = netip.Prefix{}
	second := open(t, o, stored)
	if second.Info().Subnet != subnet {
		t.Errorf("subnet %s, was %s", second.Info().Subnet, subnet)
	}
	eventually(t, "one link for each sandbox", func() bool {
		found, err := links()
		fatal(t, err)
		ports := 0
		for _, l := range found {
			if l.Attrs().MasterIndex == second.index {
				ports++
			}
		}
		return ports == 1+o.Pool
	})
	if _, err := netlink.LinkByName(lost.Interface); !isGone(err) {
		t.Errorf("link of a dead container: %v", err)
	}
	reaches(t, client, hostIP.String()+":8080", outsideIP.String())
	reaches(t, nil, "127.0.0.1:8080", "")
	if _, err := ask(client, "tcp4", netip.AddrPortFrom(hostIP, stored.Ports[2].HostPort).String(), patience); err != nil {
		t.Errorf("port on one address: %v", err)
	}
	refused(t, client, hostIP.String()+":8081")
	if _, err := second.Connect(t.Context(), Request{Ports: publish(8080, "")}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("port of an adopted endpoint: %v", err)
	}
	if _, err := second.Connect(t.Context(), Request{IP: stored.IP.Addr()}); !errdefs.IsConflict(err) {
		t.Errorf("address of an adopted endpoint: %v", err)
	}
	fatal(t, second.Disconnect(t.Context(), &stored))
	refused(t, client, hostIP.String()+":8080")
}

func TestSandboxSysctls(t *testing.T) {
	c := start(t, open(t, options()), Request{})
	for name, want := range sandboxSysctls {
		fatal(t, within(c.namespace, func() error {
			got, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
			if text := strings.Join(strings.Fields(string(got)), " "); err == nil && text != want {
				t.Errorf("%s is %q, want %q", name, text, want)
			}
			return err
		}))
	}
}

// TestOpenFails names a table that nftables does not take: what was made until then goes again.
func TestOpenFails(t *testing.T) {
	before := state(t)
	o := options()
	o.Table = strings.Repeat("x", 300)
	if _, err := Open(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), "nftables table") {
		t.Errorf("open with a bad table: %v", err)
	}
	if after := state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	before := state(t)
	o := options()
	n, err := Open(t.Context(), o, nil)
	fatal(t, err)
	c := start(t, n, Request{Ports: publish(8080, "")})
	fatal(t, c.namespace.Close())
	fatal(t, n.Remove())
	after := ""
	for end := time.Now().Add(patience); after != before && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		after = state(t)
	}
	if after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := n.Connect(t.Context(), Request{}); !errdefs.IsUnavailable(err) {
		t.Errorf("connect after the end: %v", err)
	}
	l, err := net.Listen("tcp4", ":8080")
	fatal(t, err)
	fatal(t, l.Close())
}

// state names the interfaces, tables and descriptors that there are.
func state(t *testing.T) string {
	t.Helper()
	present, err := links()
	fatal(t, err)
	conn, err := nftables.New()
	fatal(t, err)
	tables, err := conn.ListTables()
	fatal(t, err)
	fds, err := os.ReadDir("/proc/self/fd")
	fatal(t, err)
	names := []string{fmt.Sprint(len(fds), " descriptors")}
	for _, l := range present {
		names = append(names, l.Attrs().Name)
	}
	for _, table := range tables {
		names = append(names, "table "+table.Name)
	}
	return strings.Join(names, " ")
}

func TestDefaultSubnetSkipsTheHosts(t *testing.T) {
	outside(t)
	link, err := netlink.LinkByName("outer")
	fatal(t, err)
	fatal(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("172.17.5.1/24"))}))
	fatal(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("172.18.0.0/15"))}))
	for _, want := range []string{"172.20.0.0/16", "172.21.0.0/16"} {
		o := options()
		o.Subnet = netip.Prefix{}
		if n := open(t, o); n.Info().Subnet.String() != want || n.Info().Gateway.String() != strings.Replace(want, "0/16", "1", 1) {
			t.Errorf("%+v, want %s", n.Info(), want)
		}
	}
	o := options()
	o.Subnet = netip.MustParsePrefix("172.17.5.0/28")
	if _, err := Open(t.Context(), o, nil); !errdefs.IsConflict(err) {
		t.Errorf("subnet of the host: %v", err)
	}
	if _, err := netlink.LinkByName(o.Bridge); !isGone(err) {
		t.Errorf("bridge of a failed Open: %v", err)
	}
}

// TestRepair deletes bridge and table behind the engine's back.
func TestRepair(t *testing.T) {
	client := outside(t)
	o := options()
	n := open(t, o)
	a := start(t, n, Request{Container: "a", Ports: publish(8080, "")})
	echo(t, a.namespace, 80)
	flush(t, o.Table)
	eventually(t, "a restored table", func() bool {
		_, err := ask(client, "tcp4", hostIP.String()+":8080", time.Second)
		return err == nil
	})
	fatal(t, n.events.Close()) // without the watcher, a change of the ports finds it out
	flush(t, o.Table)
	refused(t, client, hostIP.String()+":8080")
	b := start(t, n, Request{Container: "b", Ports: publish(8081, "")})
	echo(t, b.namespace, 80)
	reaches(t, client, hostIP.String()+":8080", outsideIP.String())
	reaches(t, client, hostIP.String()+":8081", outsideIP.String())
	fatal(t, n.Disconnect(t.Context(), b.Endpoint))

	if err := n.Close(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	fatal(t, deleteLink(o.Bridge))
	again := open(t, o, *a.Endpoint)
	reaches(t, client, hostIP.String()+":8080", outsideIP.String())
	reaches(t, a.namespace, hostIP.String()+":8080", again.Info().Gateway.String())
}

// flush deletes a table as "nft flush ruleset" does.
func flush(t *testing.T, table string) {
	t.Helper()
	conn, err := nftables.New()
	fatal(t, err)
	conn.DelTable(&nftables.Table{Name: table, Family: nftables.TableFamilyIPv4})
	fatal(t, conn.Flush())
}

func TestManyAtOnce(t *testing.T) {
	o := options()
	o.Pool = 8
	n := open(t, o)
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var mine []*Endpoint
			for range 8 {
				e, err := n.Connect(t.Context(), Request{Ports: []Port{{Proto: "tcp", ContainerPort: 80}}})
				if err != nil {
					t.Error(err)
					return
				}
				mine = append(mine, e)
				mu.Lock()
				if seen[e.IP.Addr()] {
					t.Errorf("address %s is given twice", e.IP)
				}
				seen[e.IP.Addr()] = true
				mu.Unlock()
			}
			for _, e := range mine {
				if err := n.Disconnect(t.Context(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "all addresses but the pool's are free", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.pending == 0 && len(n.ready) == o.Pool && len(n.addresses.used) == o.Pool
	})
	elements, err := (&nftables.Conn{}).GetSetElements(n.firewall.byPort)
	if err != nil || len(elements) != 0 || len(n.ports.held) != 0 {
		t.Errorf("left over: elements %v (%v), ports %v", elements, err, n.ports.held)
	}
}
