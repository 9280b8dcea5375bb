package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func update(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	res := &specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, BlockIO: &specs.LinuxBlockIO{}}
	var file, l3, bandwidth string
	alias(flags.StringVar, &file, "", "`FILE` with linux.resources as JSON, - for standard input: other flags are ignored", "resources", "r")
	flags.Func("blkio-weight", "`WEIGHT` of block devices' time, 10 to 1000", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		weight := uint16(n)
		res.BlockIO.Weight = &weight
		return err
	})
	unsigned := func(name, usage string, to **uint64) {
		flags.Func(name, usage, func(s string) error {
			n, err := strconv.ParseUint(s, 10, 64)
			*to = &n
			return err
		})
	}
	signed := func(name, usage string, to **int64, parse func(string) (int64, error)) {
		flags.Func(name, usage, func(s string) error {
			n, err := parse(s)
			*to = &n
			return err
		})
	}
	unsigned("cpu-period", "`USEC` that the quota is of; 0: the kernel's", &res.CPU.Period)
	signed("cpu-quota", "`USEC` of CPU time in a period; -1: no limit", &res.CPU.Quota, decimal)
	unsigned("cpu-burst", "`USEC` that may be saved up for a period", &res.CPU.Burst)
	unsigned("cpu-share", "relative `WEIGHT`", &res.CPU.Shares)
	unsigned("cpu-rt-period", "`USEC` that the realtime limit is of", &res.CPU.RealtimePeriod)
	signed("cpu-rt-runtime", "`USEC` of realtime in a period", &res.CPU.RealtimeRuntime, decimal)
	signed("cpu-idle", "`1`: run only when nobody else wants to; 0: as usual", &res.CPU.Idle, decimal)
	flags.StringVar(&res.CPU.Cpus, "cpuset-cpus", "", "`CPUS` to use")
	flags.StringVar(&res.CPU.Mems, "cpuset-mems", "", "memory `NODES` to use")
	signed("memory", "limit in `BYTES`, or with a unit (50M)", &res.Memory.Limit, inBytes)
	signed("memory-reservation", "soft limit in `BYTES`", &res.Memory.Reservation, inBytes)
	signed("memory-swap", "limit of memory and swap in `BYTES`; -1: no limit", &res.Memory.Swap, inBytes)
	for _, obsolete := range []string{"kernel-memory", "kernel-memory-tcp"} {
		flags.String(obsolete, "", "ignored: the kernel has no such limit any more")
	}
	signed("pids-limit", "`NUMBER` of processes; -1: no limit", &pidsOf(res).Limit, decimal)
	flags.StringVar(&l3, "l3-cache-schema", "", "`SCHEMA` of Intel RDT's L3 cache")
	flags.StringVar(&bandwidth, "mem-bw-schema", "", "`SCHEMA` of Intel RDT's memory bandwidth")
	return func(_ context.Context, args []string) error {
		c, err := a.runtime.LoadCreated(args[0])
		if err != nil {
			return err
		}
		if l3 != "" || bandwidth != "" {
			if err := c.UpdateRDT(l3, bandwidth); err != nil {
				return err
			}
		}
		if file != "" {
			res = &specs.LinuxResources{}
			if err := readResources(file, res); err != nil {
				return err
			}
			// As runc: Kubernetes gives all that the configuration has, and in between nothing may be denied.
			res.Devices = nil
		}
		if res.Pids != nil && res.Pids.Limit == nil {
			res.Pids = nil
		}
		return c.Update(res)
	}
}

func pidsOf(res *specs.LinuxResources) *specs.LinuxPids {
	res.Pids = &specs.LinuxPids{}
	return res.Pids
}

func decimal(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

// inBytes reads a number of bytes, possibly with a unit of 1024: 64m, 64MB, 64MiB are the same.
func inBytes(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	number := strings.TrimRight(s, "bBiIkKmMgGtTpP ")
	unit := strings.ToLower(strings.TrimSpace(s[len(number):]))
	shift, known := map[string]int{
		"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30,
		"t": 40, "tb": 40, "tib": 40, "p": 50, "pb": 50, "pib": 50,
	}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if n *= float64(uint64(1) << shift); err != nil || !known || n < 0 || n >= math.MaxInt64 || math.IsNaN(n) {
		return 0, fmt.Errorf("invalid size: %q", s)
	}
	return int64(n), nil
}

func readResources(file string, res *specs.LinuxResources) error {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("read the limits: %w", err)
		}
		defer f.Close()
		in = f
	}
	if err := json.NewDecoder(io.LimitReader(in, 1<<20)).Decode(res); err != nil {
		return fmt.Errorf("read the limits: %w", err)
	}
	return nil
}
