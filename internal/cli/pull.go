package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

type pullOptions struct {
	platform string
	all      bool
	out      io.Writer
}

func newPull(a *app) *cobra.Command {
	var opts pullOptions
	var quiet, untrusted bool
	cmd := &cobra.Command{
		Use: "pull [OPTIONS] NAME[:TAG|@DIGEST]", Short: "Download an image from a registry", Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseImageName(args[0])
			switch {
			case err != nil:
				return err
			case opts.all && !name.bare():
				return errors.New("tag can't be used with --all-tags/-a")
			}
			a.negotiate = true // what is printed first is printed once
			opts.out = a.out
			if quiet {
				opts.out = io.Discard
			} else if !opts.all && name.bare() {
				a.println("Using default tag: latest")
			}
			if err := a.pull(cmd.Context(), args[0], opts); err != nil {
				return err
			}
			a.println(name.withDefaultTag().full())
			return nil
		},
	}
	cmd.Flags().BoolVarP(&opts.all, "all-tags", "a", false, "Download all tagged images in the repository")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	cmd.Flags().StringVar(&opts.platform, "platform", "", "Set platform if server is multi-platform capable")
	cmd.Flags().BoolVar(&untrusted, "disable-content-trust", true, "Skip image verification")
	_ = cmd.Flags().MarkDeprecated("disable-content-trust", "support for docker content trust was removed")
	return cmd
}

// pull downloads an image with the credentials of docker's configuration and shows the progress on opts.out.
func (a *app) pull(ctx context.Context, image string, opts pullOptions) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	auth, err := registryAuth(image)
	if err != nil {
		return err
	}
	name, err := parseImageName(image)
	if err != nil {
		return err
	}
	if !opts.all {
		name = name.withDefaultTag()
	}
	platform, err := parsePlatform(opts.platform)
	if err != nil {
		return err
	}
	messages, err := api.ImagePull(ctx, client.PullOptions{
		Name: name.repository(), Tag: cmp.Or(name.digest, name.tag), RegistryAuth: auth, Platform: platform,
	})
	if err != nil {
		return err
	}
	defer func() { _ = messages.Close() }()
	if err := showProgress(ctx, opts.out, messages.All()); err != nil {
		if told := new(jsonstream.Error); errors.As(err, &told) {
			return err // the daemon says itself what it pulled
		}
		return fmt.Errorf("pull %s: %w", image, err)
	}
	return nil
}
