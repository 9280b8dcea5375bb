package shim

import (
	"math"
	"strings"
	"testing"
	"time"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"gantry/cgroup"
)

// reading is one in which every value is another.
func reading() (*cgroup.Stats, *cgroup.MoreStats) {
	counter := func(n uint64) cgroup.Counter {
		return cgroup.Counter{Usage: n, Max: n + 1, Limit: n + 2, Failcnt: n + 3}
	}
	pressure := func(n uint64) *cgroup.Pressure {
		data := func(n uint64) cgroup.PressureData {
			return cgroup.PressureData{Avg10: float64(n), Avg60: float64(n) + 1, Avg300: float64(n) + 2, Total: n + 3}
		}
		return &cgroup.Pressure{Some: data(n), Full: data(n + 10)}
	}
	s := &cgroup.Stats{
		CPU: cgroup.CPUStats{
			Usage: time.Second, User: 2 * time.Second, System: 3 * time.Second, PerCPU: []time.Duration{4, 5}, Periods: 6, ThrottledPeriods: 7,
			Throttled: 8 * time.Second, Bursts: 9, Burst: 10 * time.Second,
		},
		Memory: cgroup.MemoryStats{Usage: 11, MaxUsage: 12, Limit: 13, SwapUsage: 14, SwapLimit: 15, Failcnt: 16, Stat: map[string]uint64{}},
		Pids:   cgroup.PidsStats{Current: 17, Limit: 18},
		Blkio:  []cgroup.BlkioEntry{{Major: 8, Minor: 1, Op: "Read", Bytes: 19, Ops: 20}, {Major: 8, Minor: 1, Op: "Write", Bytes: 21, Ops: 22}},
	}
	more := &cgroup.MoreStats{
		Kernel: counter(30), KernelTCP: counter(40), Swap: counter(50), SwapMax: 60, Hugetlb: map[string]cgroup.Counter{"2MB": counter(70), "1GB": counter(80)},
		CPUPressure: pressure(100), MemoryPressure: pressure(200), IOPressure: pressure(300), MemoryEvents: map[string]uint64{},
		RDMA: []cgroup.RDMAEntry{{Device: "mlx5_0", Handles: 90, Objects: 91}}, RDMALimits: []cgroup.RDMAEntry{{Device: "mlx5_0", Handles: 92, Objects: math.MaxUint32}},
	}
	for i, name := range strings.Fields("oom_kill_disable under_oom oom_kill low high max oom oom_group_kill") {
		more.MemoryEvents[name] = uint64(1000 + i)
	}
	return s, more
}

// The kernel's names in memory.stat, of both versions.
const (
	memoryStatV1 = "cache rss rss_huge mapped_file dirty writeback pgpgin pgpgout pgfault pgmajfault inactive_anon active_anon inactive_file active_file unevictable hierarchical_memory_limit hierarchical_memsw_limit"
	memoryStatV2 = `anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon active_anon inactive_file active_file unevictable
		slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_refault workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate
		pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc`
)

// unset lists the fields of a message, and of those in it, that are not set.
func unset(m protoreflect.Message, path string) (list []string) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := path + string(f.Name())
		switch {
		case !m.Has(f):
			list = append(list, name)
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			list = append(list, unset(m.Get(f).List().Get(0).Message(), name+"[0].")...)
		case !f.IsList() && f.Kind() == protoreflect.MessageKind:
			list = append(list, unset(m.Get(f).Message(), name+".")...)
		}
	}
	return list
}

