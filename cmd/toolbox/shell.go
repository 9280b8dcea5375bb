//go:build !toolbox_core

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shell is an interpreter and what it lacks to be /bin/sh: exec that replaces the process, traps of signals, applets
// that are not in PATH.
type shell struct {
	runner *interp.Runner
	traps  traps
	// final are the positions of commands outside of subshells: exec replaces the shell there.
	final map[syntax.Pos]bool
	// only is the position of the single simple command of sh -c, after which there is nothing to do.
	only syntax.Pos
	// interrupted is set by Ctrl-C at a terminal, and makes the next command of the line an error.
	interrupted atomic.Bool
}

var errInterrupted = errors.New("interrupted")

// sh [-eux...] [-c COMMAND | FILE] [ARGUMENT]...
func sh(args []string) error {
	var set []string
	command, interactive, isCommand := "", false, false
	rest := args[1:]
	for len(rest) > 0 && len(rest[0]) > 1 && (rest[0][0] == '-' || rest[0][0] == '+') {
		word := rest[0]
		rest = rest[1:]
		if word == "--" {
			break
		}
		for _, flag := range word[1:] {
			switch flag {
			case 'c':
				isCommand = true
			case 'i':
				interactive = true
			case 'l', 's': // a login shell; commands from standard input
			case 'o':
				if len(rest) == 0 {
					return withStatus{errors.New("option -o needs a value"), 2}
				}
				set, rest = append(set, word[:1]+"o", rest[0]), rest[1:]
			default:
				set = append(set, word[:1]+string(flag))
			}
		}
	}
	name := "sh"
	if isCommand {
		if len(rest) == 0 {
			return withStatus{errors.New("option -c needs a value"), 2}
		}
		command, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		name, rest = rest[0], rest[1:]
	}
	s := &shell{}
	defer s.traps.stop()
	tty := term.IsTerminal(int(os.Stdin.Fd()))
	fromInput := !isCommand && name == "sh"
	interactive = interactive || fromInput && tty
	var err error
	s.runner, err = interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr), interp.Interactive(interactive),
		interp.Params(append(append(set, "--"), rest...)...), interp.ExecHandlers(applets2exec), interp.CallHandler(s.call))
	switch {
	case err != nil:
		return withStatus{err, 2}
	case isCommand:
		return s.script(strings.NewReader(command), name, true)
	case fromInput && tty:
		return s.interactive()
	case fromInput:
		return s.lines(oneByOne{os.Stdin}, nil)
	}
	file, err := os.Open(name)
	if err != nil {
		return withStatus{err, 127}
	}
	defer func() { _ = file.Close() }()
	return s.script(file, name, false)
}

// shellBuiltin is echo, printf, test or [ as the shell has it.
func shellBuiltin(args []string) error {
	words := make([]string, len(args))
	for i, arg := range args {
		word, err := syntax.Quote(arg, syntax.LangBash)
		if err != nil {
			return withStatus{fmt.Errorf("argument %d: %w", i, err), 2}
		}
		words[i] = word
	}
	runner, err := interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr))
	if err != nil {
		return err
	}
	return (&shell{runner: runner}).script(strings.NewReader(strings.Join(words, " ")), args[0], false)
}

// result turns the interpreter's error into a status.
func result(err error) error {
	if code, ok := errors.AsType[interp.ExitStatus](err); ok {
		return status(code)
	}
	return err
}

func (s *shell) script(r io.Reader, name string, mayReplace bool) error {
	file, err := syntax.NewParser().Parse(r, name)
	if err != nil {
		return withStatus{err, 2}
	}
	s.final = finals(file)
	if mayReplace && len(file.Stmts) == 1 {
		stmt := file.Stmts[0]
		if call, ok := stmt.Cmd.(*syntax.CallExpr); ok && !stmt.Background && !stmt.Negated && len(call.Args) > 0 {
			s.only = call.Pos()
		}
	}
	return result(s.runner.Run(context.Background(), file))
}

