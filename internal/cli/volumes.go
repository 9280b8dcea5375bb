package cli

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

func newVolumeCreate(a *app) *cobra.Command {
	var o volume.CreateRequest
	var labels, opts []string
	cmd := &cobra.Command{
		Use: "create [OPTIONS] [VOLUME]", Short: "Create a volume", Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.Name = args[0]
			}
			o.Labels, o.DriverOpts = keyValues(labels), keyValues(opts)
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			created, err := api.VolumeCreate(cmd.Context(), o)
			if err != nil {
				return err
			}
			a.println(created.Name)
			return nil
		},
	}
	cmd.Flags().StringVarP(&o.Driver, "driver", "d", "local", "Specify volume driver name")
	cmd.Flags().StringArrayVarP(&opts, "opt", "o", nil, "Set driver specific options")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "Set metadata for a volume")
	return cmd
}

func newVolumeList(a *app) *cobra.Command {
	var quiet bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Short: "List volumes", Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.volumes(cmd.Context(), filters, format, quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "Provide filter values (e.g. \"dangling=true\")")
	cmd.Flags().StringVar(&format, "format", "", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template")
	return cmd
}

func (a *app) volumes(ctx context.Context, filterFlags []string, format string, quiet bool) error {
	filters, err := parseFilters(filterFlags)
	if err != nil {
		return err
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	found, err := api.VolumeList(ctx, filters)
	if err != nil {
		return err
	}
	for _, warning := range found.Warnings {
		a.warnf("WARNING: %s\n", warning)
	}
	records := make([]record, len(found.Volumes))
	for i, v := range found.Volumes {
		records[i] = record{
			labelsKey: v.Labels, "Name": v.Name, "Driver": v.Driver, "Scope": v.Scope, "Mountpoint": v.Mountpoint,
			"Labels": labelText(v.Labels), "Links": "N/A", "Size": "N/A", "Availability": "N/A", "Group": "N/A", "Status": "N/A",
		}
	}
	return a.list(listing{
		headings: headings{
			"Name": "VOLUME NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS", "Links": "LINKS",
			"Size": "SIZE", "Availability": "AVAILABILITY", "Group": "GROUP", "Status": "STATUS",
		},
		table: `{{.Driver}}\t{{.Name}}`, id: "Name",
	}, format, quiet, records)
}

func newVolumeRm(a *app) *cobra.Command {
	var force bool
	cmd := eachCommand(a, "rm [OPTIONS] VOLUME [VOLUME...]", "Remove one or more volumes",
		func(ctx context.Context, api *client.Client, name string) error {
			err := api.VolumeRemove(ctx, name, force)
			if force && errdefs.IsNotFound(err) {
				return nil
			}
			return err
		})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of one or more volumes")
	return cmd
}

func newNetworkList(a *app) *cobra.Command {
	var quiet, noTrunc bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Short: "List networks", Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.networks(cmd.Context(), filters, format, quiet, noTrunc)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only display network IDs")
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "Do not truncate the output")
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "Provide filter values (e.g. \"driver=bridge\")")
	cmd.Flags().StringVar(&format, "format", "", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template")
	return cmd
}

func (a *app) networks(ctx context.Context, filterFlags []string, format string, quiet, full bool) error {
	filters, err := parseFilters(filterFlags)
	if err != nil {
		return err
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	found, err := api.NetworkList(ctx, filters)
	if err != nil {
		return err
	}
	records := make([]record, len(found))
	for i, n := range found {
		records[i] = record{
			labelsKey: n.Labels, "ID": n.ID, "Name": n.Name, "Driver": n.Driver, "Scope": n.Scope, "Labels": labelText(n.Labels),
			"IPv4": n.EnableIPv4, "IPv6": n.EnableIPv6, "Internal": n.Internal, "CreatedAt": n.Created.String(),
		}
		if !full {
			records[i]["ID"] = shortID(n.ID)
		}
	}
	upper := func(names ...string) headings {
		h := headings{"ID": "NETWORK ID", "CreatedAt": "CREATED AT"}
		for _, name := range names {
			h[name] = strings.ToUpper(name)
		}
		return h
	}
	return a.list(listing{
		headings: upper("Name", "Driver", "Scope", "Labels", "IPv4", "IPv6", "Internal"),
		table:    `{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}`, id: "ID",
	}, format, quiet, records)
}
