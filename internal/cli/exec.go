package cli

import (
	"context"
	"errors"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"gantry/internal/client"
	"gantry/internal/detach"
)

type execOptions struct {
	detach, interactive, tty, privileged bool
	user, workdir, detachKeys            string
	env, envFiles                        []string
}

func newExec(a *app) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use: "exec [OPTIONS] CONTAINER COMMAND [ARG...]", Short: "Execute a command in a running container", Args: argsBetween(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.exec(cmd.Context(), args[0], args[1:], o) },
	}
	set := cmd.Flags()
	set.SetInterspersed(false)
	set.BoolVarP(&o.detach, "detach", "d", false, "Detached mode: run command in the background")
	set.BoolVarP(&o.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	set.BoolVarP(&o.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	set.BoolVar(&o.privileged, "privileged", false, "Give extended privileges to the command")
	set.StringVarP(&o.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	set.StringVarP(&o.workdir, "workdir", "w", "", "Working directory inside the container")
	set.StringArrayVarP(&o.env, "env", "e", nil, "Set environment variables")
	set.StringArrayVar(&o.envFiles, "env-file", nil, "Read in a file of environment variables")
	set.StringVar(&o.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

// exec is three round trips: create, start with the streams, and the exit code at the end.
func (a *app) exec(ctx context.Context, name string, command []string, o execOptions) error {
	env, err := environment(o.envFiles, o.env, os.LookupEnv)
	if err != nil {
		return err
	}
	if !o.detach {
		if err := a.checkTTY(o.interactive, o.tty); err != nil {
			return err
		}
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	create := container.ExecCreateRequest{
		User: o.user, Privileged: o.privileged, Tty: o.tty, Env: env, WorkingDir: o.workdir, Cmd: command,
		DetachKeys:  a.detachKeys(o.detachKeys, o.tty),
		AttachStdin: o.interactive && !o.detach, AttachStdout: !o.detach, AttachStderr: !o.detach,
	}
	if o.tty {
		height, width := terminalSize(a.out)
		create.ConsoleSize = &[2]uint{height, width}
	}
	id, err := api.ExecCreate(ctx, name, create)
	if err != nil {
		return err
	}
	if o.detach {
		return execError(api.ExecStart(ctx, id, container.ExecStartRequest{Tty: o.tty, ConsoleSize: create.ConsoleSize}))
	}
	return a.execAttached(ctx, api, name, id, create)
}

func (a *app) execAttached(ctx context.Context, api *client.Client, name, id string, o container.ExecCreateRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := a.session(&container.Config{
		Tty: o.Tty, AttachStdin: o.AttachStdin, AttachStdout: o.AttachStdout, AttachStderr: o.AttachStderr,
	}, o.DetachKeys)
	if err != nil {
		return err
	}
	conn, err := api.ExecAttach(ctx, id, container.ExecStartRequest{Tty: o.Tty, ConsoleSize: o.ConsoleSize})
	if err != nil {
		return execError(err)
	}
	api.Prepare(ctx) // to ask for the exit code
	if o.Tty {
		followSize(ctx, a.out, func(h, w uint) {
			_ = api.ExecResize(ctx, id, h, w) // it may have ended
		})
	}
	surviveBrokenPipe()
	switch err := s.transfer(conn); {
	case errors.Is(err, detach.ErrDetached):
		return err
	case errors.Is(err, errOutputClosed):
		return execOutputClosed(ctx, api, id, name)
	}
	code, err := api.ExecExitCode(ctx, id)
	if err != nil {
		return err
	}
	if code != nil && *code != 0 {
		return &exitError{code: *code}
	}
	return nil
}

// execError gives a command that could not be run its exit code, as in run.
func execError(err error) error {
	if err == nil || tooNew(err) {
		return err
	}
	if code := startExitCode("exec: " + err.Error()); code != exitEngine {
		return &exitError{code: code, err: err}
	}
	return err
}