// finals finds the commands that run in the shell's own process.
func finals(file *syntax.File) map[syntax.Pos]bool {
	found := map[syntax.Pos]bool{}
	syntax.Walk(file, func(node syntax.Node) bool {
		switch n := node.(type) {
		case *syntax.Subshell, *syntax.CmdSubst, *syntax.ProcSubst, *syntax.CoprocClause:
			return false
		case *syntax.BinaryCmd:
			return n.Op != syntax.Pipe && n.Op != syntax.PipeAll
		case *syntax.Stmt:
			return !n.Background
		case *syntax.CallExpr:
			found[n.Pos()] = true
		}
		return true
	})
	return found
}

// call sees every simple command before it runs and may replace it.
func (s *shell) call(ctx context.Context, args []string) ([]string, error) {
	hc := interp.HandlerCtx(ctx)
	if s.interrupted.Load() {
		return nil, errInterrupted
	}
	if s.final[hc.Pos] && ctx.Value(ofTrap{}) == nil { // not what runs in the background meanwhile
		if s.traps.waiting.Swap(args[0] == "wait") {
			s.traps.waited()
		}
	}
	switch {
	case args[0] == "kill": // the interpreter reserves the name
		args = append([]string{"/proc/self/exe"}, args...)
	case args[0] == "umask":
		return umask(hc, args)
	case args[0] == "trap":
		rest, err := s.traps.set(s, args[1:])
		if err != nil {
			_, _ = fmt.Fprintf(hc.Stderr, "trap: %v\n", err)
			return []string{"false"}, nil
		}
		if len(rest) == 0 && len(args) > 1 {
			args = []string{"true"}
			break
		}
		args = append([]string{"trap"}, rest...)
	case args[0] == "exec" && len(args) > 1 && s.final[hc.Pos]:
		replace(hc, args[1:])
	case s.only.IsValid() && hc.Pos == s.only && !interp.IsBuiltin(args[0]):
		replace(hc, args)
	}
	if action := s.traps.pending(); action != "" {
		words := make([]string, len(args))
		for i, arg := range args {
			word, err := syntax.Quote(arg, syntax.LangBash)
			if err != nil {
				return args, nil
			}
			words[i] = word
		}
		return []string{"eval", action + "\n" + strings.Join(words, " ")}, nil
	}
	return args, nil
}

// umask is the process's: the interpreter has none, and subshells share it.
func umask(hc interp.HandlerContext, args []string) ([]string, error) {
	if len(args) == 1 {
		old := unix.Umask(0)
		unix.Umask(old)
		_, _ = fmt.Fprintf(hc.Stdout, "%04o\n", old)
		return []string{"true"}, nil
	}
	mask, err := strconv.ParseUint(args[1], 8, 9)
	if err != nil {
		_, _ = fmt.Fprintf(hc.Stderr, "umask: %s: want an octal number\n", args[1])
		return []string{"false"}, nil
	}
	unix.Umask(int(mask))
	return []string{"true"}, nil
}

// replace executes a program in the shell's place. It returns if that is not possible; then the interpreter runs the
// command, or says what is wrong with it.
func replace(hc interp.HandlerContext, args []string) {
	path, err := interp.LookPathDir(hc.Dir, hc.Env, args[0])
	if err != nil {
		return
	}
	stdin, isFile := hc.Stdin, true
	var fds [3]int
	for i, stream := range []any{stdin, hc.Stdout, hc.Stderr} {
		file, ok := stream.(*os.File)
		if !ok || file == nil {
			isFile = false
			break
		}
		fds[i] = int(file.Fd())
	}
	if !isFile || os.Chdir(hc.Dir) != nil {
		return
	}
	var moved [3]int // first out of the way of each other
	for i, fd := range fds {
		if moved[i], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 10); err != nil {
			return
		}
	}
	for i, fd := range moved {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return
		}
	}
	_ = unix.Exec(path, args, exported(hc.Env))
}

func exported(env expand.Environ) (list []string) {
	for name, v := range env.Each {
		if v.Exported && v.Kind == expand.String {
			list = append(list, name+"="+v.String())
		}
	}
	return list
}

