//go:build !toolbox_core

package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mvdan.cc/sh/v3/syntax"
)

// traps are the actions of signals; the interpreter has those of EXIT and ERR only. An action runs before the next
// command, as in other shells once the present one has ended, or at once if that is wait.
type traps struct {
	waiting atomic.Bool
	mu      sync.Mutex
	actions map[os.Signal]string
	arrived []os.Signal
	signals chan os.Signal
	marked  chan struct{} // has received marker
}

// marker is a signal that the shell sends to itself. It has a higher number than those that people send, and so comes after them.
const marker = syscall.SIGIO

// set handles the trap builtin's arguments and returns those that the interpreter shall handle.
func (t *traps) set(s *shell, args []string) ([]string, error) {
	words := args
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if len(words) == 0 {
		return args, nil
	}
	action, names := words[0], words[1:]
	if len(words) == 1 {
		action, names = "-", words
	}
	var others []string
	for _, name := range names {
		if upper := strings.ToUpper(name); slices.Contains([]string{"EXIT", "ERR", "0"}, upper) {
			others = append(others, strings.Replace(upper, "0", "EXIT", 1))
			continue
		}
		number, err := signalNumber(name)
		if err != nil {
			return nil, err
		}
		t.change(s, number, action)
	}
	if len(others) == 0 {
		return nil, nil
	}
	return append([]string{action}, others...), nil
}

func (t *traps) change(s *shell, number syscall.Signal, action string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.signals == nil {
		t.signals, t.actions, t.marked = make(chan os.Signal, 16), map[os.Signal]string{}, make(chan struct{}, 1)
		signal.Notify(t.signals, marker)
		go t.receive(s)
	}
	switch action {
	case "-":
		delete(t.actions, number)
		signal.Reset(number)
	case "":
		delete(t.actions, number)
		signal.Ignore(number)
	default:
		t.actions[number] = action
		signal.Notify(t.signals, number)
	}
}

// ofTrap is the key by which commands of an action that runs beside wait are told from the shell's own.
type ofTrap struct{}

func (t *traps) receive(s *shell) {
	for sig := range t.signals {
		if sig == marker {
			select {
			case t.marked <- struct{}{}:
			default:
			}
		}
		t.mu.Lock()
		t.arrived = append(t.arrived, sig)
		t.mu.Unlock()
		if !t.waiting.Load() {
			continue
		}
		// The shell is blocked in wait: a copy of it runs the action, and if that ends the copy, it ends the shell.
		file, err := syntax.NewParser().Parse(strings.NewReader(t.pending()), "trap")
		if err != nil {
			complain("trap", err)
			continue
		}
		copied := s.runner.Subshell()
		err = copied.Run(context.WithValue(context.Background(), ofTrap{}, true), file)
		if copied.Exited() {
			os.Exit(run(applet{"sh", func([]string) error { return result(err) }}, []string{"sh"}))
		}
	}
}

// waited is called when wait has returned: a signal that came before that, from what was waited for perhaps, may still be
// on its way through this program.
func (t *traps) waited() {
	if t.signals == nil || syscall.Kill(os.Getpid(), marker) != nil {
		return
	}
	select {
	case <-t.marked:
	case <-time.After(time.Second): // somebody has trapped the marker itself
	}
}

// pending returns the actions of the signals that have arrived, once.
func (t *traps) pending() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var due []string
	for _, sig := range t.arrived {
		if action, ok := t.actions[sig]; ok {
			due = append(due, action)
		}
	}
	t.arrived = nil
	return strings.Join(due, "\n")
}

func (t *traps) stop() {
	if t.signals != nil {
		signal.Stop(t.signals)
	}
}
