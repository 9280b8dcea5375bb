package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/moby/sys/signal"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci"
)

// stateJSON is what state and list print: the specification's state with what runc adds.
type stateJSON struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func (a *app) describe(id string) (*stateJSON, error) {
	c, err := a.runtime.Load(id)
	if err != nil {
		return nil, err
	}
	s, err := c.State()
	if err != nil {
		return nil, err
	}
	created, err := c.Created()
	if err != nil {
		return nil, err
	}
	spec, err := c.Spec()
	if err != nil {
		return nil, err
	}
	rootfs := spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(s.Bundle, rootfs)
	}
	owner := ""
	if u, err := user.LookupId(strconv.Itoa(os.Getuid())); err == nil {
		owner = u.Username
	}
	return &stateJSON{
		Version: s.Version, ID: s.ID, Pid: s.Pid, Status: string(s.Status), Bundle: s.Bundle, Rootfs: rootfs, Created: created,
		Annotations: s.Annotations, Owner: owner,
	}, nil
}

func state(a *app, _ *flag.FlagSet) func(context.Context, []string) error {
	return func(_ context.Context, args []string) error {
		s, err := a.describe(args[0])
		if err != nil {
			return err
		}
		return a.printJSON(s)
	}
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func list(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var format string
	alias(flags.StringVar, &format, "table", "`FORMAT`: table or json", "format", "f")
	var quiet bool
	alias(flags.BoolVar, &quiet, false, "print ids only", "quiet", "q")
	return func(context.Context, []string) error {
		ids, err := a.runtime.List()
		if err != nil {
			return err
		}
		states := []*stateJSON{}
		for _, id := range ids {
			s, err := a.describe(id)
			if errors.Is(err, os.ErrNotExist) { // deleted meanwhile
				continue
			}
			if err != nil {
				return err
			}
			states = append(states, s)
		}
		return a.printList(states, format, quiet)
	}
}

func (a *app) printList(states []*stateJSON, format string, quiet bool) error {
	switch {
	case quiet:
		for _, s := range states {
			fmt.Fprintln(a.out, s.ID)
		}
		return nil
	case format == "json":
		return json.NewEncoder(a.out).Encode(states)
	case format != "table":
		return fmt.Errorf("list: format %q: want table or json", format)
	}
	w := tabwriter.NewWriter(a.out, 12, 1, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	for _, s := range states {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return w.Flush()
}

func kill(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var all bool
	alias(flags.BoolVar, &all, false, "send it to every process", "all", "a")
	return func(_ context.Context, args []string) error {
		sig := unix.SIGTERM
		if len(args) > 1 {
			var err error
			if sig, err = signal.ParseSignal(args[1]); args[1] == "0" { // only asks whether it lives; see kill(2)
				sig = 0
			} else if err != nil {
				return fmt.Errorf("kill: unknown signal %q", args[1])
			}
		}
		c, err := a.runtime.Load(args[0])
		if err != nil {
			return err
		}
		before, err := c.State()
		if err != nil {
			return err
		}
		err = c.Kill(sig, all)
		if errors.Is(err, oci.ErrNotRunning) && before.Status != specs.StateStopped {
			return nil // it ended by the signal, or just before
		}
		return err
	}
}

func remove(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var force bool
	alias(flags.BoolVar, &force, false, "kill it first; a missing container is no error", "force", "f")
	return func(ctx context.Context, args []string) error {
		c, err := a.runtime.Load(args[0])
		if errors.Is(err, os.ErrNotExist) && force {
			return nil
		}
		if err != nil {
			return err
		}
		return c.Delete(ctx, force)
	}
}

func pause(a *app, _ *flag.FlagSet) func(context.Context, []string) error {
	return a.each((*oci.Container).Pause)
}

func resume(a *app, _ *flag.FlagSet) func(context.Context, []string) error {
	return a.each((*oci.Container).Resume)
}

func (a *app) each(f func(*oci.Container) error) func(context.Context, []string) error {
	return func(_ context.Context, args []string) error {
		c, err := a.runtime.Load(args[0])
		if err != nil {
			return err
		}
		return f(c)
	}
}

func processes(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var format string
	alias(flags.StringVar, &format, "table", "`FORMAT`: table or json", "format", "f")
	return func(_ context.Context, args []string) error {
		c, err := a.runtime.Load(args[0])
		if err != nil {
			return err
		}
		group, err := c.Cgroup()
		if err != nil {
			return err
		}
		pids, err := group.Procs(true)
		if err != nil {
			return err
		}
		if format == "json" {
			return json.NewEncoder(a.out).Encode(pids)
		}
		fmt.Fprintln(a.out, "PID      COMMAND")
		for _, pid := range pids {
			name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err == nil { // else it has just ended
				fmt.Fprintf(a.out, "%-8d %s", pid, name)
			}
		}
		return nil
	}
}

func statistics(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	interval := flags.Duration("interval", 5*time.Second, "between readings")
	once := flags.Bool("stats", false, "print one reading and end")
	return func(ctx context.Context, args []string) error {
		c, err := a.runtime.Load(args[0])
		if err != nil {
			return err
		}
		for {
			group, err := c.Cgroup()
			if err != nil {
				return err
			}
			s, err := group.Stats()
			if err != nil {
				return err
			}
			if err := json.NewEncoder(a.out).Encode(map[string]any{"type": "stats", "id": args[0], "data": s}); err != nil || *once {
				return err
			}
			select {
			case <-time.After(*interval):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func update(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var file string
	alias(flags.StringVar, &file, "", "`FILE` with linux.resources as JSON; - is standard input", "resources", "r")
	memory := flags.Int64("memory", 0, "limit in `BYTES`")
	swap := flags.Int64("memory-swap", 0, "limit of memory and swap in `BYTES`")
	reservation := flags.Int64("memory-reservation", 0, "soft limit in `BYTES`")
	shares := flags.Uint64("cpu-share", 0, "relative weight")
	period := flags.Uint64("cpu-period", 0, "in microseconds")
	quota := flags.Int64("cpu-quota", 0, "in microseconds a period")
	cpus := flags.String("cpuset-cpus", "", "processors to use")
	mems := flags.String("cpuset-mems", "", "memory nodes to use")
	limit := flags.Int64("pids-limit", 0, "number of processes; -1: no limit")
	return func(_ context.Context, args []string) error {
		res := &specs.LinuxResources{}
		if file != "" {
			if err := readResources(file, res); err != nil {
				return err
			}
		} else {
			res.Memory = &specs.LinuxMemory{Limit: memory, Swap: swap, Reservation: reservation}
			res.CPU = &specs.LinuxCPU{Shares: shares, Period: period, Quota: quota, Cpus: *cpus, Mems: *mems}
			if *limit != 0 {
				res.Pids = &specs.LinuxPids{Limit: limit}
			}
		}
		c, err := a.runtime.Load(args[0])
		if err != nil {
			return err
		}
		return c.Update(res)
	}
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
