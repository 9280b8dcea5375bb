// Command gantry-runtime is the OCI runtime's command line, with runc's commands and flags: a drop-in for runc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gantry/internal/early"
	"gantry/oci"
	"gantry/spawn"
)

// app is one invocation.
type app struct {
	name    string // it is called by, as in its help
	runtime *oci.Runtime
	rooted  bool // --root was given
	out     io.Writer
	log     logger
	criu    string // program
}

// command is one verb. Its flags are defined by run, whose result gets what is left of the arguments.
type command struct {
	name, args, usage string
	least, most       int  // number of arguments; most < 0: any
	stops             bool // flags end at the first argument: what follows is another program's
	spawns            bool // it makes processes of containers
	run               func(a *app, flags *flag.FlagSet) func(ctx context.Context, args []string) error
}

const theID = "<container-id>"

func commands() []command {
	return []command{
		{"checkpoint", theID, "save a running container's state to a directory, by criu", 1, 1, false, false, checkpoint},
		{"create", theID, "create a container", 1, 1, false, true, create},
		{"delete", theID, "delete what is held by a stopped container", 1, 1, false, false, remove},
		{"events", theID, "print events and statistics of a container as JSON", 1, 1, false, false, events},
		{"exec", theID + " <command> [args…]", "run another process in a container", 1, -1, true, true, execute},
		{"kill", theID + " [signal]", "send a signal (default: SIGTERM) to a container's first process", 1, 2, true, false, kill},
		{"list", "", "list the containers of the root directory", 0, 0, false, false, list},
		{"pause", theID, "freeze a container's processes", 1, 1, false, false, pause},
		{"ps", theID + " [ps options]", "list a container's processes", 1, -1, true, false, processes},
		{"restore", theID, "make a container of what checkpoint has saved", 1, 1, false, false, restore},
		{"resume", theID, "let a container's frozen processes go on", 1, 1, false, false, resume},
		{"run", theID, "create and start a container", 1, 1, false, true, run},
		{"spec", "", "write a config.json to begin with", 0, 0, false, false, writeSpec},
		{"start", theID, "execute the program of a created container", 1, 1, false, false, start},
		{"state", theID, "print a container's state as JSON", 1, 1, false, false, state},
		{"update", theID, "change a container's limits", 1, 1, false, false, update},
		{"features", "", "print what this runtime can, as JSON", 0, 0, false, false, printFeatures},
		{"plan", "[bundle]", "print every system call that will make a bundle's container", 0, 1, false, false, printPlan},
	}
}

// exitCode ends the program with a container's exit code, without a message.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

func main() {
	if os.Getenv(early.Variable) == early.Value {
		_ = os.Unsetenv(early.Variable) // it fails for impossible names only
	}
	a := &app{name: filepath.Base(os.Args[0]), out: os.Stdout}
	err := a.main(context.Background(), os.Args[1:])
	var code exitCode
	var program *notExecuted
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.As(err, &program):
		a.log.plain(err)
		os.Exit(1)
	default:
		a.log.fatal(err)
		var failed *failedExec
		if errors.As(err, &failed) {
			os.Exit(255)
		}
		os.Exit(1)
	}
}

func (a *app) main(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(a.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	root := flags.String("root", defaultRoot(), "`DIR` of the containers' state")
	flags.StringVar(&a.log.file, "log", "", "`FILE` that messages are written to (default: standard error)")
	flags.StringVar(&a.log.format, "log-format", "text", "`FORMAT` of messages: text or json")
	var showVersion bool
	alias(flags.BoolVar, &showVersion, false, "print the version", "version", "v")
	flags.BoolVar(&a.log.debug, "debug", false, "log every step of a new process too")
	systemd := flags.Bool("systemd-cgroup", false, "have systemd make the cgroups of new containers: linux.cgroupsPath is slice:prefix:name")
	rootless := flags.String("rootless", "auto", "`BOOL`: do without cgroups that may not be made (true, false or auto: unless this is the host's root)")
	flags.StringVar(&a.criu, "criu", "criu", "`PROGRAM` that checkpoints and restores")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			a.help(flags)
			return nil
		}
		return err
	}
	switch {
	case showVersion:
		a.printVersion()
		return nil
	case flags.NArg() == 0, flags.Arg(0) == "help", flags.Arg(0) == "h":
		a.help(flags)
		return nil
	}
	if err := a.log.open(); err != nil {
		return err
	}
	flags.Visit(func(f *flag.Flag) { a.rooted = a.rooted || f.Name == "root" })
	dir, err := filepath.Abs(*root)
	if err != nil {
		return fmt.Errorf("root %s: %w", *root, err)
	}
	a.runtime = &oci.Runtime{Root: dir, Systemd: *systemd, Rootless: oci.Unprivileged()}
	if *rootless != "auto" {
		if a.runtime.Rootless, err = strconv.ParseBool(*rootless); err != nil {
			return fmt.Errorf("rootless %q: want true, false or auto", *rootless)
		}
	}
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
		left, err := c.parse(flags, args)
		if errors.Is(err, flag.ErrHelp) {
			a.helpOn(c, flags)
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if c.spawns {
			spawn.KeepMemory()
			go spawn.CanSeal() // it keeps what it has found out: sealed asks when the configuration has been read
		}
		return f(ctx, left)
	}
	//lint:ignore ST1005 runc's words, which scripts look for
	return fmt.Errorf("No help topic for '%s'", name)
}

// sealed makes sure that no container can write to this program's file: either its processes are sealed one by one, or
// the program is, by starting it anew.
func (a *app) sealed() error {
	if spawn.CanSeal() {
		return nil
	}
	return spawn.SealSelf()
}

// parse reads flags, which may stand behind arguments unless those are another program's, and counts the arguments.
func (c *command) parse(flags *flag.FlagSet, args []string) ([]string, error) {
	var left []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		read := len(args) - flags.NArg()
		ended := read > 0 && args[read-1] == "--"
		if c.stops || ended || flags.NArg() == 0 {
			left = append(left, flags.Args()...)
			break
		}
		left, args = append(left, flags.Arg(0)), flags.Args()[1:]
	}
	switch n := len(left); {
	case c.least == c.most && n != c.least:
		return nil, fmt.Errorf("%q requires exactly %d argument(s)", c.name, c.least)
	case n < c.least:
		return nil, fmt.Errorf("%q requires a minimum of %d argument(s)", c.name, c.least)
	case c.most >= 0 && n > c.most:
		return nil, fmt.Errorf("%q requires a maximum of %d argument(s)", c.name, c.most)
	case c.least > 0 && left[0] == "":
		return nil, errors.New("container id cannot be empty")
	}
	return left, nil
}

func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && (os.Geteuid() != 0 || os.Getenv("USER") != "root" && oci.Unprivileged()) { // as runc
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
