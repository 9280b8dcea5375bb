package network

import (
	"net/netip"
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	ip := netip.MustParseAddr("172.17.0.2")
	for name, c := range map[string]struct {
		hostname, domain string
		ip               netip.Addr
		extra            []string
		want             string // after the loopback names
	}{
		"plain":      {hostname: "web", ip: ip, want: "172.17.0.2\tweb\n"},
		"domain":     {hostname: "web", domain: "example.org", ip: ip, want: "172.17.0.2\tweb.example.org web\n"},
		"no address": {hostname: "web"},
		"extra": {
			hostname: "web", ip: ip, extra: []string{"db:10.0.0.1", "six:2001:db8::1", "box:[::1]", "eq=10.0.0.2", "nonsense", ":1.2.3.4", "x:"},
			want: "10.0.0.1\tdb\n2001:db8::1\tsix\n::1\tbox\n10.0.0.2\teq\n172.17.0.2\tweb\n",
		},
		"full name": {hostname: "web.example.org", ip: ip, want: "172.17.0.2\tweb.example.org web\n"},
		"injection": {hostname: "web\n6.6.6.6 bank", ip: ip, extra: []string{"a\nb:1.1.1.1\n2.2.2.2 c"}, want: "1.1.1.1\ta\n172.17.0.2\tweb\n"},
	} {
		got := string(Hosts(c.hostname, c.domain, c.ip, c.extra))
		rest, ok := strings.CutPrefix(got, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
		_, rest, _ = strings.Cut(rest, "ip6-allrouters\n")
		if !ok || rest != c.want {
			t.Errorf("%s: %q, want the loopback names and %q", name, got, c.want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	fallback := "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
	for name, c := range map[string]struct {
		host                 string
		dns, search, options []string
		want                 string
	}{
		"empty":      {want: fallback},
		"host's":     {host: "# by hand\nnameserver 10.0.0.1\nsearch a.org b.org\noptions ndots:2\noptions rotate\n", want: "nameserver 10.0.0.1\nsearch a.org b.org\noptions ndots:2 rotate\n"},
		"stub":       {host: "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", want: fallback + "options edns0 trust-ad\n"},
		"unreached":  {host: "nameserver ::1\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver 127.1.2.3\nnameserver 0.0.0.0\nnameserver 9.9.9.9", want: "nameserver 9.9.9.9\n"},
		"domain":     {host: "nameserver 9.9.9.9\nsearch a.org\ndomain b.org\n", want: "nameserver 9.9.9.9\nsearch b.org\n"},
		"own":        {host: "nameserver 9.9.9.9\nsearch a.org\noptions rotate\n", dns: []string{"127.0.0.1", "fd00::1"}, search: []string{"c.org"}, options: []string{"ndots:1"}, want: "nameserver 127.0.0.1\nnameserver fd00::1\nsearch c.org\noptions ndots:1\n"},
		"no search":  {host: "nameserver 9.9.9.9\nsearch a.org\n", search: []string{"."}, want: "nameserver 9.9.9.9\n"},
		"comments":   {host: ";nameserver 1.1.1.1\nnameserver 9.9.9.9 # quad\nsearch # none\nnameserver\nbogus 1\n", want: "nameserver 9.9.9.9\n"},
		"injection":  {host: "nameserver 9.9.9.9\n", search: []string{"a.org\nnameserver 6.6.6.6"}, want: "nameserver 9.9.9.9\nsearch a.org nameserver 6.6.6.6\n"},
		"no newline": {host: "nameserver\t9.9.9.9", want: "nameserver 9.9.9.9\n"},
	} {
		if got := string(ResolvConf([]byte(c.host), c.dns, c.search, c.options)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// FuzzResolvConf: whatever the host's file holds, the result has well-formed lines, a server that a container can
// reach, and reading it again gives the same.
func FuzzResolvConf(f *testing.F) {
	for _, s := range []string{"", "nameserver 1.1.1.1\nsearch a b\noptions c\n", "nameserver ::1\r\ndomain .\n", "search #x\n;\n\x00nameserver\x00 1.1.1.1", "options \u2028x\x0b\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, host []byte) {
		first := ResolvConf(host, nil, nil, nil)
		servers := 0
		for line := range strings.Lines(string(first)) {
			keyword, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if !ok || strings.TrimSpace(value) == "" || strings.ContainsRune(line, 0) {
				t.Fatalf("line %q", line)
			}
			switch keyword {
			case "nameserver":
				servers++
				if ip, err := netip.ParseAddr(value); err != nil || !ip.Unmap().Is4() || ip.Unmap().IsLoopback() {
					t.Fatalf("server %q", value)
				}
			case "search", "options":
			default:
				t.Fatalf("line %q", line)
			}
		}
		if servers == 0 {
			t.Fatal("no server")
		}
		if again := ResolvConf(first, nil, nil, nil); string(again) != string(first) {
			t.Fatalf("%q became %q", first, again)
		}
	})
}