// TestMetricsAreWhole: every field of containerd's messages that the kernel has a number for is set.
func TestMetricsAreWhole(t *testing.T) {
	fill := func(s *cgroup.Stats, names string) {
		for i, name := range strings.Fields(names) {
			s.Memory.Stat[name] = uint64(2000 + i)
		}
	}
	s, more := reading()
	fill(s, memoryStatV1+" total_"+strings.ReplaceAll(memoryStatV1, " ", " total_"))
	v1 := metricsV1(s, more, map[deviceNumber]string{{8, 1}: "/dev/sda1"})
	s, more = reading()
	fill(s, memoryStatV2)
	more.V2 = true
	v2 := metricsV2(s, more)
	for _, c := range []struct {
		message proto.Message
		without string // what containerd-shim-runc-v2 does not set either
	}{
		{v1, "blkio.io_queued_recursive blkio.io_service_time_recursive blkio.io_wait_time_recursive blkio.io_merged_recursive blkio.io_time_recursive blkio.sectors_recursive network cgroup_stats"},
		{v2, "network"},
	} {
		if got := strings.Join(unset(c.message.ProtoReflect(), ""), " "); got != c.without {
			t.Errorf("%T: not set: %s\nwant %s", c.message, got, c.without)
		}
	}
	for what, pair := range map[string][2]any{
		"v1 user":         {v1.GetCPU().GetUsage().GetUser(), uint64(2e9)},
		"v1 kernel":       {v1.GetCPU().GetUsage().GetKernel(), uint64(3e9)},
		"v1 pgpgin":       {v1.GetMemory().GetPgPgIn(), uint64(2006)},
		"v1 memsw limit":  {v1.GetMemory().GetHierarchicalSwapLimit(), uint64(2016)},
		"v1 total cache":  {v1.GetMemory().GetTotalCache(), uint64(2017)},
		"v1 swap max":     {v1.GetMemory().GetSwap().GetMax(), uint64(51)},
		"v1 device":       {v1.GetBlkio().GetIoServicedRecursive()[1].GetDevice(), "/dev/sda1"},
		"v1 write ops":    {v1.GetBlkio().GetIoServicedRecursive()[1].GetValue(), uint64(22)},
		"v1 hugetlb":      {v1.GetHugetlb()[0].GetPagesize(), "1GB"},
		"v2 user":         {v2.GetCPU().GetUserUsec(), uint64(2e6)},
		"v2 pgfault":      {v2.GetMemory().GetPgfault(), uint64(2017)},
		"v2 swap max":     {v2.GetMemory().GetSwapMaxUsage(), uint64(60)},
		"v2 reads":        {v2.GetIo().GetUsage()[0].GetRios(), uint64(20)},
		"v2 devices":      {len(v2.GetIo().GetUsage()), 1},
		"v2 hugetlb":      {v2.GetHugetlb()[1].GetMax(), uint64(72)},
		"v2 pressure":     {v2.GetMemory().GetPSI().GetFull().GetAvg300(), 212.0},
		"v2 rdma":         {v2.GetRdma().GetLimit()[0].GetHcaObjects(), uint32(math.MaxUint32)},
		"v2 events":       {v2.GetMemoryEvents().GetOomGroupKill(), uint64(1007)},
		"v1 oom kills":    {v1.GetMemoryOomControl().GetOomKill(), uint64(1002)},
		"v1 memory limit": {v1.GetMemory().GetUsage().GetLimit(), uint64(13)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", what, pair[0], pair[1])
		}
	}
}

// TestMetricsWithoutLimits: each version has its own word for none.
func TestMetricsWithoutLimits(t *testing.T) {
	s, more := &cgroup.Stats{Memory: cgroup.MemoryStats{Limit: math.MaxUint64, SwapLimit: math.MaxUint64}}, &cgroup.MoreStats{Swap: cgroup.Counter{Limit: math.MaxUint64}}
	var v1 *stats1.Metrics = metricsV1(s, more, nil)
	if m := v1.GetMemory(); m.GetUsage().GetLimit() != m.GetSwap().GetLimit() || m.GetUsage().GetLimit()>>48 != math.MaxInt64>>48 || v1.GetPids().GetLimit() != 0 {
		t.Errorf("v1: %v", v1)
	}
	var v2 *stats2.Metrics = metricsV2(s, more)
	if m := v2.GetMemory(); m.GetUsageLimit() != math.MaxUint64 || m.GetSwapLimit() != math.MaxUint64 || v2.GetPids().GetLimit() != math.MaxUint64 {
		t.Errorf("v2: %v", v2)
	}
}
