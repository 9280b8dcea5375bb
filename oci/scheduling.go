package oci

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/internal/osthread"
	"gantry/spawn"
)

// scheduling adds what decides when and where the process runs: scheduler, I/O priority, personality, NUMA memory.
func (b *builder) scheduling(p *specs.Process) error {
	if !b.shared { // else see appear
		if err := b.scheduler(p.Scheduler); err != nil {
			return err
		}
	}
	b.at("process.ioPriority")
	if err := b.ioPriority(p.IOPriority); err != nil {
		return err
	}
	b.at("")
	if err := b.personality(b.spec.Linux.Personality); err != nil {
		return err
	}
	return b.memoryPolicy(b.spec.Linux.MemoryPolicy)
}

var schedulerPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR, specs.SchedBatch: unix.SCHED_BATCH,
	specs.SchedISO: 4, specs.SchedIdle: unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams: unix.SCHED_FLAG_KEEP_PARAMS, specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

// schedAttr translates process.scheduler; see sched_setattr(2).
func schedAttr(s *specs.Scheduler) (*unix.SchedAttr, error) {
	policy, known := schedulerPolicies[s.Policy]
	switch {
	case s.Policy == "":
		return nil, errors.New("config.json: process.scheduler.policy must be set")
	case !known:
		return nil, fmt.Errorf("config.json: process.scheduler.policy: unknown policy %q", s.Policy)
	case s.Nice < -20 || s.Nice > 19:
		return nil, fmt.Errorf("config.json: process.scheduler.nice %d: -20 to 19 are possible", s.Nice)
	case s.Priority < 0 || s.Priority != 0 && s.Policy != specs.SchedFIFO && s.Policy != specs.SchedRR:
		return nil, fmt.Errorf("config.json: process.scheduler.priority %d: it is for SCHED_FIFO and SCHED_RR, 1 to 99", s.Priority)
	case s.Policy != specs.SchedDeadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0):
		return nil, fmt.Errorf("config.json: process.scheduler.runtime, deadline and period are for SCHED_DEADLINE, not %s", s.Policy)
	}
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority), Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, name := range s.Flags {
		flag, known := schedulerFlags[name]
		if !known {
			return nil, fmt.Errorf("config.json: process.scheduler.flags: unknown flag %q", name)
		}
		attr.Flags |= flag
	}
	return attr, nil
}

func (b *builder) scheduler(s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	b.at("process.scheduler")
	defer b.at("")
	attr, err := schedAttr(s)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("set the scheduler to %s", s.Policy)
	if r := b.spec.Linux.Resources; s.Policy == specs.SchedDeadline && r != nil && r.CPU != nil && r.CPU.Cpus != "" { // as runc says it
		name += ", which needs all CPUs (process scheduler can't be used together with AllowedCPUs)"
	}
	if b.shared { // it need not be inherited
		b.byParent(name, func(child *spawn.Process) error { return unix.SchedSetAttr(child.Pid, attr, 0) })
		return nil
	}
	b.add(name, unix.SYS_SCHED_SETATTR, spawn.Int(0),
		spawn.Bytes(bytesOf(attr), fmt.Sprintf("{%s, nice=%d, priority=%d, %d/%d/%d}", s.Policy, s.Nice, s.Priority, s.Runtime, s.Deadline, s.Period)), spawn.Int(0))
	return nil
}

// ioPriority: see ioprio_set(2).
func (b *builder) ioPriority(p *specs.LinuxIOPriority) error {
	if p == nil {
		return nil
	}
	class, known := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[p.Class]
	if !known {
		return fmt.Errorf("config.json: process.ioPriority.class: unknown class %q", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return fmt.Errorf("config.json: process.ioPriority.priority %d: 0 to 7 are possible", p.Priority)
	}
	const thisProcess, classShift = 1, 13
	b.add(fmt.Sprintf("set the I/O priority to %s, %d", p.Class, p.Priority), unix.SYS_IOPRIO_SET, spawn.Int(thisProcess), spawn.Int(0), spawn.Int(class<<classShift|p.Priority))
	return nil
}

// personality: see personality(2). The specification knows no flags yet.
func (b *builder) personality(p *specs.LinuxPersonality) error {
	if p == nil {
		return nil
	}
	value, known := map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}[p.Domain]
	if !known {
		return fmt.Errorf("config.json: linux.personality.domain: unknown domain %q", p.Domain)
	}
	if len(p.Flags) > 0 {
		return fmt.Errorf("config.json: linux.personality.flags: unknown flags %q", p.Flags)
	}
	b.add("set the personality to "+string(p.Domain), unix.SYS_PERSONALITY, spawn.Int(value))
	return nil
}

