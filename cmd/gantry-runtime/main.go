// Command gantry-runtime is the OCI runtime's command line, with runc's commands and flags: a drop-in for runc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/version"
	"gantry/oci"
	"gantry/spawn"
)

// app is one invocation.
type app struct {
	runtime *oci.Runtime
	out     io.Writer
	log     string // file that errors are also written to
	format  string // of the log: text or json
}

// command is one verb. Its flags are defined by define; run gets what is left of the arguments.
type command struct {
	name, usage string
	args        int  // least number of arguments
	spawns      bool // it makes processes of containers
	run         func(a *app, flags *flag.FlagSet) func(ctx context.Context, args []string) error
}

func commands() []command {
	return []command{
		{"create", "create a container: create [flags] ID", 1, true, create},
		{"start", "execute a created container's program: start ID", 1, false, start},
		{"run", "create and start a container: run [flags] ID", 1, true, run},
		{"exec", "run another process in a container: exec [flags] ID COMMAND [ARG…]", 1, true, execute},
		{"state", "print a container's state: state ID", 1, false, state},
		{"list", "list containers", 0, false, list},
		{"kill", "send a signal to a container: kill [flags] ID [SIGNAL]", 1, false, kill},
		{"delete", "delete a stopped container: delete [flags] ID", 1, false, remove},
		{"pause", "freeze a container's processes: pause ID", 1, false, pause},
		{"resume", "thaw them: resume ID", 1, false, resume},
		{"update", "change limits: update [flags] ID", 1, false, update},
		{"events", "print statistics: events [flags] ID", 1, false, statistics},
		{"ps", "list a container's processes: ps [flags] ID", 1, false, processes},
		{"spec", "write a config.json to begin with", 0, false, writeSpec},
		{"features", "print what this runtime can, as JSON", 0, false, printFeatures},
		{"plan", "print every system call that will make a bundle's container: plan BUNDLE", 0, false, printPlan},
	}
}

// exitCode ends the program with a container's exit code, without a message.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

func main() {
	a := &app{out: os.Stdout, format: "text"}
	err := a.main(context.Background(), os.Args[1:])
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	default:
		a.report(err)
		var failed *failedExec
		if errors.As(err, &failed) {
			os.Exit(255)
		}
		os.Exit(1)
	}
}

func (a *app) main(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("gantry-runtime", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	root := flags.String("root", defaultRoot(), "`DIR` of the containers' state")
	flags.StringVar(&a.log, "log", "", "`FILE` that errors are written to")
	flags.StringVar(&a.format, "log-format", "text", "text or json")
	showVersion := flags.Bool("version", false, "print the version")
	flags.BoolVar(showVersion, "v", false, "print the version")
	flags.Bool("debug", false, "accepted")
	flags.Bool("systemd-cgroup", false, "accepted: systemd's form of a cgroup path is understood without it")
	flags.String("rootless", "auto", "accepted")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			a.help(flags)
			return nil
		}
		return err
	}
	switch {
	case *showVersion:
		fmt.Fprintf(a.out, "gantry-runtime version %s\nspec: %s\n", version.Version, specs.Version)
		return nil
	case flags.NArg() == 0, flags.Arg(0) == "help":
		a.help(flags)
		return nil
	}
	a.runtime = &oci.Runtime{Root: *root}
	return a.dispatch(ctx, flags.Arg(0), flags.Args()[1:])
}

func (a *app) dispatch(ctx context.Context, name string, args []string) error {
	for _, c := range commands() {
		if c.name != name {
			continue
		}
		flags := flag.NewFlagSet(name, flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		f := c.run(a, flags)
		if err := flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				fmt.Fprintln(a.out, "gantry-runtime", c.name+":", c.usage)
				flags.SetOutput(a.out)
				flags.PrintDefaults()
				return nil
			}
			return fmt.Errorf("%s: %w", name, err)
		}
		if c.spawns && !spawn.CanSeal() {
			if err := spawn.SealSelf(); err != nil {
				return err
			}
		}
		if flags.NArg() < c.args {
			return fmt.Errorf("%s: an argument is missing: %s", name, c.usage)
		}
		return f(ctx, flags.Args())
	}
	return fmt.Errorf("no command %q; gantry-runtime help lists them", name)
}

func (a *app) help(flags *flag.FlagSet) {
	fmt.Fprintln(a.out, "gantry-runtime runs OCI bundles.\n\nCommands:")
	for _, c := range commands() {
		fmt.Fprintf(a.out, "  %-9s %s\n", c.name, c.usage)
	}
	fmt.Fprintln(a.out, "\nFlags:")
	flags.SetOutput(a.out)
	flags.PrintDefaults()
}

// report prints an error, and writes it where the caller said, in the form that containerd and docker read.
func (a *app) report(err error) {
	fmt.Fprintln(os.Stderr, "gantry-runtime:", err)
	if a.log == "" {
		return
	}
	f, openErr := os.OpenFile(a.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if openErr != nil {
		fmt.Fprintln(os.Stderr, "gantry-runtime: open the log:", openErr)
		return
	}
	defer f.Close()
	if a.format == "json" {
		_ = json.NewEncoder(f).Encode(map[string]string{"level": "error", "msg": err.Error(), "time": time.Now().Format(time.RFC3339)})
		return
	}
	fmt.Fprintf(f, "time=%q level=error msg=%q\n", time.Now().Format(time.RFC3339), err.Error())
}

func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return dir + "/gantry-runtime"
	}
	return "/run/gantry-runtime"
}

// values is a flag that may be given several times.
type values []string

func (v *values) String() string     { return strings.Join(*v, ",") }
func (v *values) Set(s string) error { *v = append(*v, s); return nil }

// alias gives a flag a second, short name.
func alias[T any](define func(p *T, name string, value T, usage string), p *T, value T, usage string, names ...string) {
	for _, n := range names {
		define(p, n, value, usage)
	}
}
