package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"gantry/rawfile"
)

// Freeze stops every process of the group and returns when the kernel says so.
func (g *Group) Freeze() error { return g.freeze(true, newDeadline()) }

// Thaw lets every process go on and returns when the kernel says so.
func (g *Group) Thaw() error { return g.freeze(false, newDeadline()) }

func (g *Group) freeze(on bool, end time.Time) error {
	file, value := g.freezer(on)
	if file == "" {
		return fmt.Errorf("freeze cgroup %s: the freezer controller is not mounted", g.path)
	}
	what := map[bool]string{true: "freeze", false: "thaw"}[on] + " cgroup " + g.path
	if err := write(file, value); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, thaw := g.freezer(false)
	asked := 0
	err := poll(what, end, func() (bool, error) {
		frozen, err := g.Frozen()
		if err != nil || frozen == on || !on || g.host.mode() == V2 {
			return frozen == on, err
		}
		// v1 wants to be asked again when processes fork meanwhile, and to let go now and then: who calls execve waits for
		// its other threads to end, which they do not while they are frozen.
		if asked++; asked%8 == 0 {
			err = write(file, thaw)
			clock.sleep(time.Millisecond)
		}
		return false, errors.Join(err, write(file, value))
	})
	if err != nil && on { // nothing stays half frozen
		err = errors.Join(err, write(file, thaw))
	}
	return err
}

// freezer is the file that freezes and what to write to it.
func (g *Group) freezer(on bool) (file, value string) {
	if g.host.mode() == V2 {
		return filepath.Join(g.host.unified.mount, g.path, "cgroup.freeze"), map[bool]string{true: "1", false: "0"}[on]
	}
	dir := g.host.dir("freezer", g.path)
	if dir == "" {
		return "", ""
	}
	return filepath.Join(dir, "freezer.state"), map[bool]string{true: "FROZEN", false: "THAWED"}[on]
}

// Frozen reports whether the group is frozen.
func (g *Group) Frozen() (bool, error) {
	if g.host.mode() == V2 {
		events, err := readPairs(filepath.Join(g.host.unified.mount, g.path, "cgroup.events"))
		return events["frozen"] == 1, err
	}
	dir := g.host.dir("freezer", g.path)
	if dir == "" {
		return false, nil
	}
	text, err := rawfile.Read(filepath.Join(dir, "freezer.state"))
	if err != nil {
		return false, fmt.Errorf("is cgroup %s frozen: %w", g.path, err)
	}
	return strings.TrimSpace(string(text)) == "FROZEN", nil
}
