package main

import (
	"context"
	"flag"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"gantry/internal/version"
	"gantry/oci"
	"gantry/oci/seccomp"
)

// printFeatures tells what this runtime can; see the specification's features.md.
func printFeatures(a *app, _ *flag.FlagSet) func(context.Context, []string) error {
	yes := true
	return func(context.Context, []string) error {
		known, supported := seccomp.Flags()
		modes, flags := oci.MemoryPolicies()
		return a.printJSON(&features.Features{
			OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
			Hooks:        []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
			MountOptions: oci.MountOptions(),
			Linux: &features.Linux{
				Namespaces: []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"}, Capabilities: oci.Capabilities(),
				Cgroup: &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
				Seccomp: &features.Seccomp{
					Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(), Archs: seccomp.Architectures(),
					KnownFlags: known, SupportedFlags: supported,
				},
				Apparmor: &features.Apparmor{Enabled: &yes}, Selinux: &features.Selinux{Enabled: &yes},
				IntelRdt:     &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
				MemoryPolicy: &features.MemoryPolicy{Modes: modes, Flags: flags},
			},
			PotentiallyUnsafeConfigAnnotations: []string{"org.criu.config"},
			Annotations: map[string]string{
				"io.gantry.version": version.Version,
				// By this name docker and others ask whether they may checkpoint.
				"org.opencontainers.runc.checkpoint.enabled": "true",
			},
		})
	}
}
