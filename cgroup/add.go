package cgroup

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// Add moves a process, with all its threads, into the group.
func (g *Group) Add(pid int) error {
	for _, t := range g.present().trees() {
		if err := write(filepath.Join(t.mount, g.path, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move process %d into cgroup %s: %w", pid, g.path, err)
		}
	}
	return nil
}

// FreezerDir is the group's directory in the hierarchy that freezes; "" if the host has none.
func (g *Group) FreezerDir() string {
	if g.host.mode() == V2 {
		return filepath.Join(g.host.unified.mount, g.path)
	}
	return g.host.dir("freezer", g.path)
}
