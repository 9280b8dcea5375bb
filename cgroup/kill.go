package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Kill sends SIGKILL to every process of the group and below, frozen or not, and none gets away by forking: by
// cgroup.kill on v2; on v1 frozen, and again until there is none that has not been sent it. It does not wait for their end.
func (g *Group) Kill() error { return g.kill(newDeadline()) }

func (g *Group) kill(end time.Time) error {
	if g.host.mode() == V2 {
		err := write(filepath.Join(g.host.unified.mount, g.path, "cgroup.kill"), "1")
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("kill cgroup %s: %w", g.path, err)
	}
	sent := map[int]bool{}
	return poll("kill cgroup "+g.path, end, func() (done bool, err error) {
		pids, err := g.Procs(true)
		if err != nil || !anyNew(pids, sent) {
			return true, err
		}
		return false, g.killFrozen(sent, end)
	})
}

// freezing bounds the wait of a round for the group to be frozen: a process that waits in the kernel cannot be.
const freezing = dying / 20

func anyNew(pids []int, sent map[int]bool) bool {
	for _, pid := range pids {
		if !sent[pid] {
			return true
		}
	}
	return false
}

// killFrozen is one round: what is frozen does not fork. A freezer that is not there, or does not succeed, leaves it to
// the next round to find who was faster.
func (g *Group) killFrozen(sent map[int]bool, end time.Time) error {
	if soon := clock.now().Add(freezing); soon.Before(end) {
		end = soon
	}
	frozen := g.freeze(true, end) == nil
	pids, err := g.Procs(true)
	if err == nil {
		for _, pid := range pids {
			if err = unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				err = fmt.Errorf("kill process %d of cgroup %s: %w", pid, g.path, err)
				break
			}
			sent[pid], err = true, nil
		}
	}
	if dir := g.host.dir("freezer", g.path); dir != "" {
		err = errors.Join(err, thawAll(dir, frozen))
	}
	return err
}

// thawAll thaws a v1 group and those below it, which may be frozen on their own: only who is thawed dies.
func thawAll(dir string, must bool) error {
	err := walk(dir, true, func(dir string) error { return write(filepath.Join(dir, "freezer.state"), "THAWED") })
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || !must {
		return nil
	}
	return err
}
