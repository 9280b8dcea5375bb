package engine

import (
	"runtime"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	minMemory     = 6 << 20 // bytes; less does not even start a process reliably
	defaultPeriod = 100_000 // microseconds; the kernel's own default for cpu.cfs_period_us
)

// resources turns docker's limits into the runtime specification's. Fields that are zero there stay nil: no limit.
func resources(r *container.Resources) (*specs.LinuxResources, error) {
	if err := checkLimits(r); err != nil {
		return nil, err
	}
	memory, err := memoryLimits(r)
	if err != nil {
		return nil, err
	}
	cpu, err := cpuLimits(r)
	if err != nil {
		return nil, err
	}
	block, err := blockLimits(r)
	if err != nil {
		return nil, err
	}
	out := &specs.LinuxResources{Memory: memory, CPU: cpu, BlockIO: block}
	if r.PidsLimit != nil {
		limit := *r.PidsLimit
		if limit <= 0 {
			limit = -1
		}
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return out, nil
}

// swapLimit is the limit of memory and swap together: without one that is given, as much swap as memory.
func swapLimit(r *container.Resources) int64 {
	if r.MemorySwap == 0 && r.Memory > 0 {
		return 2 * r.Memory
	}
	return r.MemorySwap
}

func memoryLimits(r *container.Resources) (*specs.LinuxMemory, error) {
	switch {
	case r.Memory != 0 && r.Memory < minMemory:
		return nil, refuse("Minimum memory limit allowed is 6MB")
	case r.MemorySwap > 0 && r.Memory == 0:
		return nil, refuse("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return nil, refuse("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.MemoryReservation != 0 && r.MemoryReservation < minMemory:
		return nil, refuse("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return nil, refuse("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return nil, refuse("Invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	}
	m := &specs.LinuxMemory{}
	if r.Memory > 0 {
		swap := swapLimit(r)
		m.Limit, m.Swap = &r.Memory, &swap
	}
	if r.MemoryReservation > 0 {
		m.Reservation = &r.MemoryReservation
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		swappiness := uint64(*r.MemorySwappiness)
		m.Swappiness = &swappiness
	}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		m.DisableOOMKiller = r.OomKillDisable
	}
	if *m == (specs.LinuxMemory{}) {
		return nil, nil
	}
	return m, nil
}

func cpuLimits(r *container.Resources) (*specs.LinuxCPU, error) {
	switch processors := int64(runtime.NumCPU()); {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return nil, refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return nil, refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0, r.NanoCPUs > processors*1e9:
		return nil, refuse("range of CPUs is from 0.01 to %d.00, as there are only %[1]d CPUs available", processors)
	case r.CPUShares < 0 || r.CPUPeriod < 0 || r.CPUQuota < -1:
		return nil, refuse("CPU shares, period and quota must not be negative")
	}
	c := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		shares := uint64(r.CPUShares)
		c.Shares = &shares
	}
	quota, period := r.CPUQuota, uint64(r.CPUPeriod)
	if r.NanoCPUs > 0 {
		quota, period = r.NanoCPUs*defaultPeriod/1e9, defaultPeriod
		if quota < 1000 {
			return nil, refuse("range of CPUs is from 0.01 to %d.00: %g is less", runtime.NumCPU(), float64(r.NanoCPUs)/1e9)
		}
	}
	if quota != 0 {
		c.Quota = &quota
	}
	if period != 0 {
		c.Period = &period
	}
	if r.CPURealtimeRuntime != 0 {
		c.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	if r.CPURealtimePeriod != 0 {
		rt := uint64(r.CPURealtimePeriod)
		c.RealtimePeriod = &rt
	}
	if *c == (specs.LinuxCPU{}) {
		return nil, nil
	}
	return c, nil
}

func blockLimits(r *container.Resources) (*specs.LinuxBlockIO, error) {
	b := &specs.LinuxBlockIO{}
	if w := r.BlkioWeight; w != 0 {
		if w < 10 || w > 1000 {
			return nil, refuse("Range of blkio weight is from 10 to 1000")
		}
		b.Weight = &w
	}
	for _, d := range r.BlkioWeightDevice {
		if d == nil || d.Weight < 10 || d.Weight > 1000 {
			return nil, refuse("block I/O weight of a device: a path and a weight of 10 to 1000 are needed")
		}
		major, minor, err := blockDevice(d.Path)
		if err != nil {
			return nil, err
		}
		w := specs.LinuxWeightDevice{Weight: &d.Weight}
		w.Major, w.Minor = major, minor
		b.WeightDevice = append(b.WeightDevice, w)
	}
	for _, throttle := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &b.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &b.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &b.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range throttle.from {
			if d == nil {
				return nil, refuse("block I/O limit of a device: a path and a rate are needed")
			}
			major, minor, err := blockDevice(d.Path)
			if err != nil {
				return nil, err
			}
			t := specs.LinuxThrottleDevice{Rate: d.Rate}
			t.Major, t.Minor = major, minor
			*throttle.to = append(*throttle.to, t)
		}
	}
	if b.Weight == nil && b.WeightDevice == nil && b.ThrottleReadBpsDevice == nil && b.ThrottleWriteBpsDevice == nil &&
		b.ThrottleReadIOPSDevice == nil && b.ThrottleWriteIOPSDevice == nil {
		return nil, nil
	}
	return b, nil
}

func blockDevice(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == unix.ENOENT { // in its own words clients take it for a missing command
		return 0, 0, refuse("block I/O limit on %s: there is no such device", path)
	} else if err != nil {
		return 0, 0, refuse("block I/O limit on %s: %v", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, refuse("block I/O limit on %s: not a block device", path)
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}

// rlimits turns docker's ulimits ("nofile=1024:2048") into the runtime specification's ("RLIMIT_NOFILE").
func rlimits(ulimits []*container.Ulimit) ([]specs.POSIXRlimit, error) {
	known := map[string]bool{
		"core": true, "cpu": true, "data": true, "fsize": true, "locks": true, "memlock": true, "msgqueue": true, "nice": true,
		"nofile": true, "nproc": true, "rss": true, "rtprio": true, "rttime": true, "sigpending": true, "stack": true, "as": true,
	}
	var out []specs.POSIXRlimit
	for _, u := range ulimits {
		if u == nil {
			return nil, refuse("a ulimit is null: a name and limits are needed")
		}
		if !known[u.Name] {
			return nil, refuse("invalid ulimit type: %s", u.Name)
		}
		if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
			return nil, refuse("ulimit soft limit must be less than or equal to hard limit: %s=%d:%d", u.Name, u.Soft, u.Hard)
		}
		// -1 becomes RLIM_INFINITY, all bits set.
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return out, nil
}

// deviceRules are the devices cgroup's rules of an ordinary container: everything may be made by mknod, the harmless
// character devices and terminals may be used.
func deviceRules() []specs.LinuxDeviceCgroup {
	rule := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
		if major >= 0 {
			r.Major = &major
		}
		if minor >= 0 {
			r.Minor = &minor
		}
		return r
	}
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		rule("c", -1, -1, "m"), rule("b", -1, -1, "m"),
		rule("c", 1, 3, "rwm"), rule("c", 1, 5, "rwm"), rule("c", 1, 7, "rwm"), // null, zero, full
		rule("c", 1, 8, "rwm"), rule("c", 1, 9, "rwm"), // random, urandom
		rule("c", 5, 0, "rwm"), rule("c", 5, 2, "rwm"), rule("c", 136, -1, "rwm"), // tty, ptmx, pts/*
	}
}

// parseDeviceRule reads --device-cgroup-rule: "c 1:3 rwm", with * for any number.
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	bad := func() (specs.LinuxDeviceCgroup, error) {
		return specs.LinuxDeviceCgroup{}, refuse("invalid device cgroup rule format: '%s': want TYPE MAJOR:MINOR ACCESS", text)
	}
	fields := strings.Fields(text)
	if len(fields) != 3 || len(fields[0]) != 1 || !strings.Contains("abc", fields[0]) || fields[2] == "" || strings.Trim(fields[2], "rwm") != "" {
		return bad()
	}
	out := specs.LinuxDeviceCgroup{Allow: true, Type: fields[0], Access: fields[2]}
	major, minor, found := strings.Cut(fields[1], ":")
	if !found {
		return bad()
	}
	for _, part := range []struct {
		text string
		to   **int64
	}{{major, &out.Major}, {minor, &out.Minor}} {
		if part.text == "*" {
			continue
		}
		n, err := strconv.ParseUint(part.text, 10, 31)
		if err != nil {
			return bad()
		}
		number := int64(n)
		*part.to = &number
	}
	return out, nil
}
