package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// watch waits for changes of the log's directory, which are those of the file and its rotations; see inotify(7).
type watch struct {
	file *os.File // the inotify descriptor
	done chan struct{}
	stop chan struct{}
	buf  [4096]byte
}

func newWatch(ctx context.Context, path string, q Query) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watch{file: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{}), stop: make(chan struct{})}
	dir := filepath.Dir(path)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		_ = w.file.Close()
		return nil, &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
	}
	go w.interrupt(ctx, q)
	return w, nil
}

// interrupt wakes up wait when the reading has to end.
func (w *watch) interrupt(ctx context.Context, q Query) {
	var late <-chan time.Time
	if !q.Until.IsZero() {
		t := time.NewTimer(time.Until(q.Until))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-w.stop:
		return
	case <-ctx.Done():
	case <-q.Done:
		close(w.done)
	case <-late:
		close(w.done)
	}
	_ = w.file.SetReadDeadline(time.Unix(1, 0))
}

// over tells that what is in the file now is all.
func (w *watch) over() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// wait returns after a change, or when the log is over.
func (w *watch) wait(ctx context.Context) error {
	_, err := w.file.Read(w.buf[:])
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return fmt.Errorf("read inotify: %w", err)
}

func (w *watch) close() {
	close(w.stop)
	_ = w.file.Close()
}
