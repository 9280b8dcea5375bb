package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gantry/internal/version"
)

// verb is a line of the table from which commands are made: only the verb that is asked for is built.
type verb struct {
	name  string
	short string
	build func(a *app, args []string) *cobra.Command
}

// leaf makes a verb's constructor from one that needs no arguments.
func leaf(build func(*app) *cobra.Command) func(*app, []string) *cobra.Command {
	return func(a *app, _ []string) *cobra.Command { return build(a) }
}

// verbs is a function, not a variable, so that nothing is initialised for a verb that is not asked for.
func verbs() []verb {
	return []verb{
		{"run", "Create and run a new container from an image", leaf(newRun)},
		{"exec", "Execute a command in a running container", leaf(newExec)},
		{"ps", "List containers", leaf(newPs)},
		{"pull", "Download an image from a registry", leaf(newPull)},
		{"images", "List images", leaf(newImages)},
		{"create", "Create a new container", leaf(newCreate)},
		{"start", "Start one or more stopped containers", leaf(newStart)},
		{"rm", "Remove one or more containers", leaf(newRm)},
		{"inspect", "Return low-level information on objects", leaf(newInspect)},
		{"logs", "Fetch the logs of a container", leaf(newLogs)},
	}
}

// root builds the command tree as far as args need it.
func (a *app) root(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:          "gantry [OPTIONS] COMMAND [ARG...]",
		Short:        "A container platform that speaks the Docker Engine API",
		SilenceUsage: true,
		// The usage lines name their options themselves.
		DisableFlagsInUseLine: true,
		SilenceErrors:         true,
		TraverseChildren:      true,
		Version:               version.Version,
		Args:                  unknownVerb,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, exitEngine, err) })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.CompletionOptions.DisableDescriptions = true
	root.Flags().StringVarP(&a.host, "host", "H", "", "Daemon socket to connect to (unix:// or tcp://)")
	root.Flags().SetInterspersed(false)
	addVerbs(a, root, verbs(), verbIndex(args))
	return root
}

// rest is what follows the verb; all asks for every command (help, completion).
type rest struct {
	name string
	args []string
	all  bool
}

// verbIndex finds the verb behind the flags of the root command.
func verbIndex(args []string) rest {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-H" || arg == "--host":
			i++
		case strings.HasPrefix(arg, "-"):
		case arg == "help" || arg == "completion" || strings.HasPrefix(arg, "__complete"):
			return rest{all: true}
		default:
			return rest{name: arg, args: args[i+1:]}
		}
	}
	return rest{}
}

// addVerbs adds the command that is asked for; where none is, light entries for the help text.
func addVerbs(a *app, parent *cobra.Command, table []verb, want rest) {
	for _, v := range table {
		if want.name == v.name {
			parent.AddCommand(v.build(a, want.args))
			return
		}
	}
	for _, v := range table {
		if want.all {
			parent.AddCommand(v.build(a, []string{"help"}))
			continue
		}
		parent.AddCommand(&cobra.Command{Use: v.name, Short: v.short, Run: func(*cobra.Command, []string) {}})
	}
}

// group makes the constructor of a management command (gantry container …).
func group(name, short string, table func() []verb) func(*app, []string) *cobra.Command {
	return func(a *app, args []string) *cobra.Command {
		cmd := &cobra.Command{
			Use: name + " COMMAND", Short: short, Args: unknownVerb,
			RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		}
		addVerbs(a, cmd, table(), verbIndex(args))
		return cmd
	}
}

func unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command: %s %s", cmd.CommandPath(), args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = errors.Join(err, fmt.Errorf("did you mean: %s?", strings.Join(near, ", ")))
	}
	return &exitError{code: exitFailure, err: err, hint: cmd.CommandPath()}
}
