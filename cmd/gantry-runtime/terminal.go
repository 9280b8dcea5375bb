package main

import (
	"fmt"
	"io"
	"net"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"gantry/oci"
)

// terminal is where a process's terminal goes: to the owner of a console socket, or to our own terminal. The zero
// value is for a process without one.
type terminal struct {
	socket string // path; "" for ours
	wanted bool
	master *os.File
	before *term.State   // of our terminal
	copied chan struct{} // closed when the output has been copied
}

// newTerminal checks that there is somebody to take the terminal. Detached, that is the console socket only.
func newTerminal(p *specs.Process, socket string, detach bool) (*terminal, error) {
	t := &terminal{socket: socket, wanted: p != nil && p.Terminal}
	switch {
	case t.wanted && detach && socket == "":
		return nil, fmt.Errorf("cannot allocate tty if detaching without setting console socket")
	case socket != "" && !t.wanted:
		return nil, fmt.Errorf("cannot use console socket if the process has no terminal, or without detaching")
	}
	return t, nil
}

// stdio are the streams of the process.
func (t *terminal) stdio() oci.Stdio {
	if !t.wanted {
		return oci.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	}
	return oci.Stdio{Console: t.take}
}

// take receives the master, while the process waits.
func (t *terminal) take(master *os.File) error {
	if t.socket != "" {
		defer master.Close()
		return send(t.socket, master)
	}
	t.master = master
	t.resize()
	if term.IsTerminal(0) {
		before, err := term.MakeRaw(0)
		if err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		t.before = before
	}
	t.copied = make(chan struct{})
	go func() { _, _ = io.Copy(master, os.Stdin) }() // ends with this program
	go func() {
		defer close(t.copied)
		_, _ = io.Copy(os.Stdout, master) // ends with EIO when the other side closes
	}()
	return nil
}

// resize gives the process's terminal the size of ours.
func (t *terminal) resize() {
	if t.master == nil {
		return
	}
	if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, size) // the process may have ended
	}
}

// drain waits until all output has been shown.
func (t *terminal) drain() {
	if t.copied != nil {
		<-t.copied
	}
}

func (t *terminal) close() {
	if t.before != nil {
		_ = term.Restore(0, t.before) // our terminal may be gone
	}
	if t.master != nil {
		_ = t.master.Close()
	}
}

// send passes a terminal's master over a unix socket, with its name as the message, as runc's callers expect.
func send(socket string, master *os.File) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("reach the console socket: %w", err)
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix([]byte("/dev/ptmx"), unix.UnixRights(int(master.Fd())), nil); err != nil {
		return fmt.Errorf("pass the terminal to the console socket: %w", err)
	}
	return nil
}
