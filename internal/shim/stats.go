package shim

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"gantry/cgroup"
)

// Stats is a reading of the container's cgroup in containerd's message for the host's cgroup version: its metrics, and the
// kubelet's statistics, come from here.
func (s service) Stats(_ context.Context, r *task.StatsRequest) (*task.StatsResponse, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	g, err := c.cgroup()
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("statistics of container %s: %w: %w", r.ID, err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	metrics, err := readMetrics(g)
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", r.ID, err)
	}
	value, err := proto.Marshal(metrics)
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", r.ID, err)
	}
	// Containerd's type URLs are the names without a host; see typeurl.
	return &task.StatsResponse{Stats: &anypb.Any{TypeUrl: string(metrics.ProtoReflect().Descriptor().FullName()), Value: value}}, nil
}

func readMetrics(g *cgroup.Group) (proto.Message, error) {
	s, err := g.Stats()
	if err != nil {
		return nil, err
	}
	more, err := g.MoreStats()
	if err != nil {
		return nil, err
	}
	if more.V2 {
		return metricsV2(s, more), nil
	}
	return metricsV1(s, more, blockDevices()), nil
}

// metricsV1 is a reading in containerd's message for cgroup v1. devices are the names of block devices.
func metricsV1(s *cgroup.Stats, more *cgroup.MoreStats, devices map[deviceNumber]string) *stats1.Metrics {
	m := &stats1.Metrics{
		Pids: &stats1.PidsStat{Current: s.Pids.Current, Limit: s.Pids.Limit},
		CPU: &stats1.CPUStat{
			Usage:      &stats1.CPUUsage{Total: uint64(s.CPU.Usage), User: uint64(s.CPU.User), Kernel: uint64(s.CPU.System)},
			Throttling: &stats1.Throttle{Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: uint64(s.CPU.Throttled)},
		},
		Memory: &stats1.MemoryStat{
			HierarchicalSwapLimit: s.Memory.Stat["hierarchical_memsw_limit"],
			Usage:                 entryV1(cgroup.Counter{Usage: s.Memory.Usage, Max: s.Memory.MaxUsage, Limit: s.Memory.Limit, Failcnt: s.Memory.Failcnt}),
			Swap:                  entryV1(more.Swap), Kernel: entryV1(more.Kernel), KernelTCP: entryV1(more.KernelTCP),
		},
		MemoryOomControl: &stats1.MemoryOomControl{},
		Blkio:            &stats1.BlkIOStat{},
		Rdma:             &stats1.RdmaStat{},
	}
	for _, n := range s.CPU.PerCPU {
		m.CPU.Usage.PerCPU = append(m.CPU.Usage.PerCPU, uint64(n))
	}
	fillFields(m.Memory, s.Memory.Stat)
	fillFields(m.MemoryOomControl, more.MemoryEvents)
	for _, size := range slices.Sorted(maps.Keys(more.Hugetlb)) {
		c := more.Hugetlb[size]
		m.Hugetlb = append(m.Hugetlb, &stats1.HugetlbStat{Pagesize: size, Usage: c.Usage, Max: c.Max, Failcnt: c.Failcnt})
	}
	for _, e := range s.Blkio {
		entry := func(n uint64) *stats1.BlkIOEntry {
			return &stats1.BlkIOEntry{Op: e.Op, Device: devices[deviceNumber{e.Major, e.Minor}], Major: e.Major, Minor: e.Minor, Value: n}
		}
		m.Blkio.IoServiceBytesRecursive = append(m.Blkio.IoServiceBytesRecursive, entry(e.Bytes))
		m.Blkio.IoServicedRecursive = append(m.Blkio.IoServicedRecursive, entry(e.Ops))
	}
	for _, list := range []struct {
		from []cgroup.RDMAEntry
		to   *[]*stats1.RdmaEntry
	}{{more.RDMA, &m.Rdma.Current}, {more.RDMALimits, &m.Rdma.Limit}} {
		for _, e := range list.from {
			*list.to = append(*list.to, &stats1.RdmaEntry{Device: e.Device, HcaHandles: e.Handles, HcaObjects: e.Objects})
		}
	}
	return m
}

// entryV1 writes no limit as the kernel does on v1: the largest number of whole pages.
func entryV1(c cgroup.Counter) *stats1.MemoryEntry {
	if c.Limit == math.MaxUint64 {
		page := uint64(os.Getpagesize())
		c.Limit = math.MaxInt64 / page * page
	}
	return &stats1.MemoryEntry{Usage: c.Usage, Max: c.Max, Limit: c.Limit, Failcnt: c.Failcnt}
}

