// Package rawfile opens, reads and writes the kernel's files, of /proc and of cgroups, and other small ones. The os
// package prepares every file to be waited for (epoll_ctl(2), fcntl(2)), which for these is more work than what is done with
// them. Errors are *os.PathError.
package rawfile

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// Open is os.OpenFile for files that never block.
func Open(path string, flags int, perm os.FileMode) (*os.File, error) {
	fd, err := open(path, flags, perm)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func open(path string, flags int, perm os.FileMode) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, uint32(perm.Perm()))
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// Read returns a file's content.
func Read(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var first [1024]byte // on the stack: many files are read, and most are much smaller
	size, err := fill(fd, path, first[:])
	if err != nil {
		return nil, err
	}
	if size < len(first) {
		return bytes.Clone(first[:size]), nil
	}
	text := append(make([]byte, 0, 4*size), first[:]...)
	for {
		n, err := fill(fd, path, text[len(text):cap(text)])
		if err != nil {
			return nil, err
		}
		if text = text[:len(text)+n]; len(text) < cap(text) {
			return text, nil
		}
		text = append(make([]byte, 0, 4*cap(text)), text...)
	}
}

// fill reads until the buffer is full or the file ends.
func fill(fd int, path string, buffer []byte) (size int, err error) {
	for size < len(buffer) {
		n, err := unix.Read(fd, buffer[size:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return size, nil
		default:
			size += n
		}
	}
	return size, nil
}

// Write makes the file have this content, as os.WriteFile.
func Write(path string, text []byte, perm os.FileMode) error {
	fd, err := open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, perm)
	if err != nil {
		return err
	}
	for err == nil && len(text) > 0 {
		var n int
		if n, err = unix.Write(fd, text); err == unix.EINTR {
			n, err = 0, nil
		}
		text = text[max(n, 0):]
	}
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
