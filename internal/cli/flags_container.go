package cli

import (
	"time"

	"github.com/spf13/pflag"
)

// containerFlags are the flags of run and create that describe the container.
type containerFlags struct {
	attach                               []string
	env, envFiles, labels, labelFiles    []string
	volumes, mounts, tmpfs, volumesFrom  []string
	publish, expose                      []string
	networks, networkAliases, links      []string
	linkLocalIPs                         []string
	addHosts, dns, dnsSearch, dnsOptions []string
	capAdd, capDrop, securityOpts        []string
	devices, deviceRules, groups         []string
	ulimits, sysctls, storageOpts        []string
	logOpts, annotations                 []string
	weightDevices                        []string
	readBps, writeBps                    []string
	readIOps, writeIOps                  []string

	tty, interactive, privileged, readOnly bool
	publishAll, init, oomKillDisable, rm   bool
	noHealthcheck                          bool

	user, workdir, entrypoint, hostname, domainname string
	pid, ipc, uts, userns, cgroupns, cgroupParent   string
	restart, stopSignal, logDriver, volumeDriver    string
	runtime, isolation, ip, ip6, mac, gpus          string
	cpusetCpus, cpusetMems, cidfile                 string

	memory, memoryReservation, shmSize, kernelMemory sizeValue
	memorySwap                                       swapValue
	cpus                                             cpusValue
	cpuShares, cpuPeriod, cpuQuota                   int64
	cpuRtPeriod, cpuRtRuntime, pidsLimit             int64
	memorySwappiness                                 int64
	oomScoreAdj, stopTimeout                         int
	blkioWeight                                      uint16

	healthCmd                              string
	healthInterval, healthTimeout          time.Duration
	healthStartPeriod, healthStartInterval time.Duration
	healthRetries                          int
	set                                    *pflag.FlagSet // to tell a flag that was given from a default
}

// changed reports whether the user gave the flag.
func (f *containerFlags) changed(name string) bool { return f.set != nil && f.set.Changed(name) }

// register adds the flags, under docker's names, to set.
func (f *containerFlags) register(set *pflag.FlagSet) {
	f.set = set
	set.SetInterspersed(false)
	set.Bool("help", false, "Print usage") // docker gives -h to the host name
	f.registerProcess(set)
	f.registerStorage(set)
	f.registerNetwork(set)
	f.registerSecurity(set)
	f.registerLimits(set)
	f.registerLifecycle(set)
}

