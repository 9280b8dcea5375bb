package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gantry/rawfile"
)

// MoreStats are readings that few ask for, so that Stats stays quick. JSON names are those of runc's events.
type MoreStats struct {
	V2                bool
	Kernel, KernelTCP Counter // of memory; v1 only
	Swap              Counter // memory and swap together, also on v2
	SwapMax           uint64  // most swap alone; v2 only
	Hugetlb           map[string]Counter
	// MemoryEvents are v2's memory.events, or v1's memory.oom_control.
	MemoryEvents map[string]uint64
	// RDMA is what the group has of each device, RDMALimits what it may have.
	RDMA, RDMALimits []RDMAEntry
	// PerCPUUser and PerCPUKernel are nanoseconds by processor; v1 only.
	PerCPUUser, PerCPUKernel []uint64
	CPUSet                   CPUSetStats
	// Pressure is nil where the kernel does not measure it; v2 only.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// Counter is use, its maximum, its limit and how often that was hit; bytes.
type Counter struct{ Usage, Max, Limit, Failcnt uint64 }

// RDMAEntry are resources of one device; math.MaxUint32: no limit.
type RDMAEntry struct {
	Device           string
	Handles, Objects uint32
}

// CPUSetStats are processors, memory nodes and v1's switches; see cpuset(7).
type CPUSetStats struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

// Pressure is how long tasks waited for a resource: some of them, or all; see the kernel's accounting/psi.
type Pressure struct {
	Some PressureData `json:"some"`
	Full PressureData `json:"full"`
}

// PressureData are percent of the last 10, 60 and 300 seconds, and a sum in microseconds.
type PressureData struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// MoreStats reads them; what the kernel does not offer is zero.
func (g *Group) MoreStats() (*MoreStats, error) {
	r := &reader{}
	s := &MoreStats{V2: g.host.mode() == V2, Hugetlb: r.hugetlb(g.host.dir("hugetlb", g.path))}
	if rdma := g.host.dir("rdma", g.path); rdma != "" {
		s.RDMA, s.RDMALimits = r.rdma(rdma, "rdma.current"), r.rdma(rdma, "rdma.max")
	}
	cpuset := g.host.dir("cpuset", g.path)
	s.CPUSet.CPUs, s.CPUSet.Mems = r.ranges(cpuset, "cpuset.cpus"), r.ranges(cpuset, "cpuset.mems")
	if s.V2 {
		dir := filepath.Join(g.host.unified.mount, g.path)
		s.Swap, s.SwapMax, s.MemoryEvents = r.swapV2(dir), r.number(dir, "memory.swap.peak"), r.pairs(dir, "memory.events")
		s.CPUPressure, s.MemoryPressure, s.IOPressure = r.pressure(dir, "cpu"), r.pressure(dir, "memory"), r.pressure(dir, "io")
	} else {
		memory := g.host.dir("memory", g.path)
		s.Kernel, s.KernelTCP = r.counter(memory, "memory.kmem.", "_in_bytes"), r.counter(memory, "memory.kmem.tcp.", "_in_bytes")
		s.Swap = r.counter(memory, "memory.memsw.", "_in_bytes")
		s.Swap.Limit = unlimited(s.Swap.Limit)
		s.MemoryEvents = r.pairs(memory, "memory.oom_control")
		s.PerCPUUser, s.PerCPUKernel = r.perCPU(g.host.dir("cpuacct", g.path))
		s.CPUSet.switches(r, cpuset)
	}
	if r.err != nil {
		return nil, fmt.Errorf("read statistics of cgroup %s: %w", g.path, r.err)
	}
	return s, nil
}

// swapV2 adds swap, which v2 counts alone, to memory.
func (r *reader) swapV2(dir string) Counter {
	c := Counter{Usage: r.number(dir, "memory.current") + r.number(dir, "memory.swap.current"), Limit: unlimited(r.max(dir, "memory.swap.max"))}
	if memory := unlimited(r.max(dir, "memory.max")); memory == math.MaxUint64 || c.Limit == math.MaxUint64 {
		c.Limit = math.MaxUint64
	} else {
		c.Limit += memory
	}
	c.Failcnt = r.pairs(dir, "memory.swap.events")["max"]
	return c
}

// perCPU reads cpuacct.usage_all, a table "cpu user system" with a line for each processor.
func (r *reader) perCPU(dir string) (user, kernel []uint64) {
	if dir == "" {
		return nil, nil
	}
	text, err := rawfile.Read(filepath.Join(dir, "cpuacct.usage_all"))
	r.note(err)
	_, table, _ := strings.Cut(string(text), "\n")
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		u, err := strconv.ParseUint(f[1], 10, 64)
		r.note(err)
		k, err := strconv.ParseUint(f[2], 10, 64)
		r.note(err)
		user, kernel = append(user, u), append(kernel, k)
	}
	return user, kernel
}

