// Package tarfs holds what readers and writers of tar archives share.
package tarfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// kernelFiles are the file systems whose files the kernel makes up as they are read: stat(2) gives their size as 0, or as
// one page.
var kernelFiles = []int64{
	unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
	unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC,
}

// MadeByKernel reports whether a descriptor stands for a file that the kernel makes up: of proc(5), sysfs(5) and their kin.
func MadeByKernel(fd int) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, fmt.Errorf("ask for the file system of a file: %w", err)
	}
	return slices.Contains(kernelFiles, int64(st.Type)), nil
}

// maxUnsized bounds, in bytes, what is read of a file whose size is not known before.
const maxUnsized = 64 << 20

// Content returns what an archive holds of an open regular file, and the number of bytes, which the archive states first.
// size is what stat(2) says. It is not believed if it is 0, or if the kernel makes the file up: then the file is read to its
// end, without waiting, and may have at most 64 MiB. A file that shrinks after the call gives fewer bytes than stated.
func Content(file *os.File, size int64) (io.Reader, int64, error) {
	fd := int(file.Fd())
	unsized := size == 0
	if !unsized {
		var err error
		if unsized, err = MadeByKernel(fd); err != nil {
			return nil, 0, err
		}
	}
	if !unsized {
		return io.LimitReader(file, size), size, nil
	}
	text, err := readAll(fd)
	return bytes.NewReader(text), int64(len(text)), err
}

// readAll reads to the end of a file. A file that would wait for something to come, as /proc/kmsg does, is an error.
func readAll(fd int) ([]byte, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	text := make([]byte, 0, 4096)
	for {
		if len(text) == cap(text) {
			text = append(text, make([]byte, cap(text))...)[:len(text)]
		}
		n, err := unix.Read(fd, text[len(text):cap(text)])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil, errors.New("the file has no end: reading it waits for what comes next")
		case err != nil:
			return nil, err
		case n == 0:
			return text, nil
		}
		if text = text[:len(text)+n]; len(text) > maxUnsized {
			return nil, fmt.Errorf("the file states no size and has more than %d MiB", maxUnsized>>20)
		}
	}
}
