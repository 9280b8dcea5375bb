package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// notifier passes on what a container tells its service manager (sd_notify(3)): $NOTIFY_SOCKET is in the host's file
// system, so the container gets a socket of ours. nil is for who has no service manager.
type notifier struct {
	host, dir string
	socket    *os.File
}

func newNotifier(root, id string) *notifier {
	host := os.Getenv("NOTIFY_SOCKET")
	if host == "" {
		return nil
	}
	return &notifier{host: host, dir: notifyDir(root, id)}
}

// notifyDir is there before the container, so not in its directory.
func notifyDir(root, id string) string { return filepath.Join(root+"-notify", id) }

// removeNotify removes what is left of a container's socket.
func removeNotify(root, id string) error {
	dir := notifyDir(root, id)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the notification socket: %w", err)
	}
	_ = os.Remove(filepath.Dir(dir)) // unless others are in it, or it never was
	return nil
}

// prepare makes the directory that the container gets, and tells it of the socket.
func (n *notifier) prepare(spec *specs.Spec) error {
	if n == nil || spec.Process == nil {
		return nil
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return fmt.Errorf("prepare the notification socket: %w", err)
	}
	const inside = "/run/notify"
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: inside, Source: n.dir, Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"}})
	spec.Process.Env = append(spec.Process.Env, "NOTIFY_SOCKET="+inside+"/notify.sock")
	return nil
}

// listen makes the socket, before the program is executed.
func (n *notifier) listen() error {
	if n == nil {
		return nil
	}
	if _, err := os.Stat(n.dir); err != nil { // created without a service manager
		return nil //nolint:nilerr // nothing to pass on
	}
	path := filepath.Join(n.dir, "notify.sock")
	socket, err := unixSocket(unix.SOCK_DGRAM, path, unix.Bind)
	if err != nil {
		return fmt.Errorf("listen for notifications: %w", err)
	}
	n.socket = socket
	if err := os.Chmod(path, 0o777); err != nil {
		return fmt.Errorf("listen for notifications: %w", err)
	}
	return nil
}

func (n *notifier) close() {
	if n != nil && n.socket != nil {
		_ = n.socket.Close() // nobody waits for it any more
	}
}

// forward waits until the container says that it is ready, or has ended, and tells the service manager, which shall
// watch main from then on.
func (n *notifier) forward(pid, main int) error {
	if n == nil || n.socket == nil {
		return nil
	}
	buf := make([]byte, 4096)
	for {
		if err := n.socket.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return fmt.Errorf("wait for notifications: %w", err)
		}
		size, err := n.socket.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || err == io.EOF { // which is an empty message
			if unix.Kill(pid, 0) == unix.ESRCH {
				return nil
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for notifications: %w", err)
		}
		for line := range bytes.SplitSeq(buf[:size], []byte{'\n'}) {
			if bytes.HasPrefix(line, []byte("READY=")) {
				return n.tell(string(line), main)
			}
		}
	}
}

// forwardBeside does so while the container is followed: then we are what the service manager watches.
func (n *notifier) forwardBeside(pid int) {
	if n != nil && n.socket != nil {
		go func() { _ = n.forward(pid, os.Getpid()) }() // who follows a container reports its end only
	}
}

// tell reports to the service manager, and waits until it has taken note; see sd_notify_barrier(3).
func (n *notifier) tell(ready string, main int) error {
	manager, err := unixSocket(unix.SOCK_DGRAM, n.host, unix.Connect)
	if err != nil {
		return fmt.Errorf("reach the service manager: %w", err)
	}
	defer manager.Close()
	for _, message := range []string{ready, "MAINPID=" + strconv.Itoa(main)} {
		if _, err := manager.Write([]byte(message + "\n")); err != nil {
			return fmt.Errorf("tell the service manager: %w", err)
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	defer read.Close()
	err = sendFile(manager, "BARRIER=1", write)
	if err = errors.Join(err, write.Close()); err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	_ = read.SetReadDeadline(time.Now().Add(30 * time.Second)) // a pipe knows deadlines
	_, _ = read.Read(make([]byte, 1))                          // the end of file is the answer; a manager of old gives none
	return nil
}
