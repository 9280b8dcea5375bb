package cgroup

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// unifiedBytes are v2's files that systemd has a property for, with the same number.
var unifiedBytes = map[string]string{
	"cpu.weight": "CPUWeight", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin", "memory.max": "MemoryMax",
	"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax",
}

// unifiedProperties are those of linux.resources.unified that systemd knows; the group gets all of them.
func unifiedProperties(unified map[string]string, version func() int) ([]property, error) {
	var list []property
	idle := strings.TrimSpace(unified["cpu.idle"]) == "1" && version() >= idleVersion
	for _, file := range slices.Sorted(maps.Keys(unified)) {
		value := strings.TrimSpace(unified[file])
		failed := func(err error) error { return fmt.Errorf("unified %s %q: %w", file, value, err) }
		switch name := unifiedBytes[file]; {
		case file == "cpu.idle" && idle:
			list = append(list, numberProperty("CPUWeight", 0))
		case file == "cpu.weight" && idle:
		case name != "":
			n, err := numberOrMax(value)
			if err != nil {
				return nil, failed(err)
			}
			if file == "pids.max" {
				n = max(n, 1)
			}
			list = append(list, numberProperty(name, n))
		case file == "cpu.max":
			more, err := quotaOf(value)
			if err != nil {
				return nil, failed(err)
			}
			list = append(list, more...)
		case file == "cpuset.cpus", file == "cpuset.mems":
			bits, err := bitmap(value)
			if err != nil {
				return nil, failed(err)
			}
			name := map[string]string{"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}[file]
			list = append(list, bitsProperty(name, bits))
		}
	}
	return list, nil
}

func numberOrMax(value string) (uint64, error) {
	if value == "max" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(value, 10, 64)
}

// quotaOf reads cpu.max: "max" or microseconds, and the period.
func quotaOf(value string) ([]property, error) {
	fields := strings.Fields(value)
	if len(fields) < 1 || len(fields) > 2 {
		return nil, fmt.Errorf("want a quota and a period")
	}
	quota, period := int64(0), uint64(100_000)
	var err error
	if fields[0] != "max" {
		if quota, err = strconv.ParseInt(fields[0], 10, 64); err != nil {
			return nil, err
		}
	}
	if len(fields) == 2 {
		if period, err = strconv.ParseUint(fields[1], 10, 64); err != nil {
			return nil, err
		}
	}
	return quotaProperties(quota, period), nil
}

// oomPolicy is what systemd is to do after an out-of-memory kill, which it takes at the unit's start alone.
func oomPolicy(res *specs.LinuxResources, version func() int) ([]property, error) {
	if res == nil {
		return nil, nil
	}
	value, given := res.Unified["memory.oom.group"]
	const scopesHaveIt = 253
	if !given || version() < scopesHaveIt {
		return nil, nil
	}
	policy, known := map[string]string{"0": "continue", "1": "kill"}[strings.TrimSpace(value)]
	if !known {
		return nil, fmt.Errorf("unified memory.oom.group %q: want 0 or 1", value)
	}
	return []property{textProperty("OOMPolicy", policy)}, nil
}
