package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain runs the whole test process in a network namespace of its own, which plays the host: nothing of the real
// host is touched, and nothing can be left over.
func TestMain(m *testing.M) {
	if os.Getenv("GANTRY_TEST_NETNS") == "" {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), "GANTRY_TEST_NETNS=1"))
		}
		fmt.Fprintln(os.Stderr, "the tests need root and a network namespace:", err)
		os.Exit(1)
	}
	if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}); err != nil {
		fmt.Fprintln(os.Stderr, "set lo up:", err)
		os.Exit(1)
	}
	if bridge := os.Getenv("GANTRY_TEST_VICTIM"); bridge != "" {
		fmt.Fprintln(os.Stderr, victim(bridge, netip.MustParsePrefix(os.Getenv("GANTRY_TEST_SUBNET"))))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// victim is an engine's part of TestTakeover: it connects two containers, tells of them and waits to be killed.
func victim(bridge string, subnet netip.Prefix) error {
	n, err := Open(context.Background(), Options{Bridge: bridge, Table: bridge, Subnet: subnet, Pool: 2}, nil)
	if err != nil {
		return err
	}
	for _, ports := range [][]Port{append(publish(8080, ""), Port{Proto: "tcp", HostIP: hostIP, ContainerPort: 80}), publish(8081, "")} {
		e, err := n.Connect(context.Background(), Request{Ports: ports})
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(e); err != nil {
			return err
		}
	}
	select {}
}
