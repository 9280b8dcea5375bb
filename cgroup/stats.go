package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gantry/rawfile"
)

// Stats is one reading. Byte counts are bytes, times are durations, counts since creation of the group.
type Stats struct {
	Read   time.Time
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
	Blkio  []BlkioEntry
}

type CPUStats struct {
	Usage, User, System       time.Duration
	PerCPU                    []time.Duration // v1 only
	Periods, ThrottledPeriods uint64
	Throttled                 time.Duration
	// Bursts are the periods in which the group has used saved time, Burst is how much; see cpu.cfs_burst_us.
	Bursts uint64
	Burst  time.Duration
}

type MemoryStats struct {
	Usage, MaxUsage, Limit uint64 // Limit is math.MaxUint64 if there is none
	SwapUsage, SwapLimit   uint64
	Failcnt, OOMKills      uint64
	Stat                   map[string]uint64 // memory.stat as the kernel gives it
}

type PidsStats struct{ Current, Limit uint64 } // Limit 0: none

// BlkioEntry is bytes and operations of one device; Op is "Read", "Write", ….
type BlkioEntry struct {
	Major, Minor uint64
	Op           string
	Bytes, Ops   uint64
}

// reader collects the first error of many readings; what the kernel does not offer reads as zero.
type reader struct{ err error }

func (r *reader) note(err error) {
	if err != nil && r.err == nil && !errors.Is(err, os.ErrNotExist) {
		r.err = err
	}
}

func (r *reader) number(dir, file string) uint64 {
	if dir == "" {
		return 0
	}
	n, err := readNumber(filepath.Join(dir, file))
	r.note(err)
	return n
}

func (r *reader) pairs(dir, file string) map[string]uint64 {
	if dir == "" {
		return nil
	}
	m, err := readPairs(filepath.Join(dir, file))
	r.note(err)
	return m
}

// Stats reads the group's accounting.
func (g *Group) Stats() (*Stats, error) {
	r := &reader{}
	s := &Stats{Read: time.Now()}
	if g.host.mode() == V2 {
		g.statsV2(r, s)
	} else {
		g.statsV1(r, s)
	}
	if r.err != nil {
		return nil, fmt.Errorf("read statistics of cgroup %s: %w", g.path, r.err)
	}
	return s, nil
}

func (g *Group) statsV1(r *reader, s *Stats) {
	const tick = time.Second / 100 // USER_HZ
	acct := g.host.dir("cpuacct", g.path)
	s.CPU.Usage = time.Duration(r.number(acct, "cpuacct.usage"))
	split := r.pairs(acct, "cpuacct.stat")
	s.CPU.User, s.CPU.System = time.Duration(split["user"])*tick, time.Duration(split["system"])*tick
	if acct != "" {
		text, err := rawfile.Read(filepath.Join(acct, "cpuacct.usage_percpu"))
		r.note(err)
		for field := range strings.FieldsSeq(string(text)) {
			n, err := strconv.ParseUint(field, 10, 63)
			r.note(err)
			s.CPU.PerCPU = append(s.CPU.PerCPU, time.Duration(n))
		}
	}
	throttle := r.pairs(g.host.dir("cpu", g.path), "cpu.stat")
	s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.Throttled = throttle["nr_periods"], throttle["nr_throttled"], time.Duration(throttle["throttled_time"])
	s.CPU.Bursts, s.CPU.Burst = throttle["nr_bursts"], time.Duration(throttle["burst_time"])

	memory := g.host.dir("memory", g.path)
	m := &s.Memory
	m.Usage, m.MaxUsage = r.number(memory, "memory.usage_in_bytes"), r.number(memory, "memory.max_usage_in_bytes")
	m.Limit, m.Failcnt = unlimited(r.number(memory, "memory.limit_in_bytes")), r.number(memory, "memory.failcnt")
	if both := r.number(memory, "memory.memsw.usage_in_bytes"); both > m.Usage {
		m.SwapUsage = both - m.Usage
	}
	m.SwapLimit = unlimited(r.number(memory, "memory.memsw.limit_in_bytes"))
	m.OOMKills = r.pairs(memory, "memory.oom_control")["oom_kill"]
	m.Stat = r.pairs(memory, "memory.stat")

	pids := g.host.dir("pids", g.path)
	s.Pids = PidsStats{Current: r.number(pids, "pids.current"), Limit: r.number(pids, "pids.max")}
	s.Blkio = r.blkioV1(g.host.dir("blkio", g.path))
}

