package cgroup

import (
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/rawfile"
)

// complete adds the other half to a limit of which one is to be changed, where both are one value to the kernel or to
// systemd: CPU quota and period, and on v2 memory and swap, which the specification counts together.
func (g *Group) complete(res *specs.LinuxResources) *specs.LinuxResources {
	all := *res
	given := func(n *int64) bool { return n != nil && *n != 0 }
	if c := res.CPU; c != nil && given(c.Quota) != (c.Period != nil && *c.Period != 0) {
		both := *c
		quota, period := g.quota()
		const usual = 100_000
		if !given(c.Quota) && quota > 0 {
			both.Quota = &quota
		} else if given(c.Quota) && period > 0 && period != usual {
			both.Period = &period
		}
		all.CPU = &both
	}
	if m := res.Memory; m != nil && g.host.mode() == V2 && m.Limit != nil && *m.Limit > 0 && !given(m.Swap) {
		memory, err := g.number("memory", "memory.max")
		swap, swapErr := g.number("memory", "memory.swap.max")
		if sum := memory + swap; err == nil && swapErr == nil && sum >= *m.Limit {
			both := *m
			both.Swap, all.Memory = &sum, &both
		}
	}
	return &all
}

// quota is the group's, in microseconds of a period; zero if there is none.
func (g *Group) quota() (quota int64, period uint64) {
	if g.host.mode() != V2 {
		q, err := g.number("cpu", "cpu.cfs_quota_us")
		p, periodErr := g.number("cpu", "cpu.cfs_period_us")
		if err != nil || periodErr != nil {
			return 0, 0
		}
		return max(q, 0), uint64(p)
	}
	text, err := rawfile.Read(filepath.Join(g.host.dir("cpu", g.path), "cpu.max"))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) != 2 {
		return 0, 0
	}
	quota, _ = strconv.ParseInt(fields[0], 10, 64) // 0 if it is "max"
	period, _ = strconv.ParseUint(fields[1], 10, 64)
	return quota, period
}

// number reads a file; "max" is an error.
func (g *Group) number(controller, file string) (int64, error) {
	text, err := rawfile.Read(filepath.Join(g.host.dir(controller, g.path), file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}
