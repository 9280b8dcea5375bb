package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gantry/internal/client"
	"gantry/internal/printable"
)

// Exit codes of docker's command line.
const (
	exitFailure     = 1   // a verb other than run failed
	exitEngine      = 125 // the daemon or the command line itself failed
	exitNotInvoked  = 126 // the command was found but could not be invoked
	exitNotFound    = 127 // the command was not found
	exitSignalShift = 128 // plus the signal's number
)

// exitError carries an exit code; err may be nil when there is nothing left to say.
type exitError struct {
	code  int
	err   error
	usage string // the usage line that was not kept to
	hint  string // the command path whose --help would help
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// app is what every command needs: the standard streams and the engine.
type app struct {
	in     *os.File
	out    io.Writer
	errOut io.Writer
	host   string // -H/--host

	api       *client.Client
	negotiate bool // ask the server for its API version before the first request
}

// Main runs the command line given without the program's name and returns the process's exit code.
func Main(ctx context.Context, args []string) int {
	a := &app{in: os.Stdin, out: os.Stdout, errOut: os.Stderr}
	return a.main(ctx, args)
}

func (a *app) main(ctx context.Context, args []string) int {
	err := a.execute(ctx, args)
	if tooNew(err) && !a.negotiate {
		// Nothing has happened yet: the server refuses every request of a version that it does not know.
		a.close()
		a.negotiate = true
		err = a.execute(ctx, args)
	}
	a.close()
	return a.report(err)
}

func (a *app) close() {
	if a.api != nil {
		_ = a.api.Close()
		a.api = nil
	}
}

func (a *app) execute(ctx context.Context, args []string) error {
	root := a.root(args)
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	return root.ExecuteContext(ctx)
}

// report prints err as docker would, under this program's name, and returns the exit code that it stands for.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	exit := &exitError{code: exitFailure}
	if errors.As(err, &exit) && exit.err == nil {
		return exit.code
	}
	for line := range strings.Lines(err.Error()) {
		a.warnf("gantry: %s\n", strings.TrimRight(line, "\n"))
	}
	if exit.usage != "" {
		a.warnf("\nUsage:  %s\n", exit.usage)
	}
	if exit.hint != "" {
		a.warnf("\nRun '%s --help' for more information\n", exit.hint)
	}
	return exit.code
}

// tooNew reports whether a server refused the API version of a request.
func tooNew(err error) bool {
	return err != nil && strings.Contains(err.Error(), "is too new") && strings.Contains(err.Error(), "client version")
}

func (a *app) println(args ...any)               { a.print(fmt.Sprintln(args...)) }
func (a *app) printf(format string, args ...any) { a.print(fmt.Sprintf(format, args...)) }

// print writes text that others wrote parts of: labels, names of files, a registry's words. On a terminal it is made safe
// to print; a program gets what there is. What a container writes does not come this way.
func (a *app) print(text string) {
	_, _ = io.WriteString(a.out, a.shown(text))
}

// screen is standard output for what print writes.
func (a *app) screen() io.Writer { return screen{a} }

type screen struct{ a *app }

func (s screen) Write(p []byte) (int, error) {
	if _, err := io.WriteString(s.a.out, s.a.shown(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (a *app) shown(text string) string {
	if file, ok := a.out.(*os.File); ok {
		if _, terminal := terminalOf(file); terminal {
			return printable.Text(text)
		}
	}
	return text
}

// warnf writes errors and warnings, always safe to print.
func (a *app) warnf(format string, args ...any) {
	_, _ = io.WriteString(a.errOut, printable.Text(fmt.Sprintf(format, args...)))
}

// usageError is a mistake on the command line: docker exits with 125 for flags and 1 for arguments.
func usageError(cmd *cobra.Command, code int, err error) error {
	return &exitError{code: code, err: err, usage: cmd.UseLine(), hint: cmd.CommandPath()}
}

// engineError gives a failure of run, or of the command line of create, docker's exit code.
func engineError(cmd *cobra.Command, err error) error {
	var exit *exitError
	if err == nil || errors.As(err, &exit) || tooNew(err) {
		return err
	}
	return &exitError{code: exitEngine, err: err, hint: cmd.CommandPath()}
}

// argsBetween checks the number of arguments in docker's words; most < 0 means any number.
func argsBetween(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && (most < 0 || len(args) <= most) {
			return nil
		}
		return usageError(cmd, exitFailure, fmt.Errorf("'%s' %s", cmd.CommandPath(), wantedArgs(least, most)))
	}
}

func wantedArgs(least, most int) string {
	plural := func(n int) string {
		if n == 1 {
			return "1 argument"
		}
		return fmt.Sprintf("%d arguments", n)
	}
	switch {
	case most == 0:
		return "accepts no arguments"
	case most < 0:
		return "requires at least " + plural(least)
	case least == most:
		return "requires " + plural(least)
	case least == 0:
		return "accepts at most " + plural(most)
	}
	return fmt.Sprintf("requires at least %d and at most %s", least, plural(most))
}
