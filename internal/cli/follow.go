package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"gantry/internal/client"
	"gantry/internal/detach"
)

// follow says how a container is watched: which streams, which exit.
type follow struct {
	config     *container.Config // its Attach fields say which streams
	detachKeys string
	sigProxy   bool
	remove     bool // --rm: after a failed start the container has to go too
	condition  container.WaitCondition
}

// attached is a container with the streams connected and the wait registered, not yet started.
type attached struct {
	conn *client.Stream
	exit <-chan client.Exit
}

// follow attaches and registers the wait, both at once, then calls start (if any), transfers the streams and returns
// the container's exit code as an error.
func (a *app) follow(ctx context.Context, api *client.Client, id string, f follow, start func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := a.session(f.config, f.detachKeys)
	if err != nil {
		return err
	}
	var signals <-chan struct{}
	if f.sigProxy && !f.config.Tty { // a raw terminal's keys reach the container as bytes
		signals = proxySignals(ctx, api, id) // meanwhile the engine is asked
	}
	at, err := attachAndWait(ctx, api, id, f)
	if err != nil {
		return err
	}
	if signals != nil {
		<-signals
	}
	if start != nil {
		if err := start(); err != nil {
			_ = at.conn.Close()
			if f.remove {
				removeUnstarted(ctx, api, id)
			}
			return startError(err)
		}
	}
	if f.config.Tty {
		followSize(ctx, a.out, resizer(ctx, api, id))
	}
	surviveBrokenPipe()
	switch err := s.transfer(at.conn); {
	case errors.Is(err, detach.ErrDetached) && start == nil:
		return detach.ErrDetached
	case errors.Is(err, detach.ErrDetached):
		return nil
	case errors.Is(err, errOutputClosed):
		return containerOutputClosed(id, at.exit)
	}
	if s.out == nil && s.err == nil {
		return nil // only the input was attached: nobody waits for the end
	}
	return waitExit(ctx, at.exit)
}

// attachAndWait opens the streams and registers the wait in parallel.
func attachAndWait(ctx context.Context, api *client.Client, id string, f follow) (attached, error) {
	waiting := make(chan (<-chan client.Exit), 1)
	go func() {
		waiting <- api.ContainerWait(ctx, id, f.condition)
	}()
	conn, err := api.ContainerAttach(ctx, id, attachQuery(f.config, f.detachKeys, false))
	at := attached{conn: conn, exit: <-waiting}
	return at, err
}

// waitExit returns nil for exit code 0, else an exitError with the code.
func waitExit(ctx context.Context, exit <-chan client.Exit) error {
	select {
	case result := <-exit:
		if result.Err != nil {
			return &exitError{code: exitEngine, err: fmt.Errorf("wait for the container: %w", result.Err)}
		}
		if result.Error != nil {
			return &exitError{code: exitEngine, err: fmt.Errorf("wait for the container: %s", result.Error.Message)}
		}
		if result.StatusCode != 0 {
			return &exitError{code: int(result.StatusCode)}
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// removalTimeout bounds the wait for a container whose removal somebody else has begun.
const removalTimeout = 10 * time.Second

// removeUnstarted removes a --rm container that did not start; the engine may have done so already.
func removeUnstarted(ctx context.Context, api *client.Client, id string) {
	err := api.ContainerRemove(ctx, id, client.RemoveOptions{Force: true, Volumes: true})
	if !errdefs.IsConflict(err) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, removalTimeout)
	defer cancel()
	gone := api.ContainerWait(ctx, id, container.WaitConditionRemoved)
	_ = waitExit(ctx, gone)
}

// startError gives a failed start docker's exit code: 127 when the command was not found, 126 when it could not be
// invoked, else 125.
func startError(err error) error {
	if tooNew(err) {
		return err
	}
	return &exitError{code: startExitCode(err.Error()), err: err, hint: "gantry run"}
}

func startExitCode(message string) int {
	text := strings.ToLower(message)
	aboutCommand := strings.Contains(text, "exec")
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	switch {
	case has("executable file not found"), aboutCommand && has("no such file or directory"):
		return exitNotFound
	case aboutCommand && has("permission denied", "is a directory", "exec format error"):
		return exitNotInvoked
	}
	return exitEngine
}

// proxied lists the signals that are passed on: those that people and supervisors send. It is short on purpose: the Go
// runtime takes two thread switches to enable a signal, so that all 64 would take longer than the rest of run.
func proxied() []os.Signal {
	return []os.Signal{
		unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT, unix.SIGTSTP,
	}
}

// proxySignals passes this process's signals on to the container until ctx ends; it closes ready when it receives them.
// They are not given back: what follows is the end of the process.
func proxySignals(ctx context.Context, api *client.Client, id string) (ready <-chan struct{}) {
	enabled := make(chan struct{})
	go func() {
		received := make(chan os.Signal, 128)
		signal.Notify(received, proxied()...)
		close(enabled)
		for {
			select {
			case sig := <-received:
				number, ok := sig.(unix.Signal)
				if !ok {
					continue
				}
				// It may not run yet, or no longer: then the signal has no receiver.
				_ = api.ContainerKill(ctx, id, strconv.Itoa(int(number)))
			case <-ctx.Done():
				return
			}
		}
	}()
	return enabled
}
