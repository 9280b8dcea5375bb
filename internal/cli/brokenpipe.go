package cli

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"gantry/internal/client"
)

// surviveBrokenPipe makes writing to a closed standard output an error instead of the end of this process, so that the user
// can be told what goes on. It is called late: programs that this one starts inherit it.
func surviveBrokenPipe() { signal.Ignore(syscall.SIGPIPE) }

// endGrace is how long a process gets to end by itself before the user is told that it goes on.
const endGrace = time.Second

// outputClosed is the end of a command whose output nobody reads any more, such as "gantry run … | head -1". What prints it
// goes on, as with docker: it may be a service that somebody has looked at. exit is nil if its end is not known.
func outputClosed(what, hint string, ended <-chan struct{}) error {
	timer := time.NewTimer(endGrace)
	defer timer.Stop()
	broken := &exitError{code: exitSignalShift + int(syscall.SIGPIPE)}
	select {
	case <-ended:
	case <-timer.C:
		broken.err = fmt.Errorf("nobody reads the output any more, but %s goes on; %s", what, hint)
	}
	return broken
}

// containerOutputClosed is outputClosed for a container.
func containerOutputClosed(id string, exit <-chan client.Exit) error {
	ended := make(chan struct{})
	go func() {
		<-exit
		close(ended)
	}()
	short := id[:min(12, len(id))]
	return outputClosed("container "+short, fmt.Sprintf("%q shows it, %q ends it", "gantry logs -f "+short, "gantry stop "+short), ended)
}

// execOutputClosed is outputClosed for a command in a container.
func execOutputClosed(ctx context.Context, api *client.Client, id, name string) error {
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			code, err := api.ExecExitCode(ctx, id)
			if err != nil {
				return
			}
			if code != nil {
				close(ended)
				return
			}
			select { // the API has no way to wait for it
			case <-ctx.Done():
				return
			case <-time.After(endGrace / 10):
			}
		}
	}()
	return outputClosed("the command in container "+name, fmt.Sprintf("%q shows it", "gantry top "+name), ended)
}