func (s *CPUSetStats) switches(r *reader, dir string) {
	for file, to := range map[string]*uint64{
		"cpu_exclusive": &s.CPUExclusive, "mem_hardwall": &s.MemHardwall, "mem_exclusive": &s.MemExclusive, "memory_migrate": &s.MemoryMigrate,
		"memory_spread_page": &s.MemorySpreadPage, "memory_spread_slab": &s.MemorySpreadSlab, "memory_pressure": &s.MemoryPressure,
		"sched_load_balance": &s.SchedLoadBalance,
	} {
		*to = r.number(dir, "cpuset."+file)
	}
	if dir == "" {
		return
	}
	text, err := rawfile.Read(filepath.Join(dir, "cpuset.sched_relax_domain_level"))
	r.note(err)
	s.SchedRelaxDomainLevel, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // the kernel writes numbers
}

func (r *reader) counter(dir, prefix, suffix string) Counter {
	return Counter{
		Usage: r.number(dir, prefix+"usage"+suffix), Max: r.number(dir, prefix+"max_usage"+suffix),
		Limit: r.number(dir, prefix+"limit"+suffix), Failcnt: r.number(dir, prefix+"failcnt"),
	}
}

// hugetlb reads every size of page that the kernel has.
func (r *reader) hugetlb(dir string) map[string]Counter {
	if dir == "" {
		return nil
	}
	files, err := os.ReadDir(dir)
	r.note(err)
	sizes := map[string]Counter{}
	for _, f := range files {
		name, found := strings.CutPrefix(f.Name(), "hugetlb.")
		if !found {
			continue
		}
		if size, v1 := strings.CutSuffix(name, ".usage_in_bytes"); v1 && !strings.Contains(size, ".") {
			sizes[size] = r.counter(dir, "hugetlb."+size+".", "_in_bytes")
		} else if size, v2 := strings.CutSuffix(name, ".current"); v2 && !strings.Contains(size, ".") {
			sizes[size] = Counter{
				Usage: r.number(dir, "hugetlb."+size+".current"), Limit: r.max(dir, "hugetlb."+size+".max"), Failcnt: r.pairs(dir, "hugetlb."+size+".events")["max"],
			}
		}
	}
	return sizes
}

// rdma reads a file of lines "mlx5_0 hca_handle=2 hca_object=max"; see the kernel's admin-guide/cgroup-v1/rdma.
func (r *reader) rdma(dir, file string) (list []RDMAEntry) {
	text, err := rawfile.Read(filepath.Join(dir, file))
	r.note(err)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		e := RDMAEntry{Device: fields[0]}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			n := uint64(math.MaxUint32)
			if value != "max" {
				n, err = strconv.ParseUint(value, 10, 32)
				r.note(err)
			}
			switch key {
			case "hca_handle":
				e.Handles = uint32(n)
			case "hca_object":
				e.Objects = uint32(n)
			}
		}
		list = append(list, e)
	}
	return list
}

// ranges reads a list of numbers in the form of cpuset(7), "List format".
func (r *reader) ranges(dir, file string) []uint16 {
	if dir == "" {
		return nil
	}
	text, err := rawfile.Read(filepath.Join(dir, file))
	r.note(err)
	var list []uint16
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if part == "" {
			continue
		}
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		r.note(err)
		to, err := strconv.ParseUint(last, 10, 16)
		r.note(err)
		for n := from; n <= to; n++ {
			list = append(list, uint16(n))
		}
	}
	return list
}

// pressure reads a v2 file of pressure; nil where the kernel has none, or has it switched off.
func (r *reader) pressure(dir, resource string) *Pressure {
	text, err := rawfile.Read(filepath.Join(dir, resource+".pressure"))
	if err != nil {
		return nil
	}
	p := &Pressure{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"
		if len(fields) == 0 {
			continue
		}
		to := &p.Some
		if fields[0] == "full" {
			to = &p.Full
		}
		var parsed error
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			var err error
			switch key {
			case "avg10":
				to.Avg10, err = strconv.ParseFloat(value, 64)
			case "avg60":
				to.Avg60, err = strconv.ParseFloat(value, 64)
			case "avg300":
				to.Avg300, err = strconv.ParseFloat(value, 64)
			case "total":
				to.Total, err = strconv.ParseUint(value, 10, 64)
			}
			parsed = errors.Join(parsed, err)
		}
		r.note(parsed)
	}
	return p
}
