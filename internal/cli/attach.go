package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"syscall"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"gantry/internal/client"
	"gantry/internal/detach"
)

// session connects the standard streams with those of a container or an exec; nil streams are not attached.
type session struct {
	in         io.Reader
	out, err   io.Writer
	tty        bool
	detachKeys []byte
}

// transfer copies until the output ends (or, with no output attached, the input) and returns detach.ErrDetached when the
// user typed the detach sequence. A terminal is in raw mode meanwhile.
func (s *session) transfer(conn *client.Stream) error {
	defer func() { _ = conn.Close() }()
	in := s.in
	if in != nil && s.tty {
		restore, err := rawTerminal(in)
		if err != nil {
			return fmt.Errorf("set the terminal to raw mode: %w", err)
		}
		defer restore()
		in = detach.NewReader(in, s.detachKeys)
	}
	inputEnd, outputEnd := make(chan error, 1), make(chan error, 1)
	go func() { inputEnd <- sendInput(conn, in) }()
	if s.out != nil || s.err != nil {
		go func() { outputEnd <- s.receive(conn) }()
	} else if in == nil {
		return nil
	}
	for {
		select {
		case err := <-outputEnd:
			return err
		case err := <-inputEnd:
			if errors.Is(err, detach.ErrDetached) || (s.out == nil && s.err == nil) {
				return err
			}
			inputEnd = nil // the output goes on; a broken pipe of the input is its end
		}
	}
}

func sendInput(conn *client.Stream, in io.Reader) error {
	if in == nil {
		return nil
	}
	_, err := io.Copy(conn.Conn, in)
	if errors.Is(err, detach.ErrDetached) {
		return err
	}
	_ = conn.CloseWrite()
	return err
}

func (s *session) receive(conn *client.Stream) error {
	out, errOut := output{s.out}, output{s.err}
	if s.out == nil {
		out.Writer = io.Discard
	}
	if s.err == nil {
		errOut.Writer = io.Discard
	}
	if s.tty {
		_, err := conn.Reader.WriteTo(out)
		return err
	}
	_, err := stdcopy.StdCopy(out, errOut, conn.Reader)
	return err
}

// errOutputClosed reports that nobody reads what this command prints.
var errOutputClosed = errors.New("the output is closed")

// output tells a broken pipe of this command's own output from one of the connection to the engine.
type output struct{ io.Writer }

func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = errOutputClosed
	}
	return n, err
}

// attachQuery is the query of POST /containers/{id}/attach for config's streams.
func attachQuery(c *container.Config, detachKeys string, logs bool) url.Values {
	q := url.Values{"stream": {"1"}}
	for name, on := range map[string]bool{"stdin": c.AttachStdin, "stdout": c.AttachStdout, "stderr": c.AttachStderr, "logs": logs} {
		if on {
			q.Set(name, "1")
		}
	}
	if detachKeys != "" {
		q.Set("detachKeys", detachKeys)
	}
	return q
}

// session makes the session for the streams that config attaches. On a terminal stderr is part of stdout.
func (a *app) session(c *container.Config, detachKeys string) (*session, error) {
	keys, err := detach.ParseKeys(detachKeys)
	if err != nil {
		return nil, err
	}
	s := &session{tty: c.Tty, detachKeys: keys}
	if c.AttachStdin {
		s.in = a.in
	}
	if c.AttachStdout {
		s.out = a.out
	}
	if c.AttachStderr {
		s.err = a.errOut
		if c.Tty {
			s.out, s.err = a.out, nil
		}
	}
	return s, nil
}

// checkTTY refuses to give a container a terminal's input that is no terminal.
func (a *app) checkTTY(attachStdin, tty bool) error {
	if !attachStdin || !tty {
		return nil
	}
	if _, ok := terminalOf(a.in); !ok {
		return errors.New("cannot attach stdin to a TTY-enabled container because stdin is not a terminal")
	}
	return nil
}

// resizer follows the size of the terminal for a container.
func resizer(ctx context.Context, api *client.Client, id string) func(height, width uint) {
	return func(h, w uint) {
		_ = api.ContainerResize(ctx, id, h, w) // it may be gone by now
	}
}

func newAttach(a *app) *cobra.Command {
	var noStdin, sigProxy bool
	var detachKeys string
	cmd := &cobra.Command{
		Use: "attach [OPTIONS] CONTAINER", Short: "Attach local standard input, output, and error streams to a running container",
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.attach(cmd.Context(), args[0], noStdin, sigProxy, detachKeys)
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
	cmd.Flags().BoolVar(&sigProxy, "sig-proxy", true, "Proxy all received signals to the process")
	cmd.Flags().StringVar(&detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

func (a *app) attach(ctx context.Context, name string, noStdin, sigProxy bool, detachKeys string) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	c, _, err := api.ContainerInspect(ctx, name, false)
	if err != nil {
		return err
	}
	switch {
	case c.State == nil || c.Config == nil:
		return fmt.Errorf("the engine's description of container %s lacks its state", name)
	case !c.State.Running:
		return errors.New("cannot attach to a stopped container, start it first")
	case c.State.Paused:
		return errors.New("cannot attach to a paused container, unpause it first")
	case c.State.Restarting:
		return errors.New("cannot attach to a restarting container, wait until it is running")
	}
	config := *c.Config
	config.AttachStdin, config.AttachStdout, config.AttachStderr = c.Config.OpenStdin && !noStdin, true, true
	if err := a.checkTTY(config.AttachStdin, config.Tty); err != nil {
		return err
	}
	f := follow{config: &config, detachKeys: a.detachKeys(detachKeys, config.Tty), sigProxy: sigProxy, condition: container.WaitConditionNotRunning}
	return a.follow(ctx, api, c.ID, f, nil)
}
