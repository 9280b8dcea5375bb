package engine

import (
	"path"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultPath is PATH where neither image nor user sets one; docker's.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// start is everything about one start of a container that its stored configuration does not say.
type start struct {
	ID        string
	Hostname  string
	Image     *dockerspec.DockerOCIImage
	User      specs.User
	Home      string                              // of the user, for HOME
	Cgroup    string                              // path of the container's cgroup
	Mounts    []specs.Mount                       // the user's, sources resolved
	Namespace map[specs.LinuxNamespaceType]string // namespaces to join, by path
	Links     []string                            // environment of linked containers
	Devices   []specs.LinuxDevice                 // of the host, for the container
	Rules     []specs.LinuxDeviceCgroup           // that let it use them
}

// buildSpec compiles a stored configuration into the runtime specification's config.json. It reads nothing from the
// host but what start brings, so the same input gives the same bundle.
func buildSpec(c *container.Config, host *container.HostConfig, s start) (*specs.Spec, error) {
	caps, err := capabilities(host.CapAdd, host.CapDrop, host.Privileged)
	if err != nil {
		return nil, err
	}
	sec, err := parseSecurity(host.SecurityOpt, host.Privileged, caps)
	if err != nil {
		return nil, err
	}
	process, err := buildProcess(c, host, s, caps, sec.noNewPrivileges)
	if err != nil {
		return nil, err
	}
	linux, err := buildLinux(host, s, sec)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{Path: "rootfs", Readonly: host.ReadonlyRootfs},
		Mounts:      append(sharedMemory(systemMounts(host.ShmSize, host.Privileged), host.IpcMode), s.Mounts...),
		Linux:       linux,
		Annotations: host.Annotations,
	}
	if host.UTSMode.IsPrivate() {
		spec.Hostname, spec.Domainname = s.Hostname, c.Domainname
	}
	return spec, nil
}

// initPath is where the first process of a container with --init stands in it; docker's.
const initPath = "/sbin/docker-init"

// wantsInit reports whether the container gets an init. In a pid namespace that it shares it would have nothing to reap.
func wantsInit(host *container.HostConfig) bool {
	return host.Init != nil && *host.Init && host.PidMode.IsPrivate()
}

func buildProcess(c *container.Config, host *container.HostConfig, s start, caps []string, noNewPrivileges bool) (*specs.Process, error) {
	args := command(c, s.Image)
	if len(args) == 0 || args[0] == "" {
		return nil, refuse("No command specified")
	}
	cwd := path.Join("/", c.WorkingDir)
	if c.WorkingDir == "" && s.Image != nil {
		cwd = path.Join("/", s.Image.Config.WorkingDir)
	}
	limits, err := rlimits(host.Ulimits)
	if err != nil {
		return nil, err
	}
	if wantsInit(host) {
		args = append([]string{initPath, "--"}, args...)
	}
	p := &specs.Process{
		Terminal:        c.Tty,
		User:            s.User,
		Args:            args,
		Env:             environment(c, s),
		Cwd:             cwd,
		Rlimits:         limits,
		NoNewPrivileges: noNewPrivileges,
		Capabilities:    processCapabilities(caps, s.User.UID),
	}
	if host.Umask != nil {
		p.User.Umask = host.Umask
	}
	if host.OomScoreAdj != 0 {
		p.OOMScoreAdj = &host.OomScoreAdj
	}
	if c.Tty && host.ConsoleSize != [2]uint{} {
		p.ConsoleSize = &specs.Box{Height: host.ConsoleSize[0], Width: host.ConsoleSize[1]}
	}
	return p, nil
}

// processCapabilities gives root its capabilities, and any other user only the bounding set: inheritable and ambient
// sets stay empty, so that a program run by an ordinary user gains nothing.
func processCapabilities(caps []string, uid uint32) *specs.LinuxCapabilities {
	if uid != 0 {
		return &specs.LinuxCapabilities{Bounding: caps}
	}
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// command joins entrypoint and arguments as docker does: an entrypoint from the request drops the image's arguments,
// and an entrypoint of one empty string drops the image's entrypoint.
func command(c *container.Config, img *dockerspec.DockerOCIImage) []string {
	entrypoint, cmd := c.Entrypoint, c.Cmd
	if img != nil && len(entrypoint) == 0 {
		if entrypoint == nil { // an empty list takes the image's away
			entrypoint = img.Config.Entrypoint
		}
		if len(cmd) == 0 {
			cmd = img.Config.Cmd
		}
	}
	if len(entrypoint) == 1 && entrypoint[0] == "" {
		entrypoint = nil
	}
	return append(append([]string{}, entrypoint...), cmd...)
}

// environment is the image's variables under the request's, with PATH, HOSTNAME, HOME and TERM where nobody set them.
// A request's NAME without = takes the variable away.
func environment(c *container.Config, s start) []string {
	var order []string
	value := map[string]string{}
	set := func(entry string) {
		name, _, found := strings.Cut(entry, "=")
		if name == "" {
			return
		}
		if _, known := value[name]; !known {
			order = append(order, name)
		}
		value[name] = entry
		if !found {
			value[name] = ""
		}
	}
	set(defaultPath)
	set("HOSTNAME=" + s.Hostname)
	if c.Tty {
		set("TERM=xterm")
	}
	for _, entry := range s.Links {
		set(entry)
	}
	if s.Image != nil {
		for _, entry := range s.Image.Config.Env {
			set(entry)
		}
	}
	for _, entry := range c.Env {
		set(entry)
	}
	if _, known := value["HOME"]; !known {
		set("HOME=" + s.Home)
	}
	out := make([]string, 0, len(order))
	for _, name := range order {
		if value[name] != "" {
			out = append(out, value[name])
		}
	}
	return out
}

func buildLinux(host *container.HostConfig, s start, sec security) (*specs.Linux, error) {
	limits, err := resources(&host.Resources)
	if err != nil {
		return nil, err
	}
	linux := &specs.Linux{
		Namespaces:  namespaces(host, s.Namespace),
		CgroupsPath: s.Cgroup,
		Resources:   limits,
		Seccomp:     sec.seccomp,
		Sysctl:      host.Sysctls,
		Devices:     s.Devices,
	}
	if !sec.unmasked {
		linux.MaskedPaths, linux.ReadonlyPaths = maskedPaths, readonlyPaths
		if host.MaskedPaths != nil {
			linux.MaskedPaths = host.MaskedPaths
		}
		if host.ReadonlyPaths != nil {
			linux.ReadonlyPaths = host.ReadonlyPaths
		}
	}
	if host.Privileged {
		limits.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return linux, nil
	}
	limits.Devices = append(deviceRules(), s.Rules...)
	for _, text := range host.DeviceCgroupRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return nil, err
		}
		limits.Devices = append(limits.Devices, rule)
	}
	return linux, nil
}

// namespaces lists what the container gets of its own and what it joins; a host mode leaves the namespace out.
func namespaces(host *container.HostConfig, join map[specs.LinuxNamespaceType]string) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		host bool
	}{
		{specs.PIDNamespace, host.PidMode.IsHost()},
		{specs.NetworkNamespace, host.NetworkMode.IsHost()},
		{specs.IPCNamespace, host.IpcMode.IsHost()},
		{specs.UTSNamespace, host.UTSMode.IsHost()},
		{specs.CgroupNamespace, host.CgroupnsMode == container.CgroupnsModeHost},
	} {
		if !n.host {
			list = append(list, specs.LinuxNamespace{Type: n.kind, Path: join[n.kind]})
		}
	}
	return list
}
