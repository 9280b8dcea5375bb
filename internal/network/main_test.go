package network

import (
	"fmt"
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
	os.Exit(m.Run())
}
