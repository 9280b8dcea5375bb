package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/cgroup"
	"gantry/oci"
)

func printPlan(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var bundle string
	alias(flags.StringVar, &bundle, ".", "`DIR` of the bundle", "bundle", "b")
	return func(_ context.Context, args []string) error {
		if len(args) > 0 {
			bundle = args[0]
		}
		spec, err := oci.ReadSpec(bundle)
		if err != nil {
			return err
		}
		plan, err := oci.Compile(bundle, spec, nil)
		if err != nil {
			return err
		}
		_, err = plan.WriteTo(a.out)
		return err
	}
}

func writeSpec(_ *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var bundle string
	alias(flags.StringVar, &bundle, ".", "`DIR` to write config.json to", "bundle", "b")
	rootless := flags.Bool("rootless", false, "for a user without privileges")
	return func(context.Context, []string) error {
		spec := example()
		if *rootless {
			toRootless(spec)
		}
		text, err := json.MarshalIndent(spec, "", "\t")
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(bundle, "config.json"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
		if err != nil {
			return fmt.Errorf("write a configuration: %w", err)
		}
		_, err = f.Write(append(text, '\n'))
		return errors.Join(err, f.Close())
	}
}

// example is a configuration that runs sh on a terminal, with little privilege.
func example() *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	plain := []string{"nosuid", "noexec", "nodev"}
	spec := &specs.Spec{
		Version: specs.Version, Hostname: "gantry", Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Terminal: true, Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append(plain[:3:3], "mode=1777", "size=65536k")},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: plain},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append(plain[:3:3], "ro")},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append(plain[:3:3], "relatime", "ro")},
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "/proc/interrupts", "/sys/devices/virtual/powercap"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if mode, err := cgroup.Detect(); err == nil && mode == cgroup.V2 {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return spec
}

// toRootless maps the caller to root of a user namespace, drops what only the host's root may set, and keeps the host's
// network: without privileges nobody can connect another one.
func toRootless(spec *specs.Spec) {
	linux := spec.Linux
	linux.Namespaces = slices.DeleteFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Geteuid()), Size: 1}}
	linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Getegid()), Size: 1}}
	linux.Resources = nil
	for i, m := range spec.Mounts {
		if m.Destination == "/sys" { // a new one belongs to the network namespace
			spec.Mounts[i] = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
			continue
		}
		spec.Mounts[i].Options = slices.DeleteFunc(m.Options, func(o string) bool { // there is one id
			return strings.HasPrefix(o, "gid=") || strings.HasPrefix(o, "uid=")
		})
	}
}
