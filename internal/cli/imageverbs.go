package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

func newLoad(a *app) *cobra.Command {
	var input, platform string
	var quiet bool
	cmd := &cobra.Command{
		Use: "load [OPTIONS]", Short: "Load an image from a tar archive or STDIN", Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.load(cmd.Context(), input, platform, quiet) },
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Suppress the load output")
	cmd.Flags().StringVar(&platform, "platform", "", "Load only the given platform")
	return cmd
}

func (a *app) load(ctx context.Context, input, platform string, quiet bool) error {
	archive := a.in
	if input != "" {
		file, err := os.Open(input)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		defer func() { _ = file.Close() }()
		archive = file
	} else if _, ok := terminalOf(a.in); ok {
		return errors.New("requested load from stdin, but stdin is empty")
	}
	a.negotiate = true // a request that has read the archive cannot be made again
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	p, err := parsePlatform(platform)
	if err != nil {
		return err
	}
	messages, err := api.ImageLoad(ctx, archive, quiet, p)
	if err != nil {
		return err
	}
	defer func() { _ = messages.Close() }()
	return showProgress(ctx, a.out, messages.All())
}

func newTag(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", Short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", Args: argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			name, err := parseImageName(args[1])
			if err != nil {
				return err
			}
			if name.digest != "" {
				return errors.New("refusing to create a tag with a digest reference")
			}
			return api.ImageTag(cmd.Context(), args[0], name.repository(), cmp.Or(name.tag, "latest"))
		},
	}
}

func newRmi(a *app) *cobra.Command {
	var force, noPrune bool
	var platforms []string
	cmd := &cobra.Command{
		Use: "rmi [OPTIONS] IMAGE [IMAGE...]", Short: "Remove one or more images", Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := client.ImageRemoveOptions{Force: force, NoPrune: noPrune}
			for _, s := range platforms {
				p, err := parsePlatform(s)
				if err != nil || p == nil {
					return fmt.Errorf("platform %q: %w", s, err)
				}
				o.Platforms = append(o.Platforms, p)
			}
			return a.rmi(cmd.Context(), args, o)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force removal of the image")
	cmd.Flags().BoolVar(&noPrune, "no-prune", false, "Do not delete untagged parents")
	cmd.Flags().StringArrayVar(&platforms, "platform", nil, "Remove only the given platform variant")
	return cmd
}

// rmi removes images one after the other: names of one image depend on each other.
func (a *app) rmi(ctx context.Context, names []string, o client.ImageRemoveOptions) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, name := range names {
		removed, err := api.ImageRemove(ctx, name, o)
		switch {
		case o.Force && errdefs.IsNotFound(err):
			a.warnf("%v\n", err)
		case err != nil:
			failures = append(failures, err)
		}
		for _, item := range removed {
			if item.Untagged != "" {
				a.println("Untagged:", item.Untagged)
			}
			if item.Deleted != "" {
				a.println("Deleted:", item.Deleted)
			}
		}
	}
	return errors.Join(failures...)
}

func newHistory(a *app) *cobra.Command {
	var noTrunc, quiet, human bool
	var format, platform string
	cmd := &cobra.Command{
		Use: "history [OPTIONS] IMAGE", Short: "Show the history of an image", Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePlatform(platform)
			if err != nil {
				return err
			}
			records, err := a.history(cmd.Context(), args[0], p, noTrunc, human)
			if err != nil {
				return err
			}
			return a.list(listing{
				headings: headings{
					"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
				},
				table: `{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`, id: "ID",
			}, format, quiet, records)
		},
	}
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
	cmd.Flags().BoolVarP(&human, "human", "H", true, "Print sizes and dates in human readable format")
	cmd.Flags().StringVar(&format, "format", "", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template")
	cmd.Flags().StringVar(&platform, "platform", "", "Show history for the given platform")
	return cmd
}

func (a *app) history(ctx context.Context, name string, platform *ocispec.Platform, full, human bool) ([]record, error) {
	api, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	found, err := api.ImageHistory(ctx, name, platform)
	if err != nil {
		return nil, err
	}
	records := make([]record, len(found))
	for i, item := range found {
		created := time.Unix(item.Created, 0)
		r := record{
			"ID": item.ID, "CreatedAt": created.Format(time.RFC3339), "CreatedSince": ago(created), "Comment": item.Comment,
			"CreatedBy": strings.ReplaceAll(item.CreatedBy, "\t", " "), "Size": humanSize(item.Size),
		}
		if !full {
			r["ID"], r["CreatedBy"] = shortID(item.ID), ellipsis(fmt.Sprint(r["CreatedBy"]), 45)
		}
		if !human {
			r["Size"], r["CreatedSince"] = fmt.Sprint(item.Size), r["CreatedAt"]
		}
		records[i] = r
	}
	return records, nil
}
