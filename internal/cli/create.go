package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Values of --pull.
const (
	pullAlways  = "always"
	pullMissing = "missing"
	pullNever   = "never"
)

// createOptions are the flags of run and create that are not part of the container's description.
type createOptions struct {
	name, platform, pull string
	quiet                bool
	untrusted            bool
}

func (o *createOptions) register(set *pflag.FlagSet) {
	set.StringVar(&o.name, "name", "", "Assign a name to the container")
	set.StringVar(&o.platform, "platform", "", "Set platform if server is multi-platform capable")
	set.StringVar(&o.pull, "pull", pullMissing, `Pull image before running ("always", "missing", "never")`)
	set.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the pull output")
	set.BoolVar(&o.untrusted, "disable-content-trust", true, "Skip image verification")
	_ = set.MarkDeprecated("disable-content-trust", "support for docker content trust was removed")
}

func (o *createOptions) validate() error {
	switch o.pull {
	case pullAlways, pullMissing, pullNever:
		return nil
	}
	return fmt.Errorf("invalid pull option: '%s': must be one of %q, %q or %q", o.pull, pullAlways, pullMissing, pullNever)
}

func newCreate(a *app) *cobra.Command {
	var flags containerFlags
	var opts createOptions
	cmd := &cobra.Command{
		Use: "create [OPTIONS] IMAGE [COMMAND] [ARG...]", Short: "Create a new container", Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := flags.request(args[0], args[1:])
			if err == nil {
				err = opts.validate()
			}
			if err != nil {
				return engineError(cmd, err)
			}
			id, err := a.create(cmd.Context(), req, opts)
			if err != nil {
				return err // 1 and not 125, as docker has it
			}
			a.println(id)
			return nil
		},
	}
	flags.register(cmd.Flags())
	opts.register(cmd.Flags())
	return cmd
}

// create makes the container, pulling its image as --pull says, and returns its id.
func (a *app) create(ctx context.Context, req *container.CreateRequest, opts createOptions) (id string, err error) {
	platform, err := parsePlatform(opts.platform)
	if err != nil {
		return "", err
	}
	api, err := a.engine(ctx)
	if err != nil {
		return "", err
	}
	commit, err := reserveIDFile(req.HostConfig.ContainerIDFile)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, commit(id)) }()
	created, err := withImage(ctx, a, req.Image, opts, func() (container.CreateResponse, error) {
		return api.ContainerCreate(ctx, req, opts.name, platform)
	})
	for _, warning := range created.Warnings {
		a.warnf("WARNING: %s\n", warning)
	}
	return created.ID, err
}

// withImage calls do, which needs the image: after pulling it with --pull always, again after pulling it when do
// found that it is missing.
func withImage[T any](ctx context.Context, a *app, image string, opts createOptions, do func() (T, error)) (T, error) {
	progress := a.errOut
	if opts.quiet {
		progress = io.Discard
	}
	pull := pullOptions{platform: opts.platform, out: progress}
	if opts.pull == pullAlways {
		if err := a.pull(ctx, image, pull); err != nil {
			var none T
			return none, err
		}
	}
	result, err := do()
	if opts.pull != pullMissing || !imageMissing(err) {
		return result, err
	}
	if _, parseErr := parseImageName(image); parseErr != nil {
		return result, err // an id: nothing that a registry could give
	}
	if !opts.quiet {
		a.warnf("Unable to find image '%s' locally\n", familiar(image))
	}
	if err := a.pull(ctx, image, pull); err != nil {
		return result, err
	}
	return do()
}

func imageMissing(err error) bool {
	return errdefs.IsNotFound(err) && strings.Contains(strings.ToLower(err.Error()), "image")
}

// familiar writes an image's name as people do: no default registry, but the tag that is meant.
func familiar(image string) string {
	name, err := parseImageName(image)
	if err != nil {
		return image
	}
	return name.withDefaultTag().String()
}

// parsePlatform reads OS, ARCH, OS/ARCH or OS/ARCH/VARIANT; nil for "".
func parsePlatform(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	parts := strings.Split(strings.ToLower(s), "/")
	p := ocispec.Platform{OS: "linux"}
	switch {
	case len(parts) == 1 && (parts[0] == "linux" || parts[0] == "windows"):
		p.OS = parts[0]
	case len(parts) == 1:
		p.Architecture = parts[0]
	case len(parts) == 2:
		p.OS, p.Architecture = parts[0], parts[1]
	case len(parts) == 3:
		p.OS, p.Architecture, p.Variant = parts[0], parts[1], parts[2]
	}
	if len(parts) > 3 || p.OS == "" || (p.Architecture == "" && len(parts) > 1) {
		return nil, fmt.Errorf("invalid platform %q: want OS[/ARCH[/VARIANT]]", s)
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "i386":
		p.Architecture = "386"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	return &p, nil
}

// reserveIDFile creates path, which must not exist; commit writes the id to it, or removes it when there is none.
func reserveIDFile(path string) (commit func(id string) error, err error) {
	if path == "" {
		return func(string) error { return nil }, nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("create the container ID file: %w", err)
	}
	return func(id string) error {
		_, writeErr := file.WriteString(id)
		closeErr := file.Close()
		if id == "" {
			return os.Remove(path)
		}
		return errors.Join(writeErr, closeErr)
	}, nil
}