// metricsV2 is a reading in containerd's message for cgroup v2.
func metricsV2(s *cgroup.Stats, more *cgroup.MoreStats) *stats2.Metrics {
	m := &stats2.Metrics{
		Pids: &stats2.PidsStat{Current: s.Pids.Current, Limit: cmp.Or(s.Pids.Limit, math.MaxUint64)},
		CPU: &stats2.CPUStat{
			UsageUsec: uint64(s.CPU.Usage.Microseconds()), UserUsec: uint64(s.CPU.User.Microseconds()), SystemUsec: uint64(s.CPU.System.Microseconds()),
			NrPeriods: s.CPU.Periods, NrThrottled: s.CPU.ThrottledPeriods, ThrottledUsec: uint64(s.CPU.Throttled.Microseconds()),
			NrBursts: s.CPU.Bursts, BurstUsec: uint64(s.CPU.Burst.Microseconds()), PSI: pressureV2(more.CPUPressure),
		},
		Memory: &stats2.MemoryStat{
			Usage: s.Memory.Usage, UsageLimit: s.Memory.Limit, MaxUsage: s.Memory.MaxUsage,
			SwapUsage: s.Memory.SwapUsage, SwapLimit: s.Memory.SwapLimit, SwapMaxUsage: more.SwapMax, PSI: pressureV2(more.MemoryPressure),
		},
		MemoryEvents: &stats2.MemoryEvents{},
		Io:           &stats2.IOStat{PSI: pressureV2(more.IOPressure)},
		Rdma:         &stats2.RdmaStat{},
	}
	fillFields(m.Memory, s.Memory.Stat)
	fillFields(m.MemoryEvents, more.MemoryEvents)
	for _, size := range slices.Sorted(maps.Keys(more.Hugetlb)) {
		c := more.Hugetlb[size]
		m.Hugetlb = append(m.Hugetlb, &stats2.HugeTlbStat{Pagesize: size, Current: c.Usage, Max: c.Limit, Failcnt: c.Failcnt})
	}
	devices := map[deviceNumber]*stats2.IOEntry{}
	for _, e := range s.Blkio {
		number := deviceNumber{e.Major, e.Minor}
		io := devices[number]
		if io == nil {
			io = &stats2.IOEntry{Major: e.Major, Minor: e.Minor}
			devices[number], m.Io.Usage = io, append(m.Io.Usage, io)
		}
		switch e.Op {
		case "Read":
			io.Rbytes, io.Rios = e.Bytes, e.Ops
		case "Write":
			io.Wbytes, io.Wios = e.Bytes, e.Ops
		}
	}
	for _, list := range []struct {
		from []cgroup.RDMAEntry
		to   *[]*stats2.RdmaEntry
	}{{more.RDMA, &m.Rdma.Current}, {more.RDMALimits, &m.Rdma.Limit}} {
		for _, e := range list.from {
			*list.to = append(*list.to, &stats2.RdmaEntry{Device: e.Device, HcaHandles: e.Handles, HcaObjects: e.Objects})
		}
	}
	return m
}

func pressureV2(p *cgroup.Pressure) *stats2.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d cgroup.PressureData) *stats2.PSIData {
		return &stats2.PSIData{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: d.Total}
	}
	return &stats2.PSIStats{Some: data(p.Some), Full: data(p.Full)}
}

// fillFields sets the number fields of a message that have the name of a value, underscores aside: containerd has named
// them after the kernel's.
func fillFields(m proto.Message, values map[string]uint64) {
	byName := make(map[string]uint64, len(values))
	for name, n := range values {
		byName[strings.ReplaceAll(name, "_", "")] = n
	}
	message := m.ProtoReflect()
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if n, found := byName[strings.ReplaceAll(string(field.Name()), "_", "")]; found && field.Kind() == protoreflect.Uint64Kind {
			message.Set(field, protoreflect.ValueOfUint64(n))
		}
	}
}

// deviceNumber is a block device's.
type deviceNumber struct{ major, minor uint64 }

// blockDevices are the paths of the host's block devices; see /proc/partitions in proc(5). Without the file they have none.
func blockDevices() map[deviceNumber]string {
	f, err := os.Open("/proc/partitions")
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	devices := map[deviceNumber]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var n deviceNumber
		var blocks uint64
		var name string
		if _, err := fmt.Sscan(lines.Text(), &n.major, &n.minor, &blocks, &name); err == nil {
			devices[n] = "/dev/" + name
		}
	}
	return devices
}