func (g *Group) statsV2(r *reader, s *Stats) {
	dir := filepath.Join(g.host.unified.mount, g.path)
	cpu := r.pairs(dir, "cpu.stat")
	s.CPU = CPUStats{
		Usage: time.Duration(cpu["usage_usec"]) * time.Microsecond, User: time.Duration(cpu["user_usec"]) * time.Microsecond,
		System: time.Duration(cpu["system_usec"]) * time.Microsecond, Throttled: time.Duration(cpu["throttled_usec"]) * time.Microsecond,
		Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"],
		Bursts: cpu["nr_bursts"], Burst: time.Duration(cpu["burst_usec"]) * time.Microsecond,
	}
	events := r.pairs(dir, "memory.events")
	s.Memory = MemoryStats{
		Usage: r.number(dir, "memory.current"), MaxUsage: r.number(dir, "memory.peak"), Limit: unlimited(r.max(dir, "memory.max")),
		SwapUsage: r.number(dir, "memory.swap.current"), SwapLimit: unlimited(r.max(dir, "memory.swap.max")),
		Failcnt: events["max"], OOMKills: events["oom_kill"], Stat: r.pairs(dir, "memory.stat"),
	}
	s.Pids = PidsStats{Current: r.number(dir, "pids.current"), Limit: r.number(dir, "pids.max")}
	s.Blkio = r.blkioV2(dir)
}

// max reads a v2 limit: "max" is math.MaxUint64.
func (r *reader) max(dir, file string) uint64 {
	text, err := rawfile.Read(filepath.Join(dir, file))
	if err != nil || strings.TrimSpace(string(text)) == "max" {
		r.note(err)
		return math.MaxUint64
	}
	return r.number(dir, file)
}

// unlimited turns v1's "no limit", a number near 2⁶³, into math.MaxUint64.
func unlimited(n uint64) uint64 {
	if n > math.MaxInt64-(1<<20) {
		return math.MaxUint64
	}
	return n
}

func (r *reader) blkioV1(dir string) []BlkioEntry {
	if dir == "" {
		return nil
	}
	var list []BlkioEntry
	for i, file := range []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"} {
		text, err := rawfile.Read(filepath.Join(dir, file))
		r.note(err)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line) // "8:0 Read 4096"; the last line is a sum
			if len(f) != 3 {
				continue
			}
			n, err := strconv.ParseUint(f[2], 10, 64)
			r.note(err)
			list = addBlkio(list, f[0], f[1], n, i == 1)
		}
	}
	return list
}

func (r *reader) blkioV2(dir string) []BlkioEntry {
	text, err := rawfile.Read(filepath.Join(dir, "io.stat"))
	r.note(err)
	var list []BlkioEntry
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // "8:0 rbytes=4096 wbytes=0 rios=1 …"
		for _, pair := range f[min(1, len(f)):] {
			key, value, _ := strings.Cut(pair, "=")
			op, known := map[string]string{"rbytes": "Read", "wbytes": "Write", "rios": "Read", "wios": "Write"}[key]
			n, err := strconv.ParseUint(value, 10, 64)
			if known && err == nil {
				list = addBlkio(list, f[0], op, n, strings.HasSuffix(key, "ios"))
			}
		}
	}
	return list
}

// addBlkio puts a number to the entry of its device and operation.
func addBlkio(list []BlkioEntry, device, op string, n uint64, isOps bool) []BlkioEntry {
	major, minor, _ := strings.Cut(device, ":")
	e := BlkioEntry{Op: op}
	e.Major, _ = strconv.ParseUint(major, 10, 32) // the kernel writes numbers
	e.Minor, _ = strconv.ParseUint(minor, 10, 32)
	at := -1
	for i := range list {
		if list[i].Major == e.Major && list[i].Minor == e.Minor && list[i].Op == op {
			at = i
		}
	}
	if at < 0 {
		list, at = append(list, e), len(list)
	}
	if isOps {
		list[at].Ops = n
	} else {
		list[at].Bytes = n
	}
	return list
}

// OOMKills is how many processes of the group the kernel's out-of-memory killer has ended.
func (g *Group) OOMKills() (uint64, error) {
	file := filepath.Join(g.host.dir("memory", g.path), "memory.oom_control")
	if g.host.mode() == V2 {
		file = filepath.Join(g.host.unified.mount, g.path, "memory.events")
	} else if g.host.dir("memory", g.path) == "" {
		return 0, nil
	}
	pairs, err := readPairs(file)
	if err != nil {
		return 0, fmt.Errorf("OOM kills of cgroup %s: %w", g.path, err)
	}
	return pairs["oom_kill"], nil
}

// readNumber reads a file of one number; "max" is 0: no limit.
func readNumber(file string) (uint64, error) {
	text, err := rawfile.Read(file)
	if err != nil {
		return 0, err
	}
	s := strings.TrimSpace(string(text))
	if s == "max" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// readPairs reads a file of lines "name number"; other lines are passed over.
func readPairs(file string) (map[string]uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pairs := map[string]uint64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64); err == nil {
			pairs[name] = n
		}
	}
	return pairs, lines.Err()
}
