package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

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
	c, err := a.runtime.LoadCreated(id)
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
	return &stateJSON{
		Version: s.Version, ID: s.ID, Pid: s.Pid, Status: string(s.Status), Bundle: s.Bundle, Rootfs: rootfs, Created: created,
		Annotations: s.Annotations,
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
		if _, err := os.Stat(a.runtime.Root); err != nil && a.rooted {
			return fmt.Errorf("list containers: %w", err)
		}
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
				slog.Warn("a container cannot be listed", "container", id, "error", err)
				continue
			}
			s.Owner = a.owner(id)
			states = append(states, s)
		}
		return a.printList(states, format, quiet)
	}
}

// owner is the user to whom the container's state belongs.
func (a *app) owner(id string) string {
	info, err := os.Stat(filepath.Join(a.runtime.Root, id))
	if err != nil {
		return "" // deleted meanwhile
	}
	uid := strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Uid))
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "#" + uid
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
		return fmt.Errorf("invalid format option %q: want table or json", format)
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
	alias(flags.BoolVar, &all, false, "send it to every process; one that has stopped is no error", "all", "a")
	return func(_ context.Context, args []string) error {
		sig := unix.SIGTERM
		if len(args) > 1 {
			var err error
			if sig, err = parseSignal(args[1]); err != nil {
				return err
			}
		}
		c, err := a.runtime.LoadCreated(args[0])
		if err != nil {
			return err
		}
		before, err := c.State()
		if err != nil {
			return err
		}
		if before.Status == specs.StateStopped && all {
			return nil
		}
		err = c.Kill(sig, all)
		if errors.Is(err, oci.ErrNotRunning) && before.Status != specs.StateStopped {
			return nil // it ended by the signal, or just before
		}
		return err
	}
}

// parseSignal reads a number, or a name with or without SIG.
func parseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil && n >= 0 { // 0 only asks whether it lives; see kill(2)
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", text)
}

func remove(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var force bool
	alias(flags.BoolVar, &force, false, "kill it first; a missing container is no error", "force", "f")
	return func(ctx context.Context, args []string) error {
		c, err := a.runtime.LoadCreated(args[0])
		if errors.Is(err, os.ErrNotExist) && force { // or it was never made as far as that
			return errors.Join(a.runtime.Delete(ctx, args[0]), removeNotify(a.runtime.Root, args[0]))
		}
		if err != nil {
			return err
		}
		if s, err := c.State(); err == nil && s.Status == specs.StateCreated {
			force = true // its program never ran: there is nothing to lose
		}
		return errors.Join(c.Delete(ctx, force), removeNotify(a.runtime.Root, args[0]))
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
		c, err := a.runtime.LoadCreated(args[0])
		if err != nil {
			return err
		}
		return f(c)
	}
}
