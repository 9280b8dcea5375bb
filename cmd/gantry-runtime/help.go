package main

import (
	"flag"
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/version"
)

func (a *app) help(flags *flag.FlagSet) {
	fmt.Fprintf(a.out, "NAME:\n   %s - Open Container Initiative runtime\n\nUSAGE:\n   %[1]s [global options] command [command options] [arguments...]\n\nCOMMANDS:\n", a.name)
	for _, c := range commands() {
		fmt.Fprintf(a.out, "   %-10s  %s\n", c.name, c.usage)
	}
	fmt.Fprintln(a.out, "\nGLOBAL OPTIONS:")
	a.options(flags)
}

func (a *app) helpOn(c command, flags *flag.FlagSet) {
	fmt.Fprintf(a.out, "NAME:\n   %s %s - %s\n\nUSAGE:\n   %[1]s %[2]s [command options] %[4]s\n", a.name, c.name, c.usage, c.args)
	any := false
	flags.VisitAll(func(*flag.Flag) { any = true })
	if any {
		fmt.Fprintln(a.out, "\nOPTIONS:")
		a.options(flags)
	}
}

// key is the same for all names of a flag.
func key(f *flag.Flag) any {
	if reflect.TypeOf(f.Value).Comparable() {
		return f.Value
	}
	return f.Name // a function has one name
}

// options lists flags, the names of one flag on one line.
func (a *app) options(flags *flag.FlagSet) {
	names := map[any][]string{}
	flags.VisitAll(func(f *flag.Flag) {
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		names[key(f)] = append(names[key(f)], dashes+f.Name)
	})
	flags.VisitAll(func(f *flag.Flag) {
		all := names[key(f)]
		if all == nil {
			return
		}
		delete(names, key(f))
		value, usage := flag.UnquoteUsage(f)
		if value != "" {
			value = " " + value
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			usage += " (default: " + f.DefValue + ")"
		}
		fmt.Fprintf(a.out, "   %-32s  %s\n", strings.Join(all, ", ")+value, usage)
	})
}

// printVersion prints in runc's form, which docker and containerd read.
func (a *app) printVersion() {
	number := strings.TrimPrefix(version.Version, "v")
	if !strings.Contains(number, ".") { // no release: a commit
		number = "0.0.0-" + number
	}
	commit := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	fmt.Fprintf(a.out, "%s version %s\ncommit: %s\nspec: %s\ngo: %s\n", a.name, number, commit, specs.Version, runtime.Version())
}
