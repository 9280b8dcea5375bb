package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPortRange: the first free port of a range is taken, and only of it.
func TestPortRange(t *testing.T) {
	first := uint16(takenBefore(t).Addr().(*net.TCPAddr).Port)
	table := &portTable{held: map[portKey][]*reservation{}}
	p := Port{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: first, LastHostPort: first + 1, ContainerPort: 80}
	r, err := table.take(p)
	if err != nil || r.port.HostPort != first+1 || r.port.LastHostPort != 0 {
		t.Fatalf("the first port of the range is taken, and %+v was reserved: %v", r, err)
	}
	if _, err := table.take(p); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a range without a free port: %v", err)
	}
	table.releaseAll()
	if r, err := table.take(p); err != nil || r.port.HostPort != first+1 {
		t.Errorf("after the release: %+v, %v", r, err)
	}
	table.releaseAll()
}

// takenBefore listens on a port of loopback whose next one is free.
func takenBefore(t *testing.T) net.Listener {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port+1))
		if err == nil {
			if err := next.Close(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return l
		}
		_ = l.Close()
	}
}
