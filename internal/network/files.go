package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// fallbackServers are asked if the host names none that a container could reach: Google's, as Docker does.
var fallbackServers = []string{"8.8.8.8", "8.8.4.4"}

// HostEntry is a line of /etc/hosts.
type HostEntry struct {
	IP    netip.Addr
	Names []string
}

// Hosts is the content of a container's /etc/hosts (hosts(5)): the loopback names, the extra entries ("name:address"
// or "name=address"), the linked containers and, if the address is valid, the container's own names.
func Hosts(hostname, domain string, ip netip.Addr, extra []string, linked ...HostEntry) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, entry := range extra {
		i := strings.IndexAny(entry, ":=")
		if i < 0 {
			continue
		}
		name, address := field(entry[:i]), field(strings.Trim(entry[i+1:], "[]"))
		if name != "" && address != "" {
			fmt.Fprintf(&b, "%s\t%s\n", address, name)
		}
	}
	for _, l := range linked {
		fmt.Fprintf(&b, "%s\t%s\n", l.IP, strings.Join(fields(l.Names), " "))
	}
	if hostname = field(hostname); hostname != "" && ip.IsValid() {
		names := hostname
		if domain = field(domain); domain != "" {
			names = hostname + "." + domain + " " + hostname
		} else if short, _, found := strings.Cut(hostname, "."); found && short != "" {
			names += " " + short
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, names)
	}
	return b.Bytes()
}

// field keeps a value within its field of its line: it is cut at the first white space.
func field(s string) string {
	if f := strings.Fields(s); len(f) > 0 {
		return f[0]
	}
	return ""
}

// ResolvConf is the content of a container's /etc/resolv.conf (resolv.conf(5)). Servers, search list and options are
// the given ones, or where there are none, those of the host's file. Of the host's servers those are left out that a
// container cannot reach: on loopback, and IPv6. If none remains, public ones stand in. A search list of "." is an
// empty one.
func ResolvConf(host []byte, dns, search, options []string) []byte {
	hostDNS, hostSearch, hostOptions := parseResolvConf(host)
	if dns = fields(dns); len(dns) == 0 {
		dns = reachable(hostDNS)
	}
	if search = fields(search); len(search) == 0 {
		search = hostSearch
	}
	if len(search) == 1 && search[0] == "." {
		search = nil
	}
	if options = fields(options); len(options) == 0 {
		options = hostOptions
	}
	var b bytes.Buffer
	for _, server := range dns {
		b.WriteString("nameserver " + server + "\n")
	}
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	if len(options) > 0 {
		b.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	return b.Bytes()
}

func fields(list []string) []string { return strings.Fields(strings.Join(list, " ")) }

func reachable(servers []string) []string {
	var list []string
	for _, s := range servers {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Unmap().Is4() && !ip.Unmap().IsLoopback() && !ip.IsUnspecified() {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return fallbackServers
	}
	return list
}

// parseResolvConf reads what the resolver reads: keyword at the line's start, the last search or domain line counts,
// options add up, comments begin with # or ;.
func parseResolvConf(text []byte) (servers, search, options []string) {
	for line := range bytes.Lines(text) {
		words := strings.Fields(strings.ToValidUTF8(string(bytes.ReplaceAll(line, []byte{0}, nil)), ""))
		if len(words) < 2 || line[0] == '#' || line[0] == ';' {
			continue
		}
		for i, w := range words[1:] {
			if w[0] == '#' || w[0] == ';' {
				words = words[:i+1]
				break
			}
		}
		switch args := words[1:]; {
		case len(args) == 0:
		case words[0] == "nameserver":
			servers = append(servers, args[0])
		case words[0] == "search":
			search = args
		case words[0] == "domain":
			search = args[:1]
		case words[0] == "options":
			options = append(options, args...)
		}
	}
	return servers, search, options
}
