package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// EntryBelow opens the entry of groups below the group, which must exist: below is a path relative to the group by v1
// controller, or by "" for every hierarchy. Without one, a hierarchy's entry is the group's own. The caller closes it.
func (g *Group) EntryBelow(below map[string]string) (*Entry, error) {
	if len(below) == 0 {
		return g.Entry()
	}
	trees := g.present().trees()
	for controller, path := range below {
		if controller != "" && !slices.ContainsFunc(trees, func(t hierarchy) bool { return !t.v2 && t.has(controller) }) {
			return nil, fmt.Errorf("unknown controller %s for a cgroup below %s", controller, g.path)
		}
		if path != "/" && path != "" && !filepath.IsLocal(filepath.Clean("./"+path)) {
			return nil, fmt.Errorf("bad sub cgroup path %s: it is not below cgroup %s", path, g.path)
		}
	}
	e, err := g.entry(trees, below)
	if err != nil {
		return nil, fmt.Errorf("adding pid to cgroups: %w", err)
	}
	return e, nil
}

// entry opens the group, or what is below it, in the given hierarchies.
func (g *Group) entry(trees []hierarchy, below map[string]string) (*Entry, error) {
	e := &Entry{}
	for _, t := range trees {
		dir := filepath.Join(t.mount, g.path, below[""])
		for _, c := range t.controllers {
			if path, given := below[c]; given && !t.v2 {
				dir = filepath.Join(t.mount, g.path, path)
			}
		}
		if err := e.open(t, dir); err != nil {
			e.Close()
			return nil, err
		}
	}
	return e, nil
}

// open adds the entry of one directory.
func (e *Entry) open(t hierarchy, dir string) error {
	name, flags := filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC
	if t.v2 {
		name, flags = dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC
	}
	fd, err := rawfile.RetryValue(func() (int, error) { return unix.Open(name, flags, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	if t.v2 {
		e.Unified = &EntryFile{fd, name}
	} else {
		e.Tasks = append(e.Tasks, EntryFile{fd, name})
	}
	return nil
}
