package engine

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func testImage() *dockerspec.DockerOCIImage {
	img := &dockerspec.DockerOCIImage{}
	img.Config.Entrypoint = []string{"/entry"}
	img.Config.Cmd = []string{"default"}
	img.Config.Env = []string{"A=image", "B=image", "PATH=/bin"}
	img.Config.WorkingDir = "/srv"
	return img
}

func TestCommand(t *testing.T) {
	for name, tc := range map[string]struct {
		entrypoint, cmd []string
		want            []string
	}{
		"image":             {want: []string{"/entry", "default"}},
		"arguments":         {cmd: []string{"x"}, want: []string{"/entry", "x"}},
		"entrypoint":        {entrypoint: []string{"/e"}, want: []string{"/e"}},
		"both":              {entrypoint: []string{"/e"}, cmd: []string{"x"}, want: []string{"/e", "x"}},
		"entrypoint erased": {entrypoint: []string{""}, cmd: []string{"x"}, want: []string{"x"}},
	} {
		if got := command(&container.Config{Entrypoint: tc.entrypoint, Cmd: tc.cmd}, testImage()); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := environment(&container.Config{Tty: true, Env: []string{"A=request", "B", "C=", "=x", "D=1=2"}},
		start{Hostname: "box", Home: "/root", Image: testImage()})
	want := []string{"PATH=/bin", "HOSTNAME=box", "TERM=xterm", "A=request", "C=", "D=1=2", "HOME=/root"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestBuildSpec(t *testing.T) {
	config := &container.Config{User: "app"}
	host := &container.HostConfig{NetworkMode: "host", CapAdd: []string{"NET_ADMIN"}, ReadonlyRootfs: true}
	host.Memory = 64 << 20
	spec, err := buildSpec(config, host, start{
		ID: "abc", Hostname: "box", Image: testImage(), User: specs.User{UID: 1000, GID: 1000}, Cgroup: "/gantry/abc",
		Namespace: map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "/proc/7/ns/pid"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if spec.Process.Cwd != "/srv" || spec.Hostname != "box" || !spec.Root.Readonly || spec.Linux.CgroupsPath != "/gantry/abc" {
		t.Errorf("cwd %q, hostname %q, read-only %v, cgroup %q", spec.Process.Cwd, spec.Hostname, spec.Root.Readonly, spec.Linux.CgroupsPath)
	}
	caps := spec.Process.Capabilities
	if len(caps.Effective)+len(caps.Permitted)+len(caps.Inheritable)+len(caps.Ambient) != 0 || !slices.Contains(caps.Bounding, "CAP_NET_ADMIN") {
		t.Errorf("an ordinary user has %+v", caps)
	}
	if *spec.Linux.Resources.Memory.Limit != 64<<20 || spec.Linux.Resources.Devices[0].Allow {
		t.Errorf("resources %+v", spec.Linux.Resources)
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			t.Error("host network, but a network namespace")
		}
		if n.Type == specs.PIDNamespace && n.Path != "/proc/7/ns/pid" {
			t.Errorf("pid namespace path %q", n.Path)
		}
	}
	if spec.Linux.Seccomp == nil || len(spec.Linux.MaskedPaths) == 0 {
		t.Error("not confined")
	}
}

func TestPrivilegedSpec(t *testing.T) {
	spec, err := buildSpec(&container.Config{Cmd: []string{"sh"}}, &container.HostConfig{Privileged: true}, start{})
	if err != nil {
		t.Fatal(err)
	}
	if spec.Linux.Seccomp != nil || spec.Linux.MaskedPaths != nil || !slices.Contains(spec.Process.Capabilities.Effective, "CAP_SYS_ADMIN") {
		t.Error("privileged, but confined")
	}
	if !spec.Linux.Resources.Devices[0].Allow {
		t.Error("privileged, but devices are denied")
	}
}

func TestSpecWithoutCommand(t *testing.T) {
	_, err := buildSpec(&container.Config{}, &container.HostConfig{}, start{})
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("got %v, want an invalid argument", err)
	}
}