var (
	memoryModes = map[specs.MemoryPolicyModeType]int{
		specs.MpolDefault: unix.MPOL_DEFAULT, specs.MpolPreferred: unix.MPOL_PREFERRED, specs.MpolBind: unix.MPOL_BIND, specs.MpolInterleave: unix.MPOL_INTERLEAVE,
		specs.MpolLocal: unix.MPOL_LOCAL, specs.MpolPreferredMany: unix.MPOL_PREFERRED_MANY, specs.MpolWeightedInterleave: unix.MPOL_WEIGHTED_INTERLEAVE,
	}
	memoryFlags = map[specs.MemoryPolicyFlagType]int{
		specs.MpolFNumaBalancing: unix.MPOL_F_NUMA_BALANCING, specs.MpolFRelativeNodes: unix.MPOL_F_RELATIVE_NODES, specs.MpolFStaticNodes: unix.MPOL_F_STATIC_NODES,
	}
)

// MemoryPolicies lists the modes and the flags of memory policies that are understood, sorted.
func MemoryPolicies() (modes, flags []string) {
	for mode := range memoryModes {
		modes = append(modes, string(mode))
	}
	for flag := range memoryFlags {
		flags = append(flags, string(flag))
	}
	slices.Sort(modes)
	slices.Sort(flags)
	return modes, flags
}

// memoryPolicy: see set_mempolicy(2). Children and the program inherit it.
func (b *builder) memoryPolicy(p *specs.LinuxMemoryPolicy) error {
	if p == nil {
		return nil
	}
	mode, known := memoryModes[p.Mode]
	if !known {
		return fmt.Errorf("config.json: linux.memoryPolicy.mode: invalid memory policy mode %q", p.Mode)
	}
	for _, name := range p.Flags {
		flag, known := memoryFlags[name]
		if !known {
			return fmt.Errorf("config.json: linux.memoryPolicy.flags: invalid memory policy flag %q", name)
		}
		mode |= flag
	}
	nodes, err := parseSet(p.Nodes, maxNodes)
	if err != nil {
		return fmt.Errorf("config.json: linux.memoryPolicy.nodes: invalid memory policy nodes: %w", err)
	}
	switch p.Mode {
	case specs.MpolDefault, specs.MpolLocal:
		if nodes != nil {
			return fmt.Errorf("config.json: linux.memoryPolicy.nodes %q: %s: mode requires 0 nodes but got %d", p.Nodes, p.Mode, nodes.count())
		}
	case specs.MpolPreferred: // none: the local one
	default:
		if nodes == nil {
			return fmt.Errorf("config.json: linux.memoryPolicy.nodes: %s needs some", p.Mode)
		}
	}
	mask, count := spawn.Nil(), 0
	if nodes != nil {
		mask, count = spawn.Bytes(nodes.bytes(), "{"+p.Nodes+"}"), len(nodes)*bits.UintSize+1 // the kernel takes one less than it is told
	}
	b.add(fmt.Sprintf("set the memory policy to %s", p.Mode), unix.SYS_SET_MEMPOLICY, spawn.Flags(uint64(mode), string(p.Mode)), mask, spawn.Int(count))
	return nil
}

const (
	maxCPUs  = 8192 // the largest CONFIG_NR_CPUS
	maxNodes = 1024 // the largest MAX_NUMNODES
)