// applets2exec runs applets that have no link in PATH, and has 126 as the status of what cannot be executed.
func applets2exec(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		hc := interp.HandlerCtx(ctx)
		if _, err := interp.LookPathDir(hc.Dir, hc.Env, args[0]); err == nil {
			return next(ctx, args)
		}
		if _, found := lookup(args[0]); found {
			return next(ctx, append([]string{"/proc/self/exe"}, args...))
		}
		if strings.Contains(args[0], "/") {
			path := args[0]
			if path[0] != '/' {
				path = hc.Dir + "/" + path
			}
			if info, err := os.Stat(path); err == nil {
				why := "permission denied"
				if info.IsDir() {
					why = "is a directory"
				}
				_, _ = fmt.Fprintf(hc.Stderr, "sh: %s: %s\n", args[0], why)
				return interp.ExitStatus(126)
			}
		}
		_, _ = fmt.Fprintf(hc.Stderr, "sh: %s: not found\n", args[0])
		return interp.ExitStatus(127)
	}
}

// oneByOne reads a byte at a time: what follows a command on standard input is the command's to read.
type oneByOne struct{ io.Reader }

func (o oneByOne) Read(p []byte) (int, error) { return o.Reader.Read(p[:min(1, len(p))]) }

// lines runs commands as they come. prompt, if not nil, is told whether a command is incomplete, before each read.
func (s *shell) lines(r io.Reader, prompt func(incomplete bool)) error {
	if prompt == nil {
		prompt = func(bool) {}
	}
	for {
		again, err := s.untilError(r, prompt)
		if !again {
			return result(err)
		}
	}
}

// untilError returns true after a syntax error at a prompt, for a new parser to go on.
func (s *shell) untilError(r io.Reader, prompt func(incomplete bool)) (again bool, last error) {
	parser := syntax.NewParser()
	prompt(false)
	for stmts, err := range parser.InteractiveSeq(r) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "sh: %v\n", err)
			_, isTerminal := r.(*lineReader)
			return isTerminal, withStatus{err, 2}
		}
		if parser.Incomplete() {
			prompt(true)
			continue
		}
		for _, stmt := range stmts {
			s.final = finals(&syntax.File{Stmts: []*syntax.Stmt{stmt}})
			s.interrupted.Store(false)
			last = s.runner.Run(context.Background(), stmt)
			if errors.Is(last, errInterrupted) {
				break
			}
			if s.runner.Exited() {
				return false, last
			}
		}
		prompt(false)
	}
	return false, last
}

// lineReader reads edited lines from a terminal, which is in raw mode meanwhile only.
type lineReader struct {
	terminal *term.Terminal
	rest     bytes.Buffer
}

// interrupts makes Ctrl-C what it is at a prompt: the line is given up (end, erase to the start, enter).
type interrupts struct{ io.Reader }

func (i interrupts) Read(p []byte) (int, error) {
	if len(p) < 3 {
		return i.Reader.Read(p)
	}
	n, err := i.Reader.Read(p[:1])
	if n == 1 && p[0] == 3 {
		return copy(p, "\x05\x15\r"), nil
	}
	return n, err
}

func (l *lineReader) Read(p []byte) (int, error) {
	if l.rest.Len() == 0 {
		fd := int(os.Stdin.Fd())
		old, err := term.MakeRaw(fd)
		if err != nil {
			return 0, err
		}
		if width, height, err := term.GetSize(fd); err == nil && width > 0 {
			_ = l.terminal.SetSize(width, height)
		}
		line, err := l.terminal.ReadLine()
		if rerr := term.Restore(fd, old); rerr != nil {
			return 0, rerr
		}
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			fmt.Println()
			return 0, err
		}
		l.rest.WriteString(line + "\n")
	}
	return l.rest.Read(p)
}

func (s *shell) interactive() error {
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, unix.SIGINT)
	signal.Notify(make(chan os.Signal, 1), unix.SIGQUIT, unix.SIGTERM)
	go func() { // children get what Ctrl-C sends, the shell goes on
		for range interrupt {
			s.interrupted.Store(true)
		}
	}()
	l := &lineReader{terminal: term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{interrupts{os.Stdin}, os.Stdout}, "")}
	return s.lines(l, func(incomplete bool) {
		name, byDefault := "PS1", fmt.Sprintf("%s %s ", s.runner.Dir, promptMark())
		if incomplete {
			name, byDefault = "PS2", "> "
		}
		text := byDefault
		if v, ok := s.runner.Vars[name]; ok && v.IsSet() {
			text = v.String()
		} else if v, ok := os.LookupEnv(name); ok {
			text = v
		}
		l.terminal.SetPrompt(text)
	})
}

func promptMark() string {
	if os.Geteuid() == 0 {
		return "#"
	}
	return "$"
}
