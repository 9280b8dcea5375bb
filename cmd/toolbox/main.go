// Command toolbox is a shell and the core utilities in one static program, the content of the embedded image of the
// same name. It runs the applet that it is called by, or "toolbox APPLET [ARGUMENT]...".
//
// Starting must be quick. Packages with costly initialisation (net/http, crypto/tls) are not imported, and what else
// makes a program large, pages to fault in, is left out with the build tag toolbox_core: the image has both programs,
// and each applet is a link to the smallest that knows it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// applet is called with its name and arguments.
type applet struct {
	name string
	run  func(args []string) error
}

// applets is sorted by name.
func applets() []applet {
	all := append([]applet{
		{"basename", basename},
		{"cat", cat},
		{"chmod", chmod},
		{"chown", chown},
		{"clear", clearScreen},
		{"cut", cut},
		{"date", date},
		{"dd", dd},
		{"df", df},
		{"dirname", dirname},
		{"du", du},
		{"echo", echo},
		{"env", env},
		{"false", alwaysFalse},
		{"find", find},
		{"free", free},
		{"head", head},
		{"hog", hog},
		{"hostname", hostname},
		{"id", id},
		{"kill", kill},
		{"ln", ln},
		{"ls", ls},
		{"mount", mount},
		{"nproc", nproc},
		{"ps", ps},
		{"pwd", pwd},
		{"readlink", readlink},
		{"rmdir", rmdir},
		{"seq", seq},
		{"sleep", sleep},
		{"sort", sortLines},
		{"stat", stat},
		{"stty", stty},
		{"sync", syncAll},
		{"tail", tail},
		{"tee", tee},
		{"time", timeCommand},
		{"tr", tr},
		{"true", alwaysTrue},
		{"tty", tty},
		{"umount", umount},
		{"uname", uname},
		{"uniq", uniq},
		{"wc", wc},
		{"which", which},
		{"whoami", whoami},
		{"yes", yes},
	}, larger()...)
	slices.SortFunc(all, func(a, b applet) int { return strings.Compare(a.name, b.name) })
	return all
}

func lookup(name string) (applet, bool) {
	for _, a := range applets() {
		if a.name == name {
			return a, true
		}
	}
	return applet{}, false
}

// status ends the program with that exit status and no message.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// withStatus is a message and an exit status other than 1.
type withStatus struct {
	error
	status int
}

// usage is the error of a call that makes no sense.
func usage(text string) error { return errors.New("usage: " + text) }

func alwaysTrue([]string) error  { return nil }
func alwaysFalse([]string) error { return status(1) }

func main() {
	args := os.Args
	name := filepath.Base(args[0])
	if name == "true" {
		return
	}
	if a, found := lookup(name); found {
		os.Exit(run(a, args))
	}
	if len(args) < 2 || args[1] == "--list" || args[1] == "--help" {
		for _, a := range applets() {
			fmt.Println(a.name)
		}
		return
	}
	a, found := lookup(args[1])
	if !found {
		fmt.Fprintf(os.Stderr, "toolbox: %s: applet not found\n", args[1])
		os.Exit(127)
	}
	os.Exit(run(a, args[1:]))
}

func run(a applet, args []string) int {
	if os.Getpid() == 1 {
		outliveSignals()
	}
	args = append([]string{a.name}, args[1:]...)
	err := a.run(args)
	var code status
	var detailed withStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, syscall.EPIPE):
		return 128 + int(syscall.SIGPIPE)
	case errors.As(err, &detailed):
		complain(a.name, detailed.error)
		return detailed.status
	}
	complain(a.name, err)
	return 1
}

func complain(name string, err error) {
	for _, line := range strings.Split(err.Error(), "\n") { // joined errors
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, line)
	}
}

// outliveSignals gives process 1 of a pid namespace what the kernel gives other programs there: a signal without a
// handler is ignored. Go's runtime has a handler for each, which would end the process. Children are not affected.
func outliveSignals() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM)
}

// options are flags given, each with its last value ("" for those without).
type options map[rune]string

func (o options) has(r rune) bool { _, ok := o[r]; return ok }

// getopt reads flags in the manner of getopt(3): in spec a colon follows a flag that has a value.
func getopt(args []string, spec string) (options, []string, error) {
	opts := options{}
	rest := args[1:]
	for len(rest) > 0 && len(rest[0]) > 1 && rest[0][0] == '-' {
		word := rest[0][1:]
		rest = rest[1:]
		if word == "-" {
			break
		}
		for i, flag := range word {
			at := strings.IndexRune(spec, flag)
			if at < 0 || flag == ':' {
				return nil, nil, fmt.Errorf("unknown option -%c", flag)
			}
			if !strings.HasPrefix(spec[at+1:], ":") {
				opts[flag] = ""
				continue
			}
			value := word[i+1:]
			if value == "" {
				if len(rest) == 0 {
					return nil, nil, fmt.Errorf("option -%c needs a value", flag)
				}
				value, rest = rest[0], rest[1:]
			}
			opts[flag] = value
			break
		}
	}
	return opts, rest, nil
}

// eachInput calls f with each file, or standard input if there is none or its name is "-". Errors do not stop it.
func eachInput(names []string, f func(name string, r io.Reader) error) error {
	if len(names) == 0 {
		return f("-", os.Stdin)
	}
	var errs []error
	for _, name := range names {
		if name == "-" {
			errs = append(errs, f(name, os.Stdin))
			continue
		}
		file, err := os.Open(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, f(name, file))
		_ = file.Close()
	}
	return errors.Join(errs...)
}

// each calls f with each name and joins the errors.
func each(names []string, f func(name string) error) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, f(name))
	}
	return errors.Join(errs...)
}
