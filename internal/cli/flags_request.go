package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// request turns the flags, the image and the command into the body of POST /containers/create.
func (f *containerFlags) request(image string, command []string) (*container.CreateRequest, error) {
	config, err := f.config(image, command)
	if err != nil {
		return nil, err
	}
	host, err := f.hostConfig()
	if err != nil {
		return nil, err
	}
	if config.ExposedPorts, host.PortBindings, err = parsePorts(f.publish, f.expose); err != nil {
		return nil, err
	}
	if config.Volumes, host.Binds, err = parseVolumes(f.volumes); err != nil {
		return nil, err
	}
	if host.AutoRemove && !host.RestartPolicy.IsNone() {
		return nil, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	mode, networking, err := f.networking()
	if err != nil {
		return nil, err
	}
	host.NetworkMode = mode
	return &container.CreateRequest{Config: config, HostConfig: host, NetworkingConfig: networking}, nil
}

func (f *containerFlags) config(image string, command []string) (*container.Config, error) {
	env, err := environment(f.envFiles, f.env, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	labels, err := labelMap(f.labelFiles, f.labels)
	if err != nil {
		return nil, err
	}
	if len(command) == 0 {
		command = nil // the image's own
	}
	c := &container.Config{
		Hostname: f.hostname, Domainname: f.domainname, User: f.user, Tty: f.tty, OpenStdin: f.interactive,
		Env: env, Cmd: command, Image: image, WorkingDir: f.workdir, Labels: labels, StopSignal: f.stopSignal,
	}
	if err := f.attachTo(c); err != nil {
		return nil, err
	}
	if f.changed("entrypoint") {
		c.Entrypoint = []string{f.entrypoint} // an empty string resets the image's
	}
	if f.changed("stop-timeout") {
		c.StopTimeout = &f.stopTimeout
	}
	if c.Healthcheck, err = f.healthcheck(); err != nil {
		return nil, err
	}
	return c, nil
}

// attachTo decides which streams are attached: those of -a, else all outputs, and the input with -i.
func (f *containerFlags) attachTo(c *container.Config) error {
	for _, stream := range f.attach {
		switch strings.ToLower(stream) {
		case "stdin":
			c.AttachStdin = true
		case "stdout":
			c.AttachStdout = true
		case "stderr":
			c.AttachStderr = true
		default:
			return fmt.Errorf("invalid argument %q for -a: valid streams are STDIN, STDOUT and STDERR", stream)
		}
	}
	if len(f.attach) == 0 {
		c.AttachStdout, c.AttachStderr, c.AttachStdin = true, true, f.interactive
	}
	c.StdinOnce = c.OpenStdin && c.AttachStdin
	return nil
}

// detached makes config that of a container nobody is attached to.
func detached(c *container.Config) {
	c.AttachStdin, c.AttachStdout, c.AttachStderr, c.StdinOnce = false, false, false, false
}

func (f *containerFlags) healthcheck() (*container.HealthConfig, error) {
	given := f.healthCmd != "" || f.healthInterval != 0 || f.healthTimeout != 0 || f.healthStartPeriod != 0 ||
		f.healthRetries != 0 || f.healthStartInterval != 0
	switch {
	case f.noHealthcheck && given:
		return nil, errors.New("--no-healthcheck conflicts with --health-* options")
	case f.noHealthcheck:
		return &container.HealthConfig{Test: []string{"NONE"}}, nil
	case !given:
		return nil, nil
	case f.healthInterval < 0, f.healthTimeout < 0, f.healthStartPeriod < 0, f.healthStartInterval < 0:
		return nil, errors.New("the durations of --health-* cannot be negative")
	case f.healthRetries < 0:
		return nil, errors.New("--health-retries cannot be negative")
	}
	check := &container.HealthConfig{
		Interval: f.healthInterval, Timeout: f.healthTimeout, StartPeriod: f.healthStartPeriod,
		StartInterval: f.healthStartInterval, Retries: f.healthRetries,
	}
	if f.healthCmd != "" {
		check.Test = []string{"CMD-SHELL", f.healthCmd}
	}
	return check, nil
}

func (f *containerFlags) hostConfig() (*container.HostConfig, error) {
	if f.gpus != "" {
		return nil, errors.New("--gpus is not supported: pass the devices with --device")
	}
	resources, err := f.resources()
	if err != nil {
		return nil, err
	}
	h := &container.HostConfig{
		Resources: resources, ContainerIDFile: f.cidfile, AutoRemove: f.rm, Privileged: f.privileged,
		Links: f.links, PublishAllPorts: f.publishAll, OomScoreAdj: f.oomScoreAdj, ReadonlyRootfs: f.readOnly,
		DNSOptions: orEmpty(f.dnsOptions), DNSSearch: orEmpty(f.dnsSearch), VolumesFrom: f.volumesFrom, VolumeDriver: f.volumeDriver,
		IpcMode: container.IpcMode(f.ipc), PidMode: container.PidMode(f.pid), UTSMode: container.UTSMode(f.uts),
		Isolation:  container.Isolation(f.isolation),
		UsernsMode: container.UsernsMode(f.userns), CgroupnsMode: container.CgroupnsMode(f.cgroupns),
		CapAdd: capabilities(f.capAdd), CapDrop: capabilities(f.capDrop), GroupAdd: f.groups, StorageOpt: keyValues(f.storageOpts),
		Sysctls: keyValues(f.sysctls), Runtime: f.runtime, ShmSize: int64(f.shmSize), Tmpfs: parseTmpfs(f.tmpfs),
		LogConfig: container.LogConfig{Type: f.logDriver, Config: keyValues(f.logOpts)}, Annotations: keyValues(f.annotations),
	}
	if f.changed("init") {
		h.Init = &f.init
	}
	for name, valid := range map[string]bool{
		"pid": h.PidMode.Valid(), "uts": h.UTSMode.Valid(), "userns": h.UsernsMode.Valid(),
		"cgroupns": h.CgroupnsMode.Valid(), "ipc": h.IpcMode.Valid(),
	} {
		if !valid {
			return nil, fmt.Errorf("--%s: invalid mode %q", name, f.set.Lookup(name).Value)
		}
	}
	if h.RestartPolicy, err = parseRestart(f.restart); err != nil {
		return nil, err
	}
	if h.DNS, err = parseAddresses("dns", f.dns); err != nil {
		return nil, err
	}
	if h.ExtraHosts, err = parseExtraHosts(f.addHosts); err != nil {
		return nil, err
	}
	if h.Mounts, err = parseMounts(f.mounts); err != nil {
		return nil, err
	}
	return h, f.security(h)
}

func (f *containerFlags) resources() (r container.Resources, err error) {
	r = container.Resources{
		CgroupParent: f.cgroupParent, Memory: int64(f.memory), MemoryReservation: int64(f.memoryReservation),
		MemorySwap: int64(f.memorySwap), MemorySwappiness: &f.memorySwappiness, OomKillDisable: &f.oomKillDisable,
		NanoCPUs: int64(f.cpus), CPUShares: f.cpuShares, CPUPeriod: f.cpuPeriod, CPUQuota: f.cpuQuota,
		CPURealtimePeriod: f.cpuRtPeriod, CPURealtimeRuntime: f.cpuRtRuntime, CpusetCpus: f.cpusetCpus,
		CpusetMems: f.cpusetMems, PidsLimit: &f.pidsLimit, BlkioWeight: f.blkioWeight,
		DeviceCgroupRules: f.deviceRules, Devices: []container.DeviceMapping{},
	}
	if s := f.memorySwappiness; s != -1 && (s < 0 || s > 100) {
		return r, fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", s)
	}
	if r.BlkioWeightDevice, err = parseWeightDevices(f.weightDevices); err != nil {
		return r, err
	}
	if r.BlkioDeviceReadBps, err = parseThrottles(f.readBps, true); err != nil {
		return r, err
	}
	if r.BlkioDeviceWriteBps, err = parseThrottles(f.writeBps, true); err != nil {
		return r, err
	}
	if r.BlkioDeviceReadIOps, err = parseThrottles(f.readIOps, false); err != nil {
		return r, err
	}
	if r.BlkioDeviceWriteIOps, err = parseThrottles(f.writeIOps, false); err != nil {
		return r, err
	}
	if r.Ulimits, err = parseUlimits(f.ulimits); err != nil {
		return r, err
	}
	return r, f.deviceLists(&r)
}

// deviceLists splits --device into paths and names of the Container Device Interface (vendor.com/class=name).
func (f *containerFlags) deviceLists(r *container.Resources) error {
	var cdi []string
	for _, spec := range f.devices {
		if strings.Contains(spec, "=") && !strings.HasPrefix(spec, "/") {
			cdi = append(cdi, spec)
			continue
		}
		device, err := parseDevice(spec)
		if err != nil {
			return err
		}
		r.Devices = append(r.Devices, device)
	}
	if cdi != nil {
		r.DeviceRequests = []container.DeviceRequest{{Driver: "cdi", DeviceIDs: cdi}}
	}
	return nil
}

// orEmpty makes nil an empty list, which is what docker sends.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func parseAddresses(flag string, list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range list {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("invalid argument %q for --%s: not an IP address", s, flag)
		}
		out = append(out, addr)
	}
	return out, nil
}

// capabilities are names as the API has them: upper case, with CAP_, each once, ALL alone.
func capabilities(names []string) []string {
	var out []string
	for _, name := range names {
		name = strings.ToUpper(strings.TrimSpace(name))
		if name == "ALL" {
			return []string{name}
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
