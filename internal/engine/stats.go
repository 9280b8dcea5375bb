package engine

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"gantry/cgroup"
)

// StatsContainer calls each with a reading of the container's accounting: once, or every second while stream, until the
// container is removed. Without oneShot a single reading waits a second, so that it has one before it to compare with.
func (e *Engine) StatsContainer(ctx context.Context, id string, stream, oneShot bool, each func(*container.StatsResponse) error) error {
	c, err := e.lookup(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	removed := c.await(ctx, container.WaitConditionRemoved)
	var previous *container.StatsResponse
	if !stream && !oneShot {
		if previous, err = e.reading(c, nil); err != nil {
			return err
		}
		select {
		case <-removed:
			return fmt.Errorf("No such container: %s%w", id, noText{errdefs.ErrNotFound})
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		r, err := e.reading(c, previous)
		if err != nil {
			return err
		}
		if err := each(r); err != nil || !stream {
			return err
		}
		previous = r
		select {
		case <-removed:
			return nil
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reading is one reading; all zero for a container that does not run, as docker has it.
func (e *Engine) reading(c *Container, previous *container.StatsResponse) (*container.StatsResponse, error) {
	v := c.view()
	r := &container.StatsResponse{ID: c.ID, Name: "/" + v.record.Name, OSType: "linux", Read: time.Now()}
	if previous != nil {
		r.PreRead, r.PreCPUStats = previous.Read, previous.CPUStats
	}
	if !v.phase.alive() {
		return r, nil
	}
	s, err := groupStats(v.run.Cgroup)
	if now := c.view(); err != nil && (!now.phase.alive() || now.run.Pid != v.run.Pid) { // it has ended meanwhile
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", c.ID, err)
	}
	r.Read = s.Read
	r.CPUStats = cpuStats(s)
	r.MemoryStats = container.MemoryStats{Usage: s.Memory.Usage, MaxUsage: s.Memory.MaxUsage, Stats: s.Memory.Stat, Failcnt: s.Memory.Failcnt, Limit: s.Memory.Limit}
	if total := memoryTotal(); r.MemoryStats.Limit > total {
		r.MemoryStats.Limit = total
	}
	r.PidsStats = container.PidsStats{Current: s.Pids.Current, Limit: s.Pids.Limit}
	if r.PidsStats.Limit == 0 {
		r.PidsStats.Limit = math.MaxUint64
	}
	for _, b := range s.Blkio {
		r.BlkioStats.IoServiceBytesRecursive = append(r.BlkioStats.IoServiceBytesRecursive, container.BlkioStatEntry{Major: b.Major, Minor: b.Minor, Op: strings.ToLower(b.Op), Value: b.Bytes})
		r.BlkioStats.IoServicedRecursive = append(r.BlkioStats.IoServicedRecursive, container.BlkioStatEntry{Major: b.Major, Minor: b.Minor, Op: strings.ToLower(b.Op), Value: b.Ops})
	}
	if !v.record.Config.HostConfig.NetworkMode.IsHost() {
		r.Networks = networkStats(v.run.Pid)
	}
	return r, nil
}

func groupStats(path string) (*cgroup.Stats, error) {
	group, err := cgroup.Open(path)
	if err != nil {
		return nil, err
	}
	return group.Stats()
}

func cpuStats(s *cgroup.Stats) container.CPUStats {
	c := container.CPUStats{
		CPUUsage: container.CPUUsage{TotalUsage: uint64(s.CPU.Usage), UsageInUsermode: uint64(s.CPU.User), UsageInKernelmode: uint64(s.CPU.System)},
		ThrottlingData: container.ThrottlingData{
			Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: uint64(s.CPU.Throttled),
		},
		SystemUsage: systemCPU(), OnlineCPUs: uint32(runtime.NumCPU()),
	}
	for _, n := range s.CPU.PerCPU {
		c.CPUUsage.PercpuUsage = append(c.CPUUsage.PercpuUsage, uint64(n))
	}
	return c
}

// systemCPU is the time, in nanoseconds, that all processors have worked or idled: the first line of /proc/stat, see proc_stat(5).
func systemCPU() uint64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 {
		return 0
	}
	var ticks uint64
	for _, f := range fields[1:8] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	const perTick = uint64(time.Second / 100) // USER_HZ is 100 everywhere Linux runs
	return ticks * perTick
}

func memoryTotal() uint64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return math.MaxUint64
	}
	return info.Totalram * uint64(info.Unit)
}

// networkStats reads the interfaces of a process's network namespace; see proc_pid_net(5).
func networkStats(pid int) map[string]container.NetworkStats {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil // it has just ended
	}
	defer f.Close()
	stats := map[string]container.NetworkStats{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, found := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !found || name == "lo" || len(fields) < 16 {
			continue
		}
		var n [16]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(fields[i], 10, 64) // the kernel writes numbers
		}
		stats[name] = container.NetworkStats{
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3], TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		}
	}
	return stats
}

// diskUsage is the space that the files below a directory take, in bytes. What vanishes meanwhile is not counted.
func diskUsage(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st := statOf(info); !d.IsDir() {
				sum += st.Blocks * 512
			}
		}
		return nil
	})
	return sum
}

// statOf is what lstat(2) gave; on Linux a FileInfo of the os package always has it.
func statOf(info fs.FileInfo) *syscall.Stat_t {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st
	}
	return &syscall.Stat_t{}
}
