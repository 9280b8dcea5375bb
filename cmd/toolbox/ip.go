//go:build !toolbox_core

package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ip shows links, addresses, routes and neighbours; "ip link set DEV up|down" and "ip addr|route add|del" change them.
func ip(args []string) error {
	family, rest := netlink.FAMILY_ALL, args[1:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		switch rest[0] {
		case "-4":
			family = netlink.FAMILY_V4
		case "-6":
			family = netlink.FAMILY_V6
		}
		rest = rest[1:]
	}
	help := usage("ip [-4|-6] link|addr|route|neigh [show [dev DEV]] | link set DEV up|down | addr add|del CIDR dev DEV | " +
		"route add|del CIDR|default [via ADDRESS] [dev DEV]")
	if len(rest) == 0 {
		return help
	}
	object := rest[0]
	verb, words := "show", rest[1:]
	if len(words) > 0 {
		verb, words = words[0], words[1:]
	}
	is := func(full string) bool { return strings.HasPrefix(full, object) }
	show := strings.HasPrefix("show", verb) || strings.HasPrefix("list", verb)
	switch {
	case is("link") && show:
		return showLinks(words, family, false)
	case is("link") && verb == "set" && len(words) >= 2:
		return setLink(words)
	case is("address") && show:
		return showLinks(words, family, true)
	case is("address") && len(words) >= 3:
		return changeAddress(verb, words)
	case is("route") && show:
		if family == netlink.FAMILY_ALL {
			family = netlink.FAMILY_V4
		}
		return showRoutes(family)
	case is("route") && len(words) > 0:
		return changeRoute(verb, words)
	case is("neighbour") && show:
		return showNeighbours(family)
	}
	return help
}

// complete repeats a listing that was interrupted by a change (NLM_F_DUMP_INTR).
func complete[T any](list func() ([]T, error)) (found []T, err error) {
	for range 100 {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}

// chosen returns the link that words name ("dev eth0" or "eth0"), or all.
func chosen(words []string) ([]netlink.Link, error) {
	if len(words) > 0 && words[0] == "dev" {
		words = words[1:]
	}
	if len(words) == 0 {
		return complete(netlink.LinkList)
	}
	link, err := netlink.LinkByName(words[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", words[0], err)
	}
	return []netlink.Link{link}, nil
}

func showLinks(words []string, family int, addresses bool) error {
	links, err := chosen(words)
	if err != nil {
		return err
	}
	for _, link := range links {
		a := link.Attrs()
		flags := strings.ToUpper(strings.ReplaceAll(a.Flags.String(), "|", ","))
		if a.RawFlags&unix.IFF_LOWER_UP != 0 {
			flags += ",LOWER_UP"
		}
		name := a.Name
		if a.ParentIndex > 0 {
			name += fmt.Sprintf("@if%d", a.ParentIndex)
		}
		fmt.Printf("%d: %s: <%s> mtu %d qdisc %s state %s qlen %d\n", a.Index, name, flags, a.MTU, qdisc(a),
			strings.ToUpper(a.OperState.String()), a.TxQLen)
		kind := a.EncapType
		if a.HardwareAddr != nil {
			kind += " " + a.HardwareAddr.String()
		}
		fmt.Printf("    link/%s\n", kind)
		if !addresses {
			continue
		}
		list, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
		if err != nil {
			return err
		}
		for _, addr := range list {
			version := "inet"
			if addr.IP.To4() == nil {
				version = "inet6"
			}
			words := []string{version, addr.IPNet.String()}
			if addr.Broadcast != nil {
				words = append(words, "brd", addr.Broadcast.String())
			}
			scope := netlink.Scope(addr.Scope).String()
			if scope == "universe" { // iproute2's name of it
				scope = "global"
			}
			fmt.Println("   ", strings.TrimSpace(strings.Join(append(words, "scope", scope, addr.Label), " ")))
		}
	}
	return nil
}

func setLink(words []string) error {
	if words[0] == "dev" {
		words = words[1:]
	}
	links, err := chosen(words[:1])
	if err != nil {
		return err
	}
	for _, word := range words[1:] {
		switch word {
		case "up":
			err = netlink.LinkSetUp(links[0])
		case "down":
			err = netlink.LinkSetDown(links[0])
		default:
			err = fmt.Errorf("link set: unknown %q", word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func changeAddress(verb string, words []string) error {
	addr, err := netlink.ParseAddr(words[0])
	if err != nil {
		return err
	}
	links, err := chosen(words[1:])
	if err != nil {
		return err
	}
	switch verb {
	case "add":
		return netlink.AddrAdd(links[0], addr)
	case "del":
		return netlink.AddrDel(links[0], addr)
	}
	return fmt.Errorf("addr: unknown %q", verb)
}

func showRoutes(family int) error {
	routes, err := complete(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
	if err != nil {
		return err
	}
	for _, r := range routes {
		text := "default"
		if r.Dst != nil && !(r.Dst.IP.IsUnspecified() && isZero(r.Dst.Mask)) {
			text = r.Dst.String()
		}
		if r.Gw != nil {
			text += " via " + r.Gw.String()
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			text += " dev " + link.Attrs().Name
		}
		if r.Gw == nil {
			text += " scope " + r.Scope.String()
		}
		if r.Src != nil {
			text += " src " + r.Src.String()
		}
		fmt.Println(text)
	}
	return nil
}

func isZero(mask net.IPMask) bool {
	ones, _ := mask.Size()
	return ones == 0
}

func changeRoute(verb string, words []string) error {
	r := &netlink.Route{}
	if words[0] != "default" {
		_, dst, err := net.ParseCIDR(words[0])
		if err != nil {
			return err
		}
		r.Dst = dst
	}
	for i := 1; i+1 < len(words); i += 2 {
		switch words[i] {
		case "via":
			if r.Gw = net.ParseIP(words[i+1]); r.Gw == nil {
				return fmt.Errorf("via %s: not an address", words[i+1])
			}
		case "dev":
			links, err := chosen(words[i+1 : i+2])
			if err != nil {
				return err
			}
			r.LinkIndex = links[0].Attrs().Index
		}
	}
	switch verb {
	case "add":
		return netlink.RouteAdd(r)
	case "del":
		return netlink.RouteDel(r)
	}
	return fmt.Errorf("route: unknown %q", verb)
}

func showNeighbours(family int) error {
	list, err := complete(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, family) })
	if err != nil {
		return err
	}
	for _, n := range list {
		if link, err := netlink.LinkByIndex(n.LinkIndex); err == nil {
			fmt.Printf("%s dev %s lladdr %s\n", n.IP, link.Attrs().Name, n.HardwareAddr)
		}
	}
	return nil
}

// qdisc is asked for by itself: a link's attributes do not have it.
func qdisc(a *netlink.LinkAttrs) string {
	link, err := netlink.LinkByIndex(a.Index)
	if err != nil {
		return "none"
	}
	list, err := netlink.QdiscList(link)
	if err != nil || len(list) == 0 {
		return "none"
	}
	return list[0].Type()
}