func (f *containerFlags) registerProcess(set *pflag.FlagSet) {
	set.StringArrayVarP(&f.attach, "attach", "a", nil, "Attach to STDIN, STDOUT or STDERR")
	set.BoolVarP(&f.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	set.BoolVarP(&f.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	set.StringArrayVarP(&f.env, "env", "e", nil, "Set environment variables")
	set.StringArrayVar(&f.envFiles, "env-file", nil, "Read in a file of environment variables")
	set.StringVarP(&f.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	set.StringArrayVar(&f.groups, "group-add", nil, "Add additional groups to join")
	set.StringVarP(&f.workdir, "workdir", "w", "", "Working directory inside the container")
	set.StringVar(&f.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	set.StringArrayVarP(&f.labels, "label", "l", nil, "Set meta data on a container")
	set.StringArrayVar(&f.labelFiles, "label-file", nil, "Read in a line delimited file of labels")
	set.StringArrayVar(&f.annotations, "annotation", nil, "Add an annotation to the container (passed through to the OCI runtime)")
	set.BoolVar(&f.init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
}

func (f *containerFlags) registerStorage(set *pflag.FlagSet) {
	set.StringArrayVarP(&f.volumes, "volume", "v", nil, "Bind mount a volume")
	set.StringArrayVar(&f.mounts, "mount", nil, "Attach a filesystem mount to the container")
	set.StringArrayVar(&f.tmpfs, "tmpfs", nil, "Mount a tmpfs directory")
	set.StringArrayVar(&f.volumesFrom, "volumes-from", nil, "Mount volumes from the specified container(s)")
	set.StringVar(&f.volumeDriver, "volume-driver", "", "Optional volume driver for the container")
	set.BoolVar(&f.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
	set.StringArrayVar(&f.storageOpts, "storage-opt", nil, "Storage driver options for the container")
	set.Var(&f.shmSize, "shm-size", "Size of /dev/shm")
	set.StringArrayVar(&f.devices, "device", nil, "Add a host device to the container")
	set.StringArrayVar(&f.deviceRules, "device-cgroup-rule", nil, "Add a rule to the cgroup allowed devices list")
	set.StringVar(&f.gpus, "gpus", "", "GPU devices to add to the container (not supported)")
}

func (f *containerFlags) registerNetwork(set *pflag.FlagSet) {
	set.StringArrayVarP(&f.publish, "publish", "p", nil, "Publish a container's port(s) to the host")
	set.BoolVarP(&f.publishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
	set.StringArrayVar(&f.expose, "expose", nil, "Expose a port or a range of ports")
	set.StringArrayVar(&f.networks, "network", nil, "Connect a container to a network")
	set.StringArrayVar(&f.networks, "net", nil, "Connect a container to a network")
	_ = set.MarkHidden("net")
	set.StringArrayVar(&f.networkAliases, "network-alias", nil, "Add network-scoped alias for the container")
	set.StringArrayVar(&f.networkAliases, "net-alias", nil, "Add network-scoped alias for the container")
	_ = set.MarkHidden("net-alias")
	set.StringArrayVar(&f.links, "link", nil, "Add link to another container")
	set.StringVar(&f.ip, "ip", "", "IPv4 address (e.g., 172.30.100.104)")
	set.StringVar(&f.ip6, "ip6", "", "IPv6 address (e.g., 2001:db8::33)")
	set.StringArrayVar(&f.linkLocalIPs, "link-local-ip", nil, "Container IPv4/IPv6 link-local addresses")
	set.StringVar(&f.mac, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")
	set.StringVarP(&f.hostname, "hostname", "h", "", "Container host name")
	set.StringVar(&f.domainname, "domainname", "", "Container NIS domain name")
	set.StringArrayVar(&f.addHosts, "add-host", nil, "Add a custom host-to-IP mapping (host:ip)")
	set.StringArrayVar(&f.dns, "dns", nil, "Set custom DNS servers")
	set.StringArrayVar(&f.dnsSearch, "dns-search", nil, "Set custom DNS search domains")
	set.StringArrayVar(&f.dnsOptions, "dns-option", nil, "Set DNS options")
	set.StringArrayVar(&f.dnsOptions, "dns-opt", nil, "Set DNS options")
	_ = set.MarkHidden("dns-opt")
}

func (f *containerFlags) registerSecurity(set *pflag.FlagSet) {
	set.StringArrayVar(&f.capAdd, "cap-add", nil, "Add Linux capabilities")
	set.StringArrayVar(&f.capDrop, "cap-drop", nil, "Drop Linux capabilities")
	set.BoolVar(&f.privileged, "privileged", false, "Give extended privileges to this container")
	set.StringArrayVar(&f.securityOpts, "security-opt", nil, "Security Options")
	set.StringArrayVar(&f.sysctls, "sysctl", nil, "Sysctl options")
	set.StringVar(&f.pid, "pid", "", "PID namespace to use")
	set.StringVar(&f.ipc, "ipc", "", "IPC mode to use")
	set.StringVar(&f.uts, "uts", "", "UTS namespace to use")
	set.StringVar(&f.userns, "userns", "", "User namespace to use")
	set.StringVar(&f.cgroupns, "cgroupns", "", "Cgroup namespace to use (host|private)")
	set.StringVar(&f.isolation, "isolation", "", "Container isolation technology")
	set.StringVar(&f.runtime, "runtime", "", "Runtime to use for this container")
}

func (f *containerFlags) registerLimits(set *pflag.FlagSet) {
	set.VarP(&f.memory, "memory", "m", "Memory limit")
	set.Var(&f.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	set.Var(&f.memoryReservation, "memory-reservation", "Memory soft limit")
	set.Int64Var(&f.memorySwappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	set.Var(&f.kernelMemory, "kernel-memory", "Kernel memory limit")
	_ = set.MarkDeprecated("kernel-memory", "kernels no longer have this limit; it is ignored")
	set.BoolVar(&f.oomKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	set.IntVar(&f.oomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	set.Var(&f.cpus, "cpus", "Number of CPUs")
	set.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	set.Int64Var(&f.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	set.Int64Var(&f.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	set.Int64Var(&f.cpuRtPeriod, "cpu-rt-period", 0, "Limit CPU real-time period in microseconds")
	set.Int64Var(&f.cpuRtRuntime, "cpu-rt-runtime", 0, "Limit CPU real-time runtime in microseconds")
	set.StringVar(&f.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	set.StringVar(&f.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	set.Int64Var(&f.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	set.Uint16Var(&f.blkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	set.StringArrayVar(&f.weightDevices, "blkio-weight-device", nil, "Block IO weight (relative device weight)")
	set.StringArrayVar(&f.readBps, "device-read-bps", nil, "Limit read rate (bytes per second) from a device")
	set.StringArrayVar(&f.writeBps, "device-write-bps", nil, "Limit write rate (bytes per second) to a device")
	set.StringArrayVar(&f.readIOps, "device-read-iops", nil, "Limit read rate (IO per second) from a device")
	set.StringArrayVar(&f.writeIOps, "device-write-iops", nil, "Limit write rate (IO per second) to a device")
	set.StringArrayVar(&f.ulimits, "ulimit", nil, "Ulimit options")
	set.StringVar(&f.cgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
}

func (f *containerFlags) registerLifecycle(set *pflag.FlagSet) {
	set.BoolVar(&f.rm, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	set.StringVar(&f.restart, "restart", "no", "Restart policy to apply when a container exits")
	set.StringVar(&f.stopSignal, "stop-signal", "", "Signal to stop the container")
	set.IntVar(&f.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	set.StringVar(&f.logDriver, "log-driver", "", "Logging driver for the container")
	set.StringArrayVar(&f.logOpts, "log-opt", nil, "Log driver options")
	set.StringVar(&f.cidfile, "cidfile", "", "Write the container ID to the file")
	set.StringVar(&f.healthCmd, "health-cmd", "", "Command to run to check health")
	set.DurationVar(&f.healthInterval, "health-interval", 0, "Time between running the check (ms|s|m|h)")
	set.DurationVar(&f.healthTimeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h)")
	set.DurationVar(&f.healthStartPeriod, "health-start-period", 0, "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)")
	set.DurationVar(&f.healthStartInterval, "health-start-interval", 0, "Time between running the check during the start period (ms|s|m|h)")
	set.IntVar(&f.healthRetries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
	set.BoolVar(&f.noHealthcheck, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")
}
