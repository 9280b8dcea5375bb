package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
	"gantry/spawn"
)

// A process has its namespaces and its root by its threads. The first one, by which the process is known, can end before
// the others, and does so whenever another thread calls execve(2): until all the others have ended, and it takes the first
// one's place, a pidfd of the process leads nowhere (ESRCH), and neither does /proc/PID (ENOENT). On a slow machine that
// takes its time.

// threadOf is the directory in /proc of a thread of a process that has namespaces: the process's own, unless its first
// thread has ended.
func threadOf(pid int) string {
	own := fmt.Sprintf("/proc/%d", pid)
	if _, err := os.Readlink(own + "/root"); !isGone(err) {
		return own
	}
	entries, err := os.ReadDir(own + "/task")
	if err != nil {
		return own
	}
	for _, e := range entries {
		dir := filepath.Join(own, "task", e.Name())
		if _, err := os.Readlink(dir + "/root"); err == nil {
			return dir
		}
	}
	return own
}

// isGone tells the errors of what /proc has no more of a thread that has ended.
func isGone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// inThread is a path in /proc/PID as a path of a thread of the process that has namespaces; other paths stay.
func inThread(path string) string {
	rest, found := strings.CutPrefix(path, "/proc/")
	number, file, _ := strings.Cut(rest, "/")
	pid := 0
	if _, err := fmt.Sscanf(number, "%d", &pid); !found || err != nil || fmt.Sprint(pid) != number || strings.HasPrefix(file, "task/") {
		return path
	}
	return filepath.Join(threadOf(pid), file)
}

// entrance is a process whose namespaces are joined.
type entrance struct {
	process spawn.FD // a pidfd
	dir     string   // in /proc, of a thread of it that has namespaces
	// files are the namespaces, where the process is not good for them: see threadOf.
	files map[specs.LinuxNamespaceType]spawn.FD
}

// entrance finds what a process's namespaces can be joined by.
func (b *builder) entrance(pid int, process spawn.FD) (*entrance, error) {
	e := &entrance{process: process, dir: threadOf(pid)}
	if e.dir == fmt.Sprintf("/proc/%d", pid) {
		return e, nil
	}
	e.files = map[specs.LinuxNamespaceType]spawn.FD{}
	for _, n := range b.spec.Linux.Namespaces {
		fd, err := b.open(filepath.Join(e.dir, "ns", nsNames[n.Type]), unix.O_RDONLY, "container's "+string(n.Type))
		if err != nil {
			return nil, err
		}
		e.files[n.Type] = fd
	}
	return e, unix.PidfdSendSignal(process.Num, 0, nil, 0) // it has been the process's directory, if that is still there
}

// errNoThread is met while the threads of a process end, or give way to the one that calls execve(2).
var errNoThread = errors.New("no thread of its first process has namespaces to join: it is ending")

// whileEnding tries again while errNoThread is all that comes of it and the process has not ended.
func whileEnding(rec *record, start func() (*spawn.Process, error)) (*spawn.Process, error) {
	const longest, pause = 10 * time.Second, 2 // in milliseconds
	deadline := time.Now().Add(longest)
	for {
		child, err := start()
		if !errors.Is(err, errNoThread) || time.Now().After(deadline) {
			return child, err
		}
		pidfd, openErr := rec.pidfd()
		if openErr != nil {
			return nil, ErrNotRunning
		}
		poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, _ := rawfile.Poll(poll, pause)
		_ = unix.Close(pidfd)
		if n > 0 {
			return nil, ErrNotRunning
		}
	}
}
