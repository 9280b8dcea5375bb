package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gantry/internal/version"
)

// verb is a line of the table from which commands are made: only the verb that is asked for is built.
type verb struct {
	name  string
	short string // "" for another name of a verb, which the help does not list
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
		{"attach", "Attach local standard input, output, and error streams to a running container", leaf(newAttach)},
		{"stop", "Stop one or more running containers", leaf(newStop)},
		{"restart", "Restart one or more containers", leaf(newRestart)},
		{"kill", "Kill one or more running containers", leaf(newKill)},
		{"wait", "Block until one or more containers stop, then print their exit codes", leaf(newWait)},
		{"pause", "Pause all processes within one or more containers", leaf(newPause)},
		{"unpause", "Unpause all processes within one or more containers", leaf(newUnpause)},
		{"rename", "Rename a container", leaf(newRename)},
		{"update", "Update configuration of one or more containers", leaf(newUpdate)},
		{"port", "List port mappings or a specific mapping for the container", leaf(newPort)},
		{"top", "Display the running processes of a container", leaf(newTop)},
		{"stats", "Display a live stream of container(s) resource usage statistics", leaf(newStats)},
		{"cp", "Copy files/folders between a container and the local filesystem", leaf(newCp)},
		{"diff", "Inspect changes to files or directories on a container's filesystem", leaf(newDiff)},
		{"export", "Export a container's filesystem as a tar archive", leaf(newExport)},
		{"events", "Get real time events from the server", leaf(newEvents)},
		{"load", "Load an image from a tar archive or STDIN", leaf(newLoad)},
		{"tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", leaf(newTag)},
		{"rmi", "Remove one or more images", leaf(newRmi)},
		{"history", "Show the history of an image", leaf(newHistory)},
		{"version", "Show the version of the command line and the engine", leaf(newVersion)},
		{"info", "Display system-wide information", leaf(newInfo)},
		{"container", "Manage containers", group("container", "Manage containers", containerVerbs)},
		{"image", "Manage images", group("image", "Manage images", imageVerbs)},
		{"volume", "Manage volumes", group("volume", "Manage volumes", volumeVerbs)},
		{"network", "Manage networks", group("network", "Manage networks", networkVerbs)},
		{"system", "Manage the engine", group("system", "Manage the engine", systemVerbs)},
	}
}

// root builds the command tree as far as args need it.
func (a *app) root(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:              "gantry [OPTIONS] COMMAND [ARG...]",
		Short:            "A container platform that speaks the Docker Engine API",
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true,
		Version:          version.Version,
		Args:             unknownVerb,
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, exitEngine, err) })
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { a.help(cmd) })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.CompletionOptions.DisableDescriptions = true
	root.Flags().StringVarP(&a.host, "host", "H", "", "Daemon socket to connect to (unix:// or tcp://)")
	root.Flags().Func("config", "Location of docker's client configuration (default \"~/.docker\")", func(dir string) error {
		return os.Setenv("DOCKER_CONFIG", dir)
	})
	root.Flags().SetInterspersed(false)
	if want := verbIndex(args); !want.version {
		addVerbs(a, root, verbs(), want)
	}
	return root
}

// rest is what follows the verb; all asks for every command (help, completion), version for none.
type rest struct {
	name    string
	args    []string
	all     bool
	version bool
}

// verbIndex finds the verb behind the flags of the root command.
func verbIndex(args []string) rest {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-H" || arg == "--host" || arg == "--config":
			i++
		case arg == "--version" || arg == "-v":
			return rest{version: true}
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
			cmd := v.build(a, want.args)
			cmd.DisableFlagsInUseLine = true // the usage lines name their options themselves
			parent.AddCommand(cmd)
			return
		}
	}
	for _, v := range table {
		if want.all {
			parent.AddCommand(v.build(a, []string{"help"}))
			continue
		}
		if v.short != "" {
			parent.AddCommand(&cobra.Command{Use: v.name, Short: v.short, Run: func(*cobra.Command, []string) {}})
		}
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

// named gives a command another name in its group: ps is container ls.
func named(name string, build func(*app) *cobra.Command) func(*app, []string) *cobra.Command {
	return func(a *app, _ []string) *cobra.Command {
		cmd := build(a)
		_, rest, _ := strings.Cut(cmd.Use, " ")
		cmd.Use = name + " " + rest
		return cmd
	}
}

func containerVerbs() []verb {
	var table []verb
	for _, v := range verbs() {
		switch v.name {
		case "run", "exec", "create", "start", "rm", "logs", "attach", "stop", "restart", "kill", "wait", "pause", "unpause",
			"rename", "update", "port", "top", "stats", "cp", "diff", "export":
			table = append(table, v)
		}
	}
	return append(table,
		verb{"ls", "List containers", named("ls", newPs)},
		verb{"list", "", named("list", newPs)},
		verb{"ps", "", leaf(newPs)},
		verb{"remove", "", named("remove", newRm)},
		verb{"inspect", "Display detailed information on one or more containers", leaf(newInspectOf("container"))},
		verb{"prune", "Remove all stopped containers", leaf(newContainerPrune)},
	)
}

func imageVerbs() []verb {
	return []verb{
		{"ls", "List images", named("ls", newImages)},
		{"list", "", named("list", newImages)},
		{"pull", "Download an image from a registry", leaf(newPull)},
		{"rm", "Remove one or more images", named("rm", newRmi)},
		{"remove", "", named("remove", newRmi)},
		{"inspect", "Display detailed information on one or more images", leaf(newInspectOf("image"))},
		{"load", "Load an image from a tar archive or STDIN", leaf(newLoad)},
		{"tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", leaf(newTag)},
		{"history", "Show the history of an image", leaf(newHistory)},
		{"prune", "Remove unused images", leaf(newImagePrune)},
	}
}

func volumeVerbs() []verb {
	return []verb{
		{"create", "Create a volume", leaf(newVolumeCreate)},
		{"ls", "List volumes", leaf(newVolumeList)},
		{"list", "", named("list", newVolumeList)},
		{"rm", "Remove one or more volumes", leaf(newVolumeRm)},
		{"remove", "", named("remove", newVolumeRm)},
		{"inspect", "Display detailed information on one or more volumes", leaf(newInspectOf("volume"))},
		{"prune", "Remove unused local volumes", leaf(newVolumePrune)},
	}
}

func networkVerbs() []verb {
	return []verb{
		{"ls", "List networks", leaf(newNetworkList)},
		{"list", "", named("list", newNetworkList)},
		{"inspect", "Display detailed information on one or more networks", leaf(newInspectOf("network"))},
		{"prune", "Remove all unused networks", leaf(newNetworkPrune)},
	}
}

func systemVerbs() []verb {
	return []verb{
		{"info", "Display system-wide information", leaf(newInfo)},
		{"events", "Get real time events from the server", leaf(newEvents)},
		{"df", "Show disk usage", leaf(newDiskUsage)},
		{"prune", "Remove unused data", leaf(newSystemPrune)},
	}
}

func unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command: %s %s", cmd.CommandPath(), args[0])
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = errors.Join(err, fmt.Errorf("did you mean: %s?", strings.Join(near, ", ")))
	}
	return &exitError{code: exitFailure, err: err, hint: cmd.CommandPath()}
}
