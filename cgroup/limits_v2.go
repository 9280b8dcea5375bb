package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// settingsV2 are a specification's limits as v2 wants them; see the kernel's admin-guide/cgroup-v2.
func settingsV2(res *specs.LinuxResources) ([]setting, error) {
	l, err := memoryV2(nil, res.Memory)
	if err != nil {
		return nil, err
	}
	if l, err = cpuV2(l, res.CPU); err != nil {
		return nil, err
	}
	l = pids(l, res.Pids)
	l = hugepages(l, res.HugepageLimits, func(size string) string { return "hugetlb." + size + ".max" })
	l = blockV2(l, res.BlockIO)
	l = rdma(l, res.Rdma)
	if n := res.Network; n != nil && (n.ClassID != nil || len(n.Priorities) > 0) {
		return nil, errors.New("network.classID and network.priorities need cgroup v1")
	}
	for _, file := range slices.Sorted(maps.Keys(res.Unified)) {
		if strings.Contains(file, "/") {
			return nil, fmt.Errorf("unified: %q is not the name of a file", file)
		}
		controller, _, _ := strings.Cut(file, ".")
		l = append(l, setting{controller: controller, file: file, field: "unified " + file, value: res.Unified[file]})
	}
	return l, nil
}

// limit is a byte count in v2's words: -1 is "max".
func limit(n int64) string {
	if n < 0 {
		return "max"
	}
	return fmt.Sprint(n)
}

func memoryV2(l []setting, m *specs.LinuxMemory) ([]setting, error) {
	if m == nil {
		return l, nil
	}
	if m.KernelTCP != nil && *m.KernelTCP != 0 {
		return nil, errors.New("memory.kernelTCP needs cgroup v1")
	}
	if m.Swap != nil && *m.Swap != 0 {
		value := "max"
		if *m.Swap > 0 {
			// The specification counts memory and swap together, v2 swap alone.
			if m.Limit == nil || *m.Limit < 0 || *m.Limit > *m.Swap {
				return nil, fmt.Errorf("memory.swap %d: it is the sum of memory and swap, and must not be below memory.limit", *m.Swap)
			}
			value = fmt.Sprint(*m.Swap - *m.Limit)
		}
		l = append(l, setting{controller: "memory", file: "memory.swap.max", field: "memory.swap", value: value, optional: value == "0" || value == "max"})
	}
	if m.Limit != nil && *m.Limit != 0 {
		l = text(l, "memory", "memory.max", "memory.limit", limit(*m.Limit))
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		l = text(l, "memory", "memory.low", "memory.reservation", limit(*m.Reservation))
	}
	return l, nil
}

func cpuV2(l []setting, c *specs.LinuxCPU) ([]setting, error) {
	if c == nil {
		return l, nil
	}
	if (c.RealtimePeriod != nil && *c.RealtimePeriod != 0) || (c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0) {
		return nil, errors.New("cpu.realtimePeriod and cpu.realtimeRuntime need cgroup v1")
	}
	if c.Idle != nil {
		l = number(l, "cpu", "cpu.idle", "cpu.idle", c.Idle)
	}
	if c.Shares != nil && *c.Shares != 0 && (c.Idle == nil || *c.Idle == 0) {
		l = text(l, "cpu", "cpu.weight", "cpu.shares", fmt.Sprint(weight(*c.Shares)))
	}
	if (c.Quota != nil && *c.Quota != 0) || (c.Period != nil && *c.Period != 0) {
		quota, period := "max", uint64(100_000)
		if c.Quota != nil && *c.Quota > 0 {
			quota = fmt.Sprint(*c.Quota)
		}
		if c.Period != nil && *c.Period != 0 {
			period = *c.Period
		}
		l = text(l, "cpu", "cpu.max", "cpu.quota", fmt.Sprintf("%s %d", quota, period))
	}
	l = number(l, "cpu", "cpu.max.burst", "cpu.burst", c.Burst)
	l = text(l, "cpuset", "cpuset.cpus", "cpu.cpus", c.Cpus)
	return text(l, "cpuset", "cpuset.mems", "cpu.mems", c.Mems), nil
}

// weight turns v1's cpu.shares (2 to 262144, usually 1024) into v2's cpu.weight (1 to 10000, usually 100), so that
// the usual values meet: the formula that runtimes agreed on.
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	x := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (x*x+125*x)/612-7.0/34)))
}

func blockV2(l []setting, b *specs.LinuxBlockIO) []setting {
	if b == nil {
		return l
	}
	if b.Weight != nil && *b.Weight != 0 {
		l = text(l, "io", "io.bfq.weight", "blockIO.weight", fmt.Sprint(*b.Weight))
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil {
			l = text(l, "io", "io.bfq.weight", "blockIO.weightDevice", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
	}
	for _, t := range transferLimits(b) {
		for _, d := range t.devices {
			l = text(l, "io", "io.max", t.field, fmt.Sprintf("%d:%d %s=%d", d.Major, d.Minor, t.key, d.Rate))
		}
	}
	return l
}
