package cli

import (
	"context"
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

func newLogs(a *app) *cobra.Command {
	o := client.LogsOptions{}
	cmd := &cobra.Command{
		Use: "logs [OPTIONS] CONTAINER", Short: "Fetch the logs of a container", Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.logs(cmd.Context(), args[0], o) },
	}
	set := cmd.Flags()
	set.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	set.StringVar(&o.Since, "since", "", "Show logs since timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)")
	set.StringVar(&o.Until, "until", "", "Show logs before a timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)")
	set.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	set.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	set.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	return cmd
}

func (a *app) logs(ctx context.Context, name string, o client.LogsOptions) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	found, _, err := api.ContainerInspect(ctx, name, false)
	if err != nil {
		return err
	}
	lines, err := api.ContainerLogs(ctx, found.ID, o)
	if err != nil {
		return err
	}
	defer func() { _ = lines.Close() }()
	if found.Config != nil && found.Config.Tty {
		_, err = io.Copy(a.out, lines)
		return err
	}
	_, err = stdcopy.StdCopy(a.out, a.errOut, lines)
	return err
}
