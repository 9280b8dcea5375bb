package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setting is one value for one file of one controller. Field is the runtime specification's name for errors.
type setting struct {
	controller, file, value, field string
	optional                       bool // passed over where the kernel lacks the file
	again                          bool // if it is invalid, it may be valid once the others are set
}

// Set applies limits; nil fields stay as they are.
func (g *Group) Set(res *specs.LinuxResources) error {
	if res == nil {
		return nil
	}
	var list []setting
	var err error
	if g.host.mode() == V2 {
		res = g.complete(res)
		list, err = settingsV2(res)
	} else {
		list, err = settingsV1(res)
	}
	if err != nil {
		return fmt.Errorf("limit cgroup %s: %w", g.path, err)
	}
	if err := g.checkUsage(res.Memory); err != nil {
		return err
	}
	if err := g.applyAll(g.order(list)); err != nil {
		return err
	}
	if len(res.Devices) > 0 {
		if err := g.setDevices(res.Devices); err != nil {
			return fmt.Errorf("limit cgroup %s: devices: %w", g.path, err)
		}
	}
	return nil
}

// applyAll writes the settings in their order. Of two that the kernel checks together, a period and its quota against the
// parent's, the first may be refused for as long as the second is the old one.
func (g *Group) applyAll(list []setting) error {
	var late []setting
	for _, s := range list {
		err := g.apply(s)
		if s.again && errors.Is(err, unix.EINVAL) {
			late = append(late, s)
			continue
		}
		if err != nil {
			return err
		}
	}
	for _, s := range late {
		if err := g.apply(s); err != nil {
			return err
		}
	}
	return nil
}

// checkUsage refuses a limit that is below what is in use, if asked to: v2 would kill for it.
func (g *Group) checkUsage(m *specs.LinuxMemory) error {
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || m.Limit == nil || *m.Limit <= 0 {
		return nil
	}
	file := "memory.usage_in_bytes"
	if g.host.mode() == V2 {
		file = "memory.current"
	}
	usage, err := readNumber(filepath.Join(g.host.dir("memory", g.path), file))
	if err != nil {
		return fmt.Errorf("limit cgroup %s: memory.checkBeforeUpdate: %w", g.path, err)
	}
	if usage > uint64(*m.Limit) {
		return fmt.Errorf("limit cgroup %s: memory.limit %d: %d bytes are in use: %w", g.path, *m.Limit, usage, unix.EBUSY)
	}
	return nil
}

func (g *Group) apply(s setting) error {
	dir := g.host.dir(s.controller, g.path)
	if dir == "" {
		return fmt.Errorf("limit cgroup %s: %s needs the %s controller, which this host does not offer", g.path, s.field, s.controller)
	}
	err := write(filepath.Join(dir, s.file), s.value)
	switch {
	case err == nil, s.optional && (errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP)):
		return nil
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("limit cgroup %s: %s: the kernel has no %s", g.path, s.field, s.file)
	case errors.Is(err, unix.EINVAL) && s.file == "cpu.rt_runtime_us":
		return fmt.Errorf("limit cgroup %s: %s: %s is more than the parent has left: give %s more first: %w", g.path, s.field, s.value, filepath.Join(filepath.Dir(dir), s.file), err)
	case errors.Is(err, unix.EBUSY) && s.controller == "memory":
		return fmt.Errorf("limit cgroup %s: %s: more is in use than the new limit allows: %w", g.path, s.field, err)
	}
	return fmt.Errorf("limit cgroup %s: %s: %w", g.path, s.field, err)
}

// order puts v1's memory+swap limit before the memory limit when both grow: at no moment may the latter be the larger.
func (g *Group) order(list []setting) []setting {
	memory, swap := -1, -1
	for i, s := range list {
		switch s.file {
		case "memory.limit_in_bytes":
			memory = i
		case "memory.memsw.limit_in_bytes":
			swap = i
		}
	}
	if memory < 0 || swap < 0 {
		return list
	}
	now, err := readNumber(filepath.Join(g.host.dir("memory", g.path), "memory.memsw.limit_in_bytes"))
	var asked uint64
	if _, scanErr := fmt.Sscan(list[memory].value, &asked); scanErr != nil { // "-1": no limit
		asked = ^uint64(0)
	}
	if err == nil && asked > now {
		list[memory], list[swap] = list[swap], list[memory]
	}
	return list
}

// number adds a setting for a value that is there.
func number[T int64 | uint64 | uint16 | uint32](list []setting, controller, file, field string, value *T) []setting {
	if value == nil {
		return list
	}
	return append(list, setting{controller: controller, file: file, field: field, value: fmt.Sprint(*value)})
}

// positive likewise, but for zero, which the specification's users write for "not set".
func positive[T int64 | uint64 | uint16 | uint32](list []setting, controller, file, field string, value *T) []setting {
	if value == nil || *value == 0 {
		return list
	}
	return number(list, controller, file, field, value)
}

func text(list []setting, controller, file, field, value string) []setting {
	if value == "" {
		return list
	}
	return append(list, setting{controller: controller, file: file, field: field, value: value})
}

