package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

// pruneOptions are the flags that the prune verbs share.
type pruneOptions struct {
	force, all, volumes bool
	filters             []string
}

// pruned is what one kind of object gave back.
type pruned struct {
	title string // of the list of names
	names []string
	freed uint64
}

type pruner func(ctx context.Context, api *client.Client, o pruneOptions, f client.Filters) (pruned, error)

// pruneCommand asks (unless forced) and removes what the pruners find.
func pruneCommand(a *app, short string, o *pruneOptions, warning func() string, pruners func() []pruner) *cobra.Command {
	cmd := &cobra.Command{
		Use: "prune [OPTIONS]", Short: short, Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filters, err := parseFilters(o.filters)
			if err != nil {
				return err
			}
			a.negotiate = true // a question is asked once: this cannot be run again
			if !o.force && !a.confirm("WARNING! "+warning()) {
				return &exitError{code: exitFailure, err: errors.New("prune has been cancelled")}
			}
			return a.prune(cmd.Context(), *o, filters, pruners())
		},
	}
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
	cmd.Flags().StringArrayVar(&o.filters, "filter", nil, "Provide filter values (e.g. \"until=24h\")")
	return cmd
}

func (a *app) prune(ctx context.Context, o pruneOptions, filters client.Filters, pruners []pruner) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	var freed uint64
	for _, prune := range pruners {
		report, err := prune(ctx, api, o, filters.Clone())
		if err != nil {
			return err
		}
		freed += report.freed
		if len(report.names) > 0 {
			a.printf("%s\n%s\n\n", report.title, strings.Join(report.names, "\n"))
		}
	}
	a.println("Total reclaimed space:", units.HumanSize(float64(freed)))
	return nil
}

// confirm asks a question and wants y or yes.
func (a *app) confirm(question string) bool {
	a.printf("%s\nAre you sure you want to continue? [y/N] ", question)
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return err == nil && (answer == "y" || answer == "yes")
}

func pruneContainers(ctx context.Context, api *client.Client, _ pruneOptions, f client.Filters) (pruned, error) {
	done, err := api.ContainerPrune(ctx, f)
	return pruned{"Deleted Containers:", done.ContainersDeleted, done.SpaceReclaimed}, err
}

func pruneImages(ctx context.Context, api *client.Client, o pruneOptions, f client.Filters) (pruned, error) {
	f.Add("dangling", fmt.Sprint(!o.all))
	done, err := api.ImagePrune(ctx, f)
	out := pruned{title: "Deleted Images:", freed: done.SpaceReclaimed}
	for _, item := range done.ImagesDeleted {
		if item.Untagged != "" {
			out.names = append(out.names, "untagged: "+item.Untagged)
		}
		if item.Deleted != "" {
			out.names = append(out.names, "deleted: "+item.Deleted)
		}
	}
	return out, err
}

func pruneVolumes(ctx context.Context, api *client.Client, o pruneOptions, f client.Filters) (pruned, error) {
	if o.all {
		f.Add("all", "true")
	}
	done, err := api.VolumePrune(ctx, f)
	return pruned{"Deleted Volumes:", done.VolumesDeleted, done.SpaceReclaimed}, err
}

func pruneNetworks(ctx context.Context, api *client.Client, _ pruneOptions, f client.Filters) (pruned, error) {
	done, err := api.NetworkPrune(ctx, f)
	return pruned{"Deleted Networks:", done.NetworksDeleted, 0}, err
}

func newContainerPrune(a *app) *cobra.Command {
	return pruneCommand(a, "Remove all stopped containers", &pruneOptions{},
		func() string { return "This will remove all stopped containers." }, func() []pruner { return []pruner{pruneContainers} })
}

func newImagePrune(a *app) *cobra.Command {
	o := &pruneOptions{}
	cmd := pruneCommand(a, "Remove unused images", o, func() string {
		if o.all {
			return "This will remove all images without at least one container associated to them."
		}
		return "This will remove all dangling images."
	}, func() []pruner { return []pruner{pruneImages} })
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Remove all unused images, not just dangling ones")
	return cmd
}

func newVolumePrune(a *app) *cobra.Command {
	o := &pruneOptions{}
	cmd := pruneCommand(a, "Remove unused local volumes", o, func() string {
		if o.all {
			return "This will remove all local volumes not used by at least one container."
		}
		return "This will remove anonymous local volumes not used by at least one container."
	}, func() []pruner { return []pruner{pruneVolumes} })
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	return cmd
}

func newNetworkPrune(a *app) *cobra.Command {
	return pruneCommand(a, "Remove all unused networks", &pruneOptions{},
		func() string { return "This will remove all custom networks not used by at least one container." },
		func() []pruner { return []pruner{pruneNetworks} })
}

func newSystemPrune(a *app) *cobra.Command {
	o := &pruneOptions{}
	cmd := pruneCommand(a, "Remove unused data", o, func() string {
		text := "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n"
		if o.volumes {
			text += "  - all anonymous volumes not used by at least one container\n"
		}
		if o.all {
			return text + "  - all images without at least one container associated to them\n"
		}
		return text + "  - all dangling images\n"
	}, func() []pruner {
		all := []pruner{pruneContainers, pruneNetworks}
		if o.volumes {
			all = append(all, func(ctx context.Context, api *client.Client, _ pruneOptions, f client.Filters) (pruned, error) {
				return pruneVolumes(ctx, api, pruneOptions{}, f) // --all is about images
			})
		}
		return append(all, pruneImages)
	})
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Remove all unused images not just dangling ones")
	cmd.Flags().BoolVar(&o.volumes, "volumes", false, "Prune anonymous volumes")
	return cmd
}
