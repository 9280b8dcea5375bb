package main

import (
	"os"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// unixSocket makes a socket of a kind (unix.SOCK_STREAM, …) that knows deadlines, and binds it to a path or connects it
// with who is there; see unix(7). Package net would do the same, for a tenth of this program's size and start.
func unixSocket(kind int, path string, attach func(fd int, at unix.Sockaddr) error) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = rawfile.Retry(func() error { return attach(fd, &unix.SockaddrUnix{Name: path}) })
	if err == nil { // only now: else connect would not wait for its turn
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "socket", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// sendFile sends a message with a descriptor; see "SCM_RIGHTS" in unix(7).
func sendFile(socket *os.File, message string, f *os.File) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = rawfile.Retry(func() error { return unix.Sendmsg(int(fd), []byte(message), unix.UnixRights(int(f.Fd())), nil, 0) })
		return sendErr != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", sendErr)
}
