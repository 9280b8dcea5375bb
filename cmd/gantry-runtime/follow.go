package main

import (
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"gantry/oci"
	"gantry/spawn"
)

// follow passes signals on to a process until it ends, and returns the exit code that a shell would give.
func follow(process *oci.Process, terminal *terminal, signals <-chan os.Signal) (exitCode, error) {
	done := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				forward(process, terminal, s)
			}
		}
	}()
	status, err := spawn.Reap(process.Pidfd)
	close(done)
	<-forwarded
	terminal.drain()
	if err = errors.Join(err, process.Pidfd.Close()); err != nil {
		return 0, err
	}
	if status.Signaled() {
		return exitCode(128 + int(status.Signal())), nil
	}
	return exitCode(status.ExitStatus()), nil
}

// forwarded are the signals that a container gets by way of us: those that terminals, shells and service managers send.
// Each costs the start some time, and of the others nobody sends one to a process that does not ask for it.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT,
	unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH, unix.SIGPIPE,
}

// catchSignals begins to collect the signals to pass on, if wanted, beside its caller: it takes as long as to read a
// configuration. What it returns waits until they are collected.
func catchSignals(wanted bool) func() <-chan os.Signal {
	if !wanted {
		return func() <-chan os.Signal { return nil }
	}
	signals, ready := make(chan os.Signal, 64), make(chan struct{})
	go func() {
		defer close(ready)
		signal.Notify(signals, forwarded...)
	}()
	return func() <-chan os.Signal { <-ready; return signals }
}

func forward(process *oci.Process, terminal *terminal, s os.Signal) {
	sig, ok := s.(unix.Signal)
	switch {
	case !ok || sig == unix.SIGCHLD || sig == unix.SIGURG: // Go preempts goroutines by SIGURG
	case sig == unix.SIGWINCH:
		terminal.resize()
	default:
		_ = unix.PidfdSendSignal(int(process.Pidfd.Fd()), sig, nil, 0) // it may have just ended
	}
}
