package oci

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var hostDevices int

// hostDevice makes an interface of the host with addresses. Its name is new: a namespace's interfaces go some time after it.
func hostDevice(t *testing.T) string {
	t.Helper()
	hostDevices++
	name := fmt.Sprintf("gm%dx%d", os.Getpid()%100000, hostDevices)
	ip(t, "link", "add", name, "type", "veth", "peer", "name", name+"p")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() }) // as a rule it went with the container
	ip(t, "addr", "add", "192.0.2.7/25", "dev", name)
	ip(t, "addr", "add", "2001:db8::7/64", "dev", name, "nodad")
	ip(t, "link", "set", name, "up")
	return name
}

// TestNetDevices moves interfaces into new, joined and mapped namespaces.
func TestNetDevices(t *testing.T) {
	for _, kind := range []string{"new", "mapped", "joined"} {
		t.Run(kind, func(t *testing.T) {
			b := newBundle(t, "interfaces")
			switch kind {
			case "mapped":
				b.inUserNamespace(t)
			case "joined":
				pid := holder(t, specs.NetworkNamespace)
				b.spec.Linux.CgroupsPath += "-b"
				b.spec.Linux.Namespaces[1].Path = fmt.Sprintf("/proc/%d/ns/net", pid)
			}
			renamed, kept := hostDevice(t), hostDevice(t)
			b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{renamed: {Name: "eth7"}, kept: {}}
			text, _ := b.output(t)
			for _, name := range []string{"eth7", kept} {
				want := name + " up [192.0.2.7/25 2001:db8::7/64"
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
			if _, err := net.InterfaceByName(renamed); err == nil {
				t.Error("the host has the interface still")
			}
		})
	}
}

func TestNetDevicesRefused(t *testing.T) {
	first, second := hostDevice(t), hostDevice(t)
	for name, c := range map[string]struct {
		list map[string]specs.LinuxNetDevice
		want string
	}{
		"missing":       {map[string]specs.LinuxNetDevice{"nosuch7": {}}, "linux.netDevices: move network device nosuch7 here as nosuch7: find nosuch7: no such device"},
		"slash":         {map[string]specs.LinuxNetDevice{first: {Name: "a/b"}}, `"a/b" is not the name`},
		"too long":      {map[string]specs.LinuxNetDevice{first: {Name: "abcdefghijklmnop"}}, "is not the name"},
		"dots":          {map[string]specs.LinuxNetDevice{"..": {}}, "is not the name"},
		"one name":      {map[string]specs.LinuxNetDevice{first: {Name: "x"}, second: {Name: "x"}}, "given twice"},
		"name is taken": {map[string]specs.LinuxNetDevice{first: {Name: "lo"}}, "there is a lo already: file exists"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t)
			b.spec.Linux.NetDevices = c.list
			b.refused(t, c.want)
		})
	}
	b := newBundle(t)
	b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{first: {}}
	b.spec.Linux.Namespaces[1].Path = "/proc/self/ns/net"
	b.refused(t, "no network namespace of its own")
	for _, name := range []string{first, second} {
		if _, err := net.InterfaceByName(name); err != nil {
			t.Errorf("%s has gone: %v", name, err)
		}
	}
}
