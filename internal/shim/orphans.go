package shim

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// orphanAge is how long a dead child may be nobody's before it is reaped. Whoever made a child waits for it at once.
const orphanAge = 2 * time.Second

// reapOrphans reaps children that we did not make: processes of containers without a pid namespace of their own,
// whose parent has ended. A child of ours is left to who waits for it, which takes it away within orphanAge.
func (s *Server) reapOrphans(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	var seen map[int]bool
	for {
		if len(seen) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-ended:
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(orphanAge):
		}
		dead := map[int]bool{}
		for _, pid := range deadChildren() {
			if !seen[pid] {
				dead[pid] = true
				continue
			}
			err := rawfile.Retry(func() error {
				_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
				return err
			})
			if err != nil && err != unix.ECHILD {
				warn("reap an orphan", err)
			}
		}
		seen = dead
	}
}

// deadChildren lists our zombies; see /proc/PID/task/TID/children in proc(5).
func deadChildren() (dead []int) {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil
	}
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil { // the thread has ended
			continue
		}
		for _, word := range bytes.Fields(text) {
			pid, err := strconv.Atoi(string(word))
			if err != nil {
				continue
			}
			stat, err := os.ReadFile("/proc/" + string(word) + "/stat")
			if err != nil {
				continue
			}
			_, after, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
			if ok && len(after) > 0 && after[0] == 'Z' {
				dead = append(dead, pid)
			}
		}
	}
	return dead
}
