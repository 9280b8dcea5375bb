package engine

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	netapi "github.com/moby/moby/api/types/network"
)

// refuse is an error of the client's making.
func refuse(format string, a ...any) error {
	return fmt.Errorf(format+"%w", append(a, noText{errdefs.ErrInvalidArgument})...)
}

// maxHostname is the kernel's __NEW_UTS_LEN.
const maxHostname = 64

// checkConfig refuses values of a request that no start could honour, in docker's words. The warnings name what has no
// effect here and does no harm.
func checkConfig(c *Config) (warnings []string, err error) {
	config, host := c.Config, c.HostConfig
	switch {
	case config.WorkingDir != "" && !path.IsAbs(config.WorkingDir):
		return nil, refuse("the working directory '%s' is invalid, it needs to be an absolute path", config.WorkingDir)
	case len(config.Hostname) > maxHostname:
		return nil, refuse("hostname %q is too long (maximum %d bytes)", config.Hostname, maxHostname)
	case len(config.Domainname) > maxHostname:
		return nil, refuse("domain name %q is too long (maximum %d bytes)", config.Domainname, maxHostname)
	case host.UTSMode.IsHost() && config.Hostname != "":
		return nil, refuse("conflicting options: hostname and the UTS mode")
	case host.OomScoreAdj < -1000 || host.OomScoreAdj > 1000:
		return nil, refuse("Invalid value %d, range for oom score adj is [-1000, 1000]", host.OomScoreAdj)
	case host.ShmSize < 0:
		return nil, refuse("SHM size can not be less than 0")
	case slices.Contains(strings.Split(host.CgroupParent, "/"), ".."):
		return nil, refuse("parent cgroup %q: .. is not possible", host.CgroupParent)
	case host.Cgroup != "":
		return nil, refuse("joining the cgroup %q is not supported", host.Cgroup)
	}
	if err := checkHealth(config.Healthcheck); err != nil {
		return nil, err
	}
	if err := checkTexts(config, host); err != nil {
		return nil, err
	}
	if err := checkNetwork(c); err != nil {
		return nil, err
	}
	if err := checkSysctls(host.Sysctls); err != nil {
		return nil, err
	}
	if config.ArgsEscaped {
		warnings = append(warnings, "ArgsEscaped has no effect: command lines are lists of words here.")
	}
	if host.IpcMode.IsContainer() {
		warnings = append(warnings, "Message queues, semaphores and System V shared memory are shared with container "+host.IpcMode.Container()+", but not its /dev/shm.")
	}
	if host.NetworkMode.IsHost() && (len(host.PortBindings) > 0 || host.PublishAllPorts) {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	return append(warnings, limitWarnings(&host.Resources)...), nil
}

// limitWarnings names the limits that only other platforms have.
func limitWarnings(r *container.Resources) (list []string) {
	if r.CPUCount != 0 {
		list = append(list, "linux does not support CPU count. Count discarded.")
	}
	if r.CPUPercent != 0 {
		list = append(list, "linux does not support CPU percent. Percent discarded.")
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0 {
		list = append(list, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	return list
}

// checkTexts looks for what cannot be an argument, a variable, a path or a file of a process.
func checkTexts(config *container.Config, host *container.HostConfig) error {
	for _, entry := range config.Env {
		if entry == "" || entry[0] == '=' {
			return refuse("invalid environment variable: %s", entry)
		}
	}
	if _, found := host.Annotations[""]; found {
		return refuse("invalid Annotations: the empty string is not permitted as an annotation key")
	}
	for _, entry := range host.ExtraHosts {
		name, address, found := strings.Cut(entry, ":")
		if !found || name == "" || address == "" {
			return refuse("bad format for add-host: %q", entry)
		}
		if _, err := netip.ParseAddr(strings.Trim(address, "[]")); err != nil && address != "host-gateway" {
			return refuse("invalid IP address in add-host: %q", address)
		}
	}
	for _, a := range host.DNS {
		if !a.IsValid() {
			return refuse("a DNS server's address is missing")
		}
	}
	texts := map[string][]string{
		"command": slices.Concat(config.Entrypoint, config.Cmd), "environment": config.Env,
		"name":   {config.Hostname, config.Domainname, config.User, config.WorkingDir, host.CgroupParent},
		"list":   slices.Concat(host.DNSSearch, host.DNSOptions, host.ExtraHosts, host.GroupAdd, host.MaskedPaths, host.ReadonlyPaths, host.Binds),
		"sysctl": slices.Concat(slices.Collect(maps.Keys(host.Sysctls)), slices.Collect(maps.Values(host.Sysctls))),
		"tmpfs":  slices.Concat(slices.Collect(maps.Keys(host.Tmpfs)), slices.Collect(maps.Values(host.Tmpfs))),
	}
	for _, m := range host.Mounts {
		texts["mount"] = append(texts["mount"], m.Source, m.Target)
	}
	for _, kind := range slices.Sorted(maps.Keys(texts)) {
		for _, s := range texts[kind] {
			if strings.ContainsRune(s, 0) {
				return refuse("%s %q: a NUL byte is not possible", kind, s)
			}
			if kind != "command" && kind != "environment" && strings.ContainsAny(s, "\n\r") {
				return refuse("%s %q: a line break is not possible", kind, s)
			}
		}
	}
	return nil
}

// checkSysctls looks for settings that the kernel does not have. Those of single interfaces are made with them.
func checkSysctls(settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		file := "/proc/sys/" + name
		if !strings.Contains(name, "/") { // else the dots are those of an interface's name; see sysctl(8)
			file = "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		}
		if name == "" || slices.Contains(strings.Split(file, "/"), "..") {
			return refuse("invalid sysctl %q", name)
		}
		if strings.Contains(file, "/conf/") || strings.Contains(file, "/neigh/") {
			continue
		}
		if info, err := os.Stat(file); err != nil || info.IsDir() {
			return refuse("sysctl %s: this kernel has no such setting", name)
		}
	}
	return nil
}

// checkNetwork refuses what cannot be had on the network that is asked for.
func checkNetwork(c *Config) error {
	config, host := c.Config, c.HostConfig
	for port, bindings := range host.PortBindings {
		if !port.IsValid() || port.Num() == 0 {
			return refuse("invalid port specification: %q", port)
		}
		for _, b := range bindings {
			if _, _, err := hostPorts(b.HostPort); err != nil {
				return err
			}
		}
	}
	if host.NetworkMode.IsContainer() {
		for _, option := range []struct {
			name  string
			given bool
		}{
			{"hostname and the network mode", config.Hostname != ""},
			{"dns and the network mode", len(host.DNS) > 0},
			{"custom host-to-IP mapping and the network mode", len(host.ExtraHosts) > 0},
			{"port publishing and the container type network mode", len(host.PortBindings) > 0 || host.PublishAllPorts},
			{"port exposing and the container type network mode", len(config.ExposedPorts) > 0},
			{"endpoint settings and the container type network mode", len(endpointsOf(c)) > 0},
			{"disabling the network and the container type network mode", config.NetworkDisabled},
		} {
			if option.given {
				return refuse("conflicting options: %s", option.name)
			}
		}
	}
	for name, s := range endpointsOf(c) {
		if err := checkEndpoint(host.NetworkMode, name, s); err != nil {
			return err
		}
	}
	return nil
}

func endpointsOf(c *Config) map[string]*netapi.EndpointSettings {
	if c.NetworkingConfig == nil {
		return nil
	}
	return c.NetworkingConfig.EndpointsConfig
}

// checkEndpoint refuses settings of an endpoint that only networks have that this engine cannot make.
func checkEndpoint(mode container.NetworkMode, name string, s *netapi.EndpointSettings) error {
	builtin := name == "default" || name == "bridge" || name == "host" || name == "none"
	switch {
	case !builtin:
		return fmt.Errorf("network %s not found%w", name, noText{errdefs.ErrNotFound})
	case s == nil:
		return nil
	case (mode.IsHost() || mode.IsNone()) && (s.IPAMConfig != nil || len(s.MacAddress) > 0):
		return refuse("conflicting options: an address and the network mode %s", mode)
	case len(s.Links) > 0:
		return refuse("links are not supported: use names on a network")
	case len(s.Aliases) > 0:
		return refuse("network-scoped alias is supported only for containers in user defined networks")
	case len(s.DriverOpts) > 0:
		return refuse("driver options of the endpoint on network %s are not supported", name)
	case s.GwPriority != 0:
		return refuse("a gateway priority on network %s is not supported: a container has one network", name)
	case len(s.MacAddress) != 0 && len(s.MacAddress) != 6:
		return refuse("invalid MAC address %s on network %s", s.MacAddress, name)
	}
	if ipam := s.IPAMConfig; ipam != nil && (ipam.IPv6Address.IsValid() || len(ipam.LinkLocalIPs) > 0) {
		return refuse("IPv6 and link-local addresses on network %s are not supported", name)
	}
	return nil
}

// checkLimits refuses limits that the kernel would, before anything is made. The messages are docker's.
func checkLimits(r *container.Resources) error {
	switch {
	case r.IOMaximumBandwidth != 0:
		return refuse("invalid option: QoS maximum bandwidth configuration is not supported on linux")
	case r.IOMaximumIOps != 0:
		return refuse("invalid option: QoS maximum IOPs configuration is not supported on linux")
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1_000_000):
		return refuse("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPURealtimePeriod < 0, r.CPURealtimeRuntime < 0:
		return refuse("cpu real-time period and runtime must not be negative")
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return refuse("cpu real-time runtime cannot be higher than cpu real-time period")
	}
	for _, set := range []struct{ name, asked, online string }{
		{"CPUs", r.CpusetCpus, "/sys/devices/system/cpu/online"}, {"memory nodes", r.CpusetMems, "/sys/devices/system/node/online"},
	} {
		if err := checkSet(set.name, set.asked, set.online); err != nil {
			return err
		}
	}
	return nil
}

// checkSet compares a list of numbers with the one that the kernel has online.
func checkSet(name, asked, file string) error {
	if asked == "" {
		return nil
	}
	wanted, err := numbers(asked)
	if err != nil {
		return refuse("Invalid value %s for cpuset %s: %v", asked, strings.ToLower(strings.Replace(name, "memory nodes", "mems", 1)), err)
	}
	text, err := os.ReadFile(file)
	if err != nil { // a kernel without NUMA has one node
		text = []byte("0")
	}
	online := strings.TrimSpace(string(text))
	there, err := numbers(online)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for n := range wanted {
		if !there[n] {
			return refuse("Requested %s are not available - requested %s, available: %s", name, asked, online)
		}
	}
	return nil
}

// maxNumber bounds the numbers of processors and memory nodes.
const maxNumber = 8192

// numbers reads a list like 0-2,7; see cpuset(7), List format.
func numbers(text string) (map[int]bool, error) {
	set := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err1 := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || first > last || last > maxNumber {
			return nil, fmt.Errorf("invalid format: %s", text)
		}
		for n := first; n <= last; n++ {
			set[int(n)] = true
		}
	}
	return set, nil
}
