package cgroup

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// property is a unit's property in D-Bus form: name, type, value.
type property struct {
	name, signature string
	put             func(*dbusBody)
}

func numberProperty(name string, n uint64) property {
	return property{name, "t", func(b *dbusBody) { b.uint64(n) }}
}

func boolProperty(name string, yes bool) property {
	return property{name, "b", func(b *dbusBody) { b.bool(yes) }}
}

func textProperty(name, text string) property {
	return property{name, "s", func(b *dbusBody) { b.string(text) }}
}

// properties writes an array of pairs of a name and a variant, a(sv).
func (b *dbusBody) properties(list []property) {
	b.array(8, func() {
		for _, p := range list {
			b.align(8)
			b.string(p.name)
			b.signature(p.signature)
			p.put(b)
		}
	})
}

// properties are those that make the unit a container's.
func (s Scope) properties(pid int) []property {
	list := []property{
		textProperty("Description", "container "+strings.TrimSuffix(s.Unit, ".scope")),
		{"PIDs", "au", func(b *dbusBody) { b.array(4, func() { b.uint32(uint32(pid)) }) }},
		boolProperty("Delegate", true),
		boolProperty("DefaultDependencies", false), // else it would be stopped early at shutdown
		textProperty("CollectMode", "inactive-or-failed"),
	}
	for _, controller := range []string{"CPU", "Memory", "IO", "Tasks"} {
		list = append(list, boolProperty(controller+"Accounting", true))
	}
	if s.Slice != "" {
		list = append(list, textProperty("Slice", s.Slice))
	}
	return list
}

// unitProperties are the limits that systemd knows of: what it would overwrite if it did not know. The group itself gets
// all of them. See systemd.resource-control(5).
func unitProperties(res *specs.LinuxResources) ([]property, error) {
	if res == nil {
		return nil, nil
	}
	var list []property
	bytes := func(name string, n *int64) {
		if n != nil && *n != 0 {
			list = append(list, numberProperty(name, uint64(max(*n, -1)))) // -1 is systemd's infinity, too
		}
	}
	if m := res.Memory; m != nil {
		bytes("MemoryMax", m.Limit)
		bytes("MemoryLow", m.Reservation)
		if m.Swap != nil && *m.Swap > 0 && m.Limit != nil && *m.Limit > 0 {
			list = append(list, numberProperty("MemorySwapMax", uint64(max(*m.Swap-*m.Limit, 0))))
		} else {
			bytes("MemorySwapMax", m.Swap)
		}
	}
	if p := res.Pids; p != nil && p.Limit != nil {
		limit := uint64(math.MaxUint64)
		if *p.Limit > 0 {
			limit = uint64(*p.Limit)
		}
		list = append(list, numberProperty("TasksMax", limit))
	}
	if res.CPU == nil {
		return list, nil
	}
	more, err := cpuProperties(res.CPU)
	return append(list, more...), err
}

func cpuProperties(c *specs.LinuxCPU) ([]property, error) {
	var list []property
	if c.Shares != nil && *c.Shares != 0 {
		list = append(list, numberProperty("CPUWeight", weight(*c.Shares)))
	}
	period := uint64(100_000)
	if c.Period != nil && *c.Period != 0 {
		period = *c.Period
		list = append(list, numberProperty("CPUQuotaPeriodUSec", period))
	}
	if c.Quota != nil && *c.Quota != 0 {
		perSecond := uint64(math.MaxUint64)
		if *c.Quota > 0 {
			const unit = 10_000 // systemd counts in whole percents
			perSecond = (uint64(float64(*c.Quota)*1e6/float64(period)) + unit - 1) / unit * unit
		}
		list = append(list, numberProperty("CPUQuotaPerSecUSec", perSecond))
	}
	for _, set := range []struct{ name, field, list string }{
		{"AllowedCPUs", "cpu.cpus", c.Cpus}, {"AllowedMemoryNodes", "cpu.mems", c.Mems},
	} {
		if set.list == "" {
			continue
		}
		bits, err := bitmap(set.list)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", set.field, err)
		}
		list = append(list, property{set.name, "ay", func(b *dbusBody) { b.array(1, func() { *b = append(*b, bits...) }) }})
	}
	return list, nil
}

// bitmap is a list of ranges ("0-3,8") as bits, the lowest first.
func bitmap(list string) ([]byte, error) {
	var bits []byte
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 13)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", list, err)
		}
		to, err := strconv.ParseUint(last, 10, 13)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", list, err)
		}
		if to < from {
			return nil, fmt.Errorf("%q: %s is no range", list, part)
		}
		for n := from; n <= to; n++ {
			for uint64(len(bits)) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
	}
	return bits, nil
}
