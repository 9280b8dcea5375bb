package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

func newStart(a *app) *cobra.Command {
	var attachOut, interactive, sigProxy bool
	var detachKeys string
	cmd := &cobra.Command{
		Use: "start [OPTIONS] CONTAINER [CONTAINER...]", Short: "Start one or more stopped containers", Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if attachOut || interactive {
				if len(args) > 1 {
					return errors.New("you cannot start and attach multiple containers at once")
				}
				return a.startAttached(cmd.Context(), args[0], attachOut, interactive, sigProxy, detachKeys)
			}
			var mu sync.Mutex
			failed := map[string]bool{}
			err := a.each(cmd.Context(), args, func(ctx context.Context, api *client.Client, name string) error {
				err := api.ContainerStart(ctx, name)
				if err != nil {
					mu.Lock()
					failed[name] = true
					mu.Unlock()
				}
				return err
			})
			if len(failed) > 0 && !tooNew(err) {
				return errors.Join(err, fmt.Errorf("failed to start containers: %s", strings.Join(slices.Sorted(maps.Keys(failed)), ", ")))
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&attachOut, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "Attach container's STDIN")
	cmd.Flags().BoolVar(&sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	cmd.Flags().StringVar(&detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

// startAttached starts a container with its streams connected; its exit code becomes this command's.
func (a *app) startAttached(ctx context.Context, name string, out, in, sigProxy bool, detachKeys string) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	c, _, err := api.ContainerInspect(ctx, name, false)
	if err != nil {
		return err
	}
	if c.Config == nil || c.HostConfig == nil {
		return fmt.Errorf("the engine's description of container %s lacks its configuration", name)
	}
	config := *c.Config
	config.AttachStdin, config.AttachStdout, config.AttachStderr = in && c.Config.OpenStdin, out || in, out || in
	if err := a.checkTTY(config.AttachStdin, config.Tty); err != nil {
		return err
	}
	f := follow{config: &config, detachKeys: a.detachKeys(detachKeys, config.Tty), sigProxy: sigProxy, condition: container.WaitConditionNextExit}
	if c.HostConfig.AutoRemove {
		f.condition = container.WaitConditionRemoved
	}
	return a.follow(ctx, api, c.ID, f, func() error {
		return api.ContainerStart(ctx, c.ID)
	})
}
