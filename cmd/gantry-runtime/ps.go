package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

func processes(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var format string
	alias(flags.StringVar, &format, "table", "`FORMAT`: table or json", "format", "f")
	return func(ctx context.Context, args []string) error {
		c, err := a.runtime.LoadCreated(args[0])
		if err != nil {
			return err
		}
		pids := []int{}
		group, err := c.Cgroup()
		if err == nil {
			pids, err = group.Procs(true)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		switch format {
		case "json":
			return json.NewEncoder(a.out).Encode(pids)
		case "table":
			return a.table(ctx, pids, args[1:])
		}
		return fmt.Errorf("invalid format option %q: want table or json", format)
	}
}

// table prints what ps(1) says of the processes.
func (a *app) table(ctx context.Context, pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	text, err := exec.CommandContext(ctx, "ps", options...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ps %s: %w: %s", strings.Join(options, " "), err, text)
	}
	title, lines, _ := strings.Cut(string(text), "\n")
	column := slices.Index(strings.Fields(title), "PID")
	if column < 0 {
		return fmt.Errorf("ps %s: its output has no column PID", strings.Join(options, " "))
	}
	fmt.Fprintln(a.out, title)
	for line := range strings.Lines(lines) {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Fprint(a.out, line)
		}
	}
	return nil
}