// settingsV1 are a specification's limits as v1 wants them; see the kernel's admin-guide/cgroup-v1.
func settingsV1(res *specs.LinuxResources) ([]setting, error) {
	if len(res.Unified) > 0 {
		return nil, errors.New("invalid configuration: linux.resources.unified: this host has no cgroup v2 controllers")
	}
	var l []setting
	if m := res.Memory; m != nil {
		l = positive(l, "memory", "memory.limit_in_bytes", "memory.limit", m.Limit)
		swap := m.Swap
		if m.Limit != nil && *m.Limit == -1 && (swap == nil || *swap == 0) {
			swap = m.Limit // no limit of memory within a limit of both: the kernel refuses it
		}
		l = positive(l, "memory", "memory.memsw.limit_in_bytes", "memory.swap", swap)
		l = positive(l, "memory", "memory.soft_limit_in_bytes", "memory.reservation", m.Reservation)
		l = positive(l, "memory", "memory.kmem.tcp.limit_in_bytes", "memory.kernelTCP", m.KernelTCP)
		l = number(l, "memory", "memory.swappiness", "memory.swappiness", m.Swappiness)
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			l = text(l, "memory", "memory.oom_control", "memory.disableOOMKiller", "1")
		}
		for i := range l { // kernels without swap accounting have no memsw files
			l[i].optional = l[i].file == "memory.memsw.limit_in_bytes" && (m.Limit == nil || *swap < 0 || *swap >= *m.Limit)
		}
	}
	if c := res.CPU; c != nil {
		l = positive(l, "cpu", "cpu.shares", "cpu.shares", c.Shares)
		l = positive(l, "cpu", "cpu.cfs_period_us", "cpu.period", c.Period)
		l = positive(l, "cpu", "cpu.cfs_quota_us", "cpu.quota", c.Quota)
		l = number(l, "cpu", "cpu.cfs_burst_us", "cpu.burst", c.Burst)
		l = positive(l, "cpu", "cpu.rt_period_us", "cpu.realtimePeriod", c.RealtimePeriod)
		l = positive(l, "cpu", "cpu.rt_runtime_us", "cpu.realtimeRuntime", c.RealtimeRuntime)
		l = number(l, "cpu", "cpu.idle", "cpu.idle", c.Idle)
		l = text(l, "cpuset", "cpuset.cpus", "cpu.cpus", c.Cpus)
		l = text(l, "cpuset", "cpuset.mems", "cpu.mems", c.Mems)
		for i, s := range l {
			l[i].again = s.file == "cpu.cfs_period_us" || s.file == "cpu.cfs_burst_us" || s.file == "cpu.rt_period_us"
		}
	}
	l = pids(l, res.Pids)
	l = hugepages(l, res.HugepageLimits, func(size string) string { return "hugetlb." + size + ".limit_in_bytes" })
	if n := res.Network; n != nil {
		l = positive(l, "net_cls", "net_cls.classid", "network.classID", n.ClassID)
		for _, p := range n.Priorities {
			l = text(l, "net_prio", "net_prio.ifpriomap", "network.priorities", fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
	if b := res.BlockIO; b != nil {
		l = positive(l, "blkio", "blkio.bfq.weight", "blockIO.weight", b.Weight)
		l = positive(l, "blkio", "blkio.leaf_weight", "blockIO.leafWeight", b.LeafWeight)
		for _, d := range b.WeightDevice {
			if d.Weight != nil {
				l = text(l, "blkio", "blkio.bfq.weight_device", "blockIO.weightDevice", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
			}
		}
		for _, t := range transferLimits(b) {
			for _, d := range t.devices {
				l = text(l, "blkio", t.file, t.field, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
			}
		}
	}
	return rdma(l, res.Rdma), nil
}

func pids(l []setting, p *specs.LinuxPids) []setting {
	if p == nil || p.Limit == nil {
		return l
	}
	value := "max"
	if *p.Limit >= 0 { // none at all is one: systemd knows no less
		value = fmt.Sprint(max(*p.Limit, 1))
	}
	return text(l, "pids", "pids.max", "pids.limit", value)
}

// hugepages limits what is used, and what is reserved where the kernel counts that.
func hugepages(l []setting, limits []specs.LinuxHugepageLimit, file func(size string) string) []setting {
	for i, h := range limits {
		field := fmt.Sprintf("linux.resources.hugepageLimits[%d], pageSize %q", i, h.Pagesize)
		l = text(l, "hugetlb", file(h.Pagesize), field, fmt.Sprint(h.Limit))
		l = text(l, "hugetlb", file(h.Pagesize+".rsvd"), field, fmt.Sprint(h.Limit))
		l[len(l)-1].optional = true
	}
	return l
}

func rdma(l []setting, limits map[string]specs.LinuxRdma) []setting {
	for device, r := range limits {
		var parts []string
		if r.HcaHandles != nil {
			parts = append(parts, fmt.Sprintf("hca_handle=%d", *r.HcaHandles))
		}
		if r.HcaObjects != nil {
			parts = append(parts, fmt.Sprintf("hca_object=%d", *r.HcaObjects))
		}
		if len(parts) > 0 {
			l = text(l, "rdma", "rdma.max", "rdma", device+" "+strings.Join(parts, " "))
		}
	}
	return l
}

// transferLimit is a limit of a device's transfers: its field, v1's file and v2's key in io.max.
type transferLimit struct {
	field, file, key string
	devices          []specs.LinuxThrottleDevice
}

func transferLimits(b *specs.LinuxBlockIO) []transferLimit {
	return []transferLimit{
		{"blockIO.throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"blockIO.throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"blockIO.throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"blockIO.throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}