// bitSet is a set of CPUs or nodes as the kernel takes it: bits of longs.
type bitSet []uint

func (s bitSet) count() (n int) {
	for _, word := range s {
		n += bits.OnesCount(word)
	}
	return n
}

func (s bitSet) bytes() []byte {
	out := make([]byte, 0, len(s)*bits.UintSize/8)
	for _, word := range s {
		for shift := 0; shift < bits.UintSize; shift += 8 { // both machines are little-endian
			out = append(out, byte(word>>shift))
		}
	}
	return out
}

// mask is the set as one hexadecimal number, as taskset(1) takes it.
func (s bitSet) mask() string {
	bytes := s.bytes()
	slices.Reverse(bytes)
	return "0x" + strings.TrimLeft(fmt.Sprintf("%x", bytes), "0")
}

// parseSet reads a list of ranges, "0-3,7", of numbers below limit; nil if there is none. See cpuset(7), "List format".
func parseSet(text string, limit int) (bitSet, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	set := make(bitSet, limit/bits.UintSize)
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 32)
		last, err2 := strconv.ParseUint(to, 10, 32)
		switch {
		case err1 != nil || err2 != nil:
			return nil, fmt.Errorf("%q: want numbers and ranges as in 0-3,7", text)
		case first > last:
			return nil, fmt.Errorf("%q: %d-%d is no range", text, first, last)
		case last >= uint64(limit):
			return nil, fmt.Errorf("%q: %d is too large, the largest possible is %d", text, last, limit-1)
		}
		for n := first; n <= last; n++ {
			set[n/bits.UintSize] |= 1 << (n % bits.UintSize)
		}
	}
	return set, nil
}

// affinity is process.execCPUAffinity, read.
type affinity struct{ initial, final bitSet }

func parseAffinity(a *specs.CPUAffinity) (affinity, error) {
	if a == nil {
		return affinity{}, nil
	}
	var out affinity
	for _, f := range []struct {
		name, text string
		set        *bitSet
	}{{"initial", a.Initial, &out.initial}, {"final", a.Final, &out.final}} {
		set, err := parseSet(f.text, maxCPUs)
		if err != nil {
			return affinity{}, fmt.Errorf("config.json: process.execCPUAffinity.%s: %w", f.name, err)
		}
		*f.set = set
	}
	return out, nil
}

// runOn lets the process, which is in its cgroup by now, run on these CPUs; without any, on all that the cgroup has,
// whatever this program was restricted to. See sched_setaffinity(2).
func (b *builder) runOn(cpus bitSet, text string) {
	name := "run on CPUs " + text
	all := cpus == nil
	if all {
		name, text = "run on all CPUs of the cgroup", "all"
		cpus = make(bitSet, maxCPUs/bits.UintSize)
		for i := range cpus {
			cpus[i] = math.MaxUint
		}
	}
	mask := cpus.bytes()
	s := b.add(name, unix.SYS_SCHED_SETAFFINITY, spawn.Int(0), spawn.Int(len(mask)), spawn.Bytes(mask, "{"+text+"}"))
	if all {
		s.Ignore = []unix.Errno{unix.EINVAL, unix.EPERM, unix.EBUSY} // nothing was asked for
	}
}

// startOn starts the plan from a thread that runs on these CPUs only (nil: anywhere), since the process begins where
// its parent runs.
func startOn(cpus bitSet, plan *spawn.Plan) (*spawn.Process, error) {
	if cpus == nil {
		return spawn.Start(plan)
	}
	var child *spawn.Process
	var err error
	osthread.Run(func() {
		mask := unix.NewCPUSet(maxCPUs)
		for n := range maxCPUs {
			if cpus[n/bits.UintSize]&(1<<(n%bits.UintSize)) != 0 {
				mask.Set(n)
			}
		}
		if err = unix.SchedSetaffinityDynamic(0, mask); err != nil {
			err = fmt.Errorf("run on the initial CPUs of process.execCPUAffinity: %w", err)
			return
		}
		child, err = spawn.Start(plan)
	})
	return child, err
}
