package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/oci"
)

// event is a line of events, in runc's layout.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func events(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	interval := flags.Duration("interval", 5*time.Second, "`TIME` between readings")
	once := flags.Bool("stats", false, "print one reading and end")
	return func(ctx context.Context, args []string) error {
		c, err := a.runtime.LoadCreated(args[0])
		if err != nil {
			return err
		}
		if *interval <= 0 {
			return errors.New("duration interval must be greater than 0")
		}
		s, err := c.State()
		if err != nil {
			return err
		}
		if s.Status == specs.StateStopped {
			return fmt.Errorf("container with id %s is not running: %w", c.ID, oci.ErrNotRunning)
		}
		group, err := c.Cgroup()
		if err != nil {
			return err
		}
		if *once {
			return a.printStats(c, group)
		}
		return a.watch(ctx, c, group, *interval)
	}
}

// watch prints readings and, when the kernel tells of them, processes killed for want of memory, until the group is gone.
func (a *app) watch(ctx context.Context, c *oci.Container, group *cgroup.Group, interval time.Duration) error {
	kills, err := group.WatchOOM(ctx)
	if err != nil {
		return err
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		select {
		case _, there := <-kills:
			if !there {
				return ctx.Err()
			}
			if err := json.NewEncoder(a.out).Encode(event{Type: "oom", ID: c.ID}); err != nil {
				return err
			}
		case <-ticks.C:
			if err := a.printStats(c, group); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) { // it is going
				return err
			}
		}
	}
}

func (a *app) printStats(c *oci.Container, group *cgroup.Group) error {
	s, err := group.Stats()
	if err != nil {
		return err
	}
	more, err := group.MoreStats()
	if err != nil {
		return err
	}
	rdt, err := c.RDTStats()
	if err != nil {
		return err
	}
	out := statsOf(s, more)
	out.RDT = *rdt
	return json.NewEncoder(a.out).Encode(event{"stats", c.ID, out})
}

// What follows is the layout of runc's "events": its types/events.go is its documentation.

type statsJSON struct {
	CPU     cpuJSON                `json:"cpu"`
	CPUSet  cgroup.CPUSetStats     `json:"cpuset"`
	Memory  memoryJSON             `json:"memory"`
	Pids    pidsJSON               `json:"pids"`
	Blkio   blkioJSON              `json:"blkio"`
	Hugetlb map[string]hugetlbJSON `json:"hugetlb"`
	RDT     oci.RDTStats           `json:"intel_rdt"`
	Network []struct{}             `json:"network_interfaces"`
}

type cpuJSON struct {
	Usage struct {
		Total  uint64   `json:"total,omitempty"` // all in nanoseconds
		PerCPU []uint64 `json:"percpu,omitempty"`
		// By mode, of each processor.
		PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
		PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
		Kernel       uint64   `json:"kernel"`
		User         uint64   `json:"user"`
	} `json:"usage,omitzero"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling,omitzero"`
	PSI *cgroup.Pressure `json:"psi,omitempty"`
}

type memoryJSON struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     memoryEntryJSON   `json:"usage,omitzero"`
	Swap      memoryEntryJSON   `json:"swap,omitzero"`
	Kernel    memoryEntryJSON   `json:"kernel,omitzero"`
	KernelTCP memoryEntryJSON   `json:"kernelTCP,omitzero"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	PSI       *cgroup.Pressure  `json:"psi,omitempty"`
}

type memoryEntryJSON struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type pidsJSON struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type blkioJSON struct {
	Bytes []blkioEntryJSON `json:"ioServiceBytesRecursive,omitempty"`
	Ops   []blkioEntryJSON `json:"ioServicedRecursive,omitempty"`
	PSI   *cgroup.Pressure `json:"psi,omitempty"`
}

type blkioEntryJSON struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type hugetlbJSON struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

func statsOf(s *cgroup.Stats, more *cgroup.MoreStats) *statsJSON {
	out := &statsJSON{CPUSet: more.CPUSet, Hugetlb: map[string]hugetlbJSON{}}
	u := &out.CPU.Usage
	u.Total, u.Kernel, u.User = uint64(s.CPU.Usage), uint64(s.CPU.System), uint64(s.CPU.User)
	for _, t := range s.CPU.PerCPU {
		u.PerCPU = append(u.PerCPU, uint64(t))
	}
	u.PerCPUKernel, u.PerCPUUser = more.PerCPUKernel, more.PerCPUUser
	t := &out.CPU.Throttling
	t.Periods, t.ThrottledPeriods, t.ThrottledTime = s.CPU.Periods, s.CPU.ThrottledPeriods, uint64(s.CPU.Throttled)
	out.CPU.PSI, out.Memory.PSI, out.Blkio.PSI = more.CPUPressure, more.MemoryPressure, more.IOPressure
	m := &s.Memory
	out.Memory.Cache, out.Memory.Raw = m.Stat["cache"], m.Stat
	if more.V2 {
		out.Memory.Cache = m.Stat["file"]
	}
	out.Memory.Usage = memoryEntryJSON{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.Failcnt}
	out.Memory.Swap = entryOf(more.Swap)
	out.Memory.Kernel = entryOf(more.Kernel)
	out.Memory.KernelTCP = entryOf(more.KernelTCP)
	out.Pids = pidsJSON{Current: s.Pids.Current, Limit: s.Pids.Limit}
	for _, e := range s.Blkio {
		out.Blkio.Bytes = append(out.Blkio.Bytes, blkioEntryJSON{e.Major, e.Minor, e.Op, e.Bytes})
		out.Blkio.Ops = append(out.Blkio.Ops, blkioEntryJSON{e.Major, e.Minor, e.Op, e.Ops})
	}
	for size, h := range more.Hugetlb {
		out.Hugetlb[size] = hugetlbJSON{h.Usage, h.Max, h.Failcnt}
	}
	return out
}

func entryOf(c cgroup.Counter) memoryEntryJSON {
	return memoryEntryJSON{Limit: c.Limit, Usage: c.Usage, Max: c.Max, Failcnt: c.Failcnt}
}
