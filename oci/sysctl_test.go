package oci

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestSysctl(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBundle(t, "cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax", "/proc/sys/kernel/domainname", "/proc/sys/net/ipv4/conf/lo/forwarding", "/proc/sys/fs/mqueue/msg_max")
		b.spec.Linux.Sysctl = map[string]string{
			"net.ipv4.ip_forward": "1", "kernel.msgmax": "4444", "kernel.domainname": "dom", "net/ipv4/conf/lo/forwarding": "0", "fs.mqueue.msg_max": "17",
		}
		if user {
			b.inUserNamespace(t)
		}
		if text, _ := b.output(t); strings.Join(strings.Fields(text), " ") != "1 4444 dom 0 17" {
			t.Errorf("user namespace %v: %q", user, text)
		}
	}
	for name, want := range map[string]string{
		"kernel.panic":             "not in a separate kernel namespace",
		"kernel.shmfun":            "not in a separate kernel namespace",
		"kernel.hostname":          "conflicts with the field hostname",
		"net/../kernel/panic":      "is not the name of a setting",
		"net..ipv4":                "is not the name of a setting",
		"net./../kernel":           "is not the name of a setting",
		"/net/ipv4/ip_forward":     "is not the name of a setting",
		"vm/swappiness":            "not in a separate kernel namespace",
		"net.ipv4.no_such_setting": "no such file or directory",
		"":                         "is not the name of a setting",
	} {
		b := newBundle(t)
		b.spec.Linux.Sysctl = map[string]string{name: "1"}
		b.refused(t, want)
	}
	b := newBundle(t)
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	b.spec.Linux.Namespaces[1].Path = "/proc/self/ns/net"
	b.refused(t, "the network namespace is the host's")
	b = newBundle(t)
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces[:1], b.spec.Linux.Namespaces[2:]...)
	b.refused(t, "the network namespace is the host's")
}

// TestSysctlPath: dots and slashes as sysctl(8) takes them.
func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":             "net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.1/forwarding": "net/ipv4/conf/eth0.1/forwarding",
		"net.ipv4.conf.eth0/1.forwarding": "net/ipv4/conf/eth0.1/forwarding",
		"net/ipv4.conf":                   "net/ipv4.conf",
		"plain":                           "plain",
	} {
		if got := sysctlPath(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestSysctlOfFakeProc: what is written by name goes to the kernel, whatever the image has for /proc (CVE-2025-52881).
func TestSysctlOfFakeProc(t *testing.T) {
	b := newBundle(t, "cat", "/proc/sys/net/ipv4/ip_forward")
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	b.spec.Mounts = append([]specs.Mount{}, b.spec.Mounts[1:]...) // no /proc: the image's
	b.spec.Linux.ReadonlyPaths, b.spec.Linux.MaskedPaths = nil, nil
	writeTree(t, b.dir+"/rootfs", map[string]string{"proc/sys/net/ipv4/ip_forward": "fake\n"})
	if text, _ := b.output(t); text != "fake\n" {
		t.Errorf("the image's file was written to: %q", text)
	}
}
