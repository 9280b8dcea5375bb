package oci

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// netDevices moves interfaces of the host into the container's network namespace, with their addresses, under the names
// that linux.netDevices gives them, and brings them up. See the specification's "Network Devices".
func (b *builder) netDevices() error {
	if len(b.spec.Linux.NetDevices) == 0 {
		return nil
	}
	if err := validateNetDevices(b.spec); err != nil {
		return err
	}
	b.at("linux.netDevices")
	defer b.at("")
	for _, name := range slices.Sorted(maps.Keys(b.spec.Linux.NetDevices)) {
		target := netDeviceName(name, b.spec.Linux.NetDevices[name])
		b.byParent(fmt.Sprintf("move network device %s here as %s", name, target), func(child *spawn.Process) error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", child.Pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			return moveNetDevice(int(ns.Fd()), name, target)
		})
	}
	return nil
}

func netDeviceName(name string, d specs.LinuxNetDevice) string {
	if d.Name != "" {
		return d.Name
	}
	return name
}

// validateNetDevices checks the names by the kernel's rules (dev_valid_name in net/core/dev.c), and that they go somewhere.
func validateNetDevices(spec *specs.Spec) error {
	i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if i < 0 || spec.Linux.Namespaces[i].Path != "" && isOwn(spec.Linux.Namespaces[i].Path, "net") {
		return errors.New("config.json: linux.netDevices are set, but the container has no network namespace of its own")
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(spec.Linux.NetDevices)) {
		target := netDeviceName(name, spec.Linux.NetDevices[name])
		for _, n := range []string{name, target} {
			if n == "" || n == "." || n == ".." || len(n) >= unix.IFNAMSIZ || strings.ContainsAny(n, "/: \t\n\v\f\r\x00") {
				return fmt.Errorf("config.json: linux.netDevices[%q]: %q is not the name of a network device", name, n)
			}
		}
		if seen[target] {
			return fmt.Errorf("config.json: linux.netDevices[%q]: the name %q is given twice", name, target)
		}
		seen[target] = true
	}
	return nil
}

func moveNetDevice(ns int, name, target string) error {
	here, err := openNetlink()
	if err != nil {
		return err
	}
	defer here.close()
	there, err := openNetlinkIn(ns)
	if err != nil {
		return err
	}
	defer there.close()
	index, err := here.index(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if _, err := there.index(target); err == nil { // the kernel would move it first, and then find out
		return fmt.Errorf("move it: there is a %s already: %w", target, unix.EEXIST)
	}
	addresses, err := here.addresses(index)
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", name, err)
	}
	if _, err := here.request(unix.RTM_NEWLINK, 0, linkBody(index, 0, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bring %s down: %w", name, err)
	}
	body := attribute(linkBody(index, 0, 0), unix.IFLA_NET_NS_FD, uint32Bytes(uint32(ns)))
	body = attribute(body, unix.IFLA_IFNAME, append([]byte(target), 0))
	if _, err := here.request(unix.RTM_NEWLINK, 0, body); err != nil {
		return fmt.Errorf("move it: %w", err)
	}
	if index, err = there.index(target); err != nil {
		return fmt.Errorf("find %s in there: %w", target, err)
	}
	for _, a := range addresses {
		if err := there.addAddress(index, a); err != nil {
			return fmt.Errorf("give %s its address back: %w", target, err)
		}
	}
	if _, err := there.request(unix.RTM_NEWLINK, 0, linkBody(index, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bring %s up: %w", target, err)
	}
	return nil
}
