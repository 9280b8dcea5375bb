package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

func newRm(a *app) *cobra.Command {
	var o client.RemoveOptions
	cmd := &cobra.Command{
		Use: "rm [OPTIONS] CONTAINER [CONTAINER...]", Short: "Remove one or more containers",
		Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(ctx context.Context, api *client.Client, name string) error {
				err := api.ContainerRemove(ctx, name, o)
				if o.Force && errdefs.IsNotFound(err) {
					a.warnf("%v\n", err)
					return nil
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	cmd.Flags().BoolVarP(&o.Volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	cmd.Flags().BoolVarP(&o.Link, "link", "l", false, "Remove the specified link")
	return cmd
}

// eachCommand is a verb that does one thing to each container that it is given.
func eachCommand(a *app, use, short string, do func(context.Context, *client.Client, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.each(cmd.Context(), args, do) },
	}
}

// stopFlags are those of stop and restart.
type stopFlags struct {
	signal  string
	timeout int
}

func (f *stopFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.signal, "signal", "s", "", "Signal to send to the container")
	cmd.Flags().IntVarP(&f.timeout, "timeout", "t", 0, "Seconds to wait before killing the container")
	cmd.Flags().IntVar(&f.timeout, "time", 0, "Seconds to wait before killing the container")
	_ = cmd.Flags().MarkHidden("time")
}

// given is the timeout, nil when the container's own is to be used.
func (f *stopFlags) given(cmd *cobra.Command) *int {
	if cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time") {
		return &f.timeout
	}
	return nil
}

func newStop(a *app) *cobra.Command {
	var f stopFlags
	var cmd *cobra.Command
	cmd = eachCommand(a, "stop [OPTIONS] CONTAINER [CONTAINER...]", "Stop one or more running containers",
		func(ctx context.Context, api *client.Client, name string) error {
			return api.ContainerStop(ctx, name, client.StopOptions{Signal: f.signal, Timeout: f.given(cmd)})
		})
	f.register(cmd)
	return cmd
}

func newRestart(a *app) *cobra.Command {
	var f stopFlags
	var cmd *cobra.Command
	cmd = eachCommand(a, "restart [OPTIONS] CONTAINER [CONTAINER...]", "Restart one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			return api.ContainerRestart(ctx, name, client.StopOptions{Signal: f.signal, Timeout: f.given(cmd)})
		})
	f.register(cmd)
	return cmd
}

func newKill(a *app) *cobra.Command {
	var signal string
	cmd := eachCommand(a, "kill [OPTIONS] CONTAINER [CONTAINER...]", "Kill one or more running containers",
		func(ctx context.Context, api *client.Client, name string) error {
			return api.ContainerKill(ctx, name, signal)
		})
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal to send to the container")
	return cmd
}

func newPause(a *app) *cobra.Command {
	return eachCommand(a, "pause CONTAINER [CONTAINER...]", "Pause all processes within one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			return api.ContainerPause(ctx, name)
		})
}

func newUnpause(a *app) *cobra.Command {
	return eachCommand(a, "unpause CONTAINER [CONTAINER...]", "Unpause all processes within one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			return api.ContainerUnpause(ctx, name)
		})
}

func newRename(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rename CONTAINER NEW_NAME", Short: "Rename a container", Args: argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			if err := api.ContainerRename(cmd.Context(), args[0], args[1]); err != nil {
				return fmt.Errorf("failed to rename container: %w", err)
			}
			return nil
		},
	}
}

func newWait(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "wait CONTAINER [CONTAINER...]", Short: "Block until one or more containers stop, then print their exit codes",
		Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachQuiet(cmd.Context(), args, func(ctx context.Context, api *client.Client, name string) (string, error) {
				result := <-api.ContainerWait(ctx, name, "")
				if result.Err == nil && result.Error != nil {
					return "", errors.New(result.Error.Message)
				}
				return fmt.Sprintln(result.StatusCode), result.Err
			})
		},
	}
}
