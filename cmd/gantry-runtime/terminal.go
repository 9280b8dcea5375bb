package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"gantry/oci"
	"gantry/rawfile"
)

// terminal is where a process's terminal goes: to the owner of a console socket, or to our own terminal. The zero
// value is for a process without one.
type terminal struct {
	socket string // path; "" for ours
	wanted bool
	own    int // descriptor of our terminal, or -1
	master *os.File
	before *term.State   // of our terminal
	copied chan struct{} // closed when the output has been copied
}

// newTerminal checks that there is somebody to take the terminal. Detached, that is the console socket only.
func newTerminal(p *specs.Process, socket string, detach bool) (*terminal, error) {
	t := &terminal{socket: socket, wanted: p != nil && p.Terminal, own: -1}
	switch {
	case t.wanted && detach && socket == "":
		return nil, errors.New("cannot allocate tty if detaching without setting console socket")
	case socket != "" && (!t.wanted || !detach):
		return nil, errors.New("cannot use console socket if not detaching or without a terminal")
	case t.wanted && socket == "":
		t.own = ownTerminal()
	}
	return t, nil
}

// ownTerminal is the descriptor of the terminal that we were called on: any stream may be redirected, or all of them.
func ownTerminal() int {
	for _, fd := range []int{2, 1, 0} {
		if term.IsTerminal(fd) {
			return fd
		}
	}
	if fd, err := rawfile.RetryValue(func() (int, error) { return unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC, 0) }); err == nil {
		return fd
	}
	return -1
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
		return send(t.socket, "/dev/ptmx", master)
	}
	t.master = master
	t.resize()
	if err := t.raw(); err != nil {
		return fmt.Errorf("make the terminal raw: %w", err)
	}
	t.copied = make(chan struct{})
	go func() { _, _ = io.Copy(master, os.Stdin) }() // ends with this program
	go func() {
		defer close(t.copied)
		_, _ = io.Copy(os.Stdout, master) // ends with EIO when the other side closes
	}()
	return nil
}

// raw leaves input to the process's terminal, and the ends of lines to ours, so that output without one has none of the
// carriage returns.
func (t *terminal) raw() error {
	fd := int(t.master.Fd())
	inside, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	inside.Oflag &^= unix.ONLCR
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, inside); err != nil || t.own < 0 {
		return err
	}
	if t.before, err = term.MakeRaw(t.own); err != nil {
		return err
	}
	ours, err := unix.IoctlGetTermios(t.own, unix.TCGETS)
	if err != nil {
		return err
	}
	ours.Oflag |= unix.OPOST
	return unix.IoctlSetTermios(t.own, unix.TCSETS, ours)
}

// resize gives the process's terminal the size of ours.
func (t *terminal) resize() {
	if t.master == nil || t.own < 0 {
		return
	}
	if size, err := unix.IoctlGetWinsize(t.own, unix.TIOCGWINSZ); err == nil {
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
		_ = term.Restore(t.own, t.before) // our terminal may be gone
	}
	if t.master != nil {
		_ = t.master.Close()
	}
}

// send passes a descriptor over a unix socket, with its name as the message, as runc's callers expect.
func send(socket, name string, f *os.File) error {
	conn, err := reach(socket)
	if err != nil {
		return fmt.Errorf("reach the socket for %s: %w", name, err)
	}
	defer conn.Close()
	if err := sendFile(conn, name, f); err != nil {
		return fmt.Errorf("pass %s on: %w", name, err)
	}
	return nil
}

// reach connects to a socket. Who starts its receiver beside this program, and has never seen it lose the race with a
// slower one, finds it waiting for a moment.
func reach(socket string) (*os.File, error) {
	const wait = 250 * time.Millisecond
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		conn, err := unixSocket(unix.SOCK_STREAM, socket, unix.Connect)
		notYet := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
		if !notYet || time.Now().After(end) {
			return conn, err
		}
	}
}
