package cli

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"gantry/internal/detach"
)

// runOptions are the flags of run alone.
type runOptions struct {
	createOptions
	detach     bool
	sigProxy   bool
	plan       bool
	detachKeys string
}

func newRun(a *app) *cobra.Command {
	var flags containerFlags
	var opts runOptions
	cmd := &cobra.Command{
		Use: "run [OPTIONS] IMAGE [COMMAND] [ARG...]", Short: "Create and run a new container from an image", Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := flags.request(args[0], args[1:])
			if err == nil {
				err = opts.validate()
			}
			if err == nil {
				_, err = detach.ParseKeys(opts.detachKeys)
			}
			if err == nil && opts.detach && len(flags.attach) > 0 {
				err = errors.New("conflicting options: cannot specify both --attach and --detach")
			}
			if err != nil {
				return engineError(cmd, err)
			}
			return engineError(cmd, a.run(cmd.Context(), req, opts))
		},
	}
	set := cmd.Flags()
	flags.register(set)
	opts.register(set)
	set.BoolVarP(&opts.detach, "detach", "d", false, "Run container in background and print container ID")
	set.BoolVar(&opts.sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	set.StringVar(&opts.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	set.BoolVar(&opts.plan, "plan", false, "Print the system calls that would make the container, and exit")
	return cmd
}

// run is three round trips: create; attach and wait side by side; start.
func (a *app) run(ctx context.Context, req *container.CreateRequest, opts runOptions) error {
	if opts.plan {
		return a.plan(ctx, req, opts)
	}
	if opts.detach {
		return a.runDetached(ctx, req, opts)
	}
	if err := a.checkTTY(req.AttachStdin, req.Tty); err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	if req.Tty {
		req.HostConfig.ConsoleSize[0], req.HostConfig.ConsoleSize[1] = terminalSize(a.out)
	}
	id, err := a.create(ctx, req, opts.createOptions)
	if err != nil {
		return err
	}
	if !req.AttachStdout && !req.AttachStderr {
		a.println(id)
	}
	f := follow{
		config: req.Config, detachKeys: a.detachKeys(opts.detachKeys, req.Tty), sigProxy: opts.sigProxy,
		remove: req.HostConfig.AutoRemove, condition: container.WaitConditionNextExit,
	}
	if f.remove {
		f.condition = container.WaitConditionRemoved
	}
	return a.follow(ctx, a.api, id, f, func() error {
		return a.api.ContainerStart(ctx, id)
	})
}

func (a *app) runDetached(ctx context.Context, req *container.CreateRequest, opts runOptions) error {
	detached(req.Config)
	id, err := a.create(ctx, req, opts.createOptions)
	if err != nil {
		return err
	}
	if err := a.api.ContainerStart(ctx, id); err != nil {
		if req.HostConfig.AutoRemove {
			removeUnstarted(ctx, a.api, id)
		}
		a.println(id)
		return startError(err)
	}
	a.println(id)
	return nil
}

// plan asks the engine for the system calls that would make the container, as text.
func (a *app) plan(ctx context.Context, req *container.CreateRequest, opts runOptions) error {
	if _, err := a.engine(ctx); err != nil {
		return err
	}
	text, err := withImage(ctx, a, req.Image, opts.createOptions, func() ([]byte, error) { return a.api.ContainerPlan(ctx, req) })
	switch {
	case errdefs.IsNotFound(err) && !imageMissing(err):
		return errors.New("this engine cannot print plans: it has no /gantry/plan")
	case err != nil:
		return err
	}
	_, err = a.out.Write(text)
	return err
}
