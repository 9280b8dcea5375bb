// Package cgroup limits, measures, freezes and kills groups of processes through cgroup v1, v2 or both (hybrid).
//
// A Group is one directory on v2, or one directory of the same path in every v1 hierarchy. Limits are the runtime
// specification's linux.resources; what the kernel lacks is an error that names the controller and the field.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// Mode is how the host mounts its cgroup hierarchies.
type Mode int

const (
	V1     Mode = iota + 1 // every controller on v1
	V2                     // the unified hierarchy alone
	Hybrid                 // controllers on v1, a v2 tree beside them
)

// Group is a cgroup of the same path in every hierarchy.
type Group struct {
	path string
	host *host
}

// Create makes the group and what is missing of its parents (delegating controllers on v2) and applies res.
// Path is absolute within the hierarchies ("/gantry/4f5e…"). An existing group without processes is taken over.
// On failure nothing of the group is left.
func Create(path string, res *specs.LinuxResources) (*Group, error) {
	h, err := allPresent()
	if err != nil {
		return nil, err
	}
	return create(h, path, res)
}

// checkPath cleans the path of a group.
func checkPath(path string) (string, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
		return path, errors.New("want an absolute path below the root")
	}
	return filepath.Clean(path), nil
}

func create(h *host, path string, res *specs.LinuxResources) (_ *Group, err error) {
	path, err = checkPath(path)
	if err != nil {
		return nil, fmt.Errorf("create cgroup %q: %w", path, err)
	}
	g := &Group{path: path, host: h}
	var made []string // directories that are ours to take back
	var taken bool    // some were there
	defer func() {
		if err != nil {
			err = errors.Join(err, g.removeAll(made, newDeadline()))
		}
	}()
	for _, t := range h.trees() {
		existed, err := t.make(g.path)
		if err != nil {
			return nil, fmt.Errorf("create cgroup %s: %w", g.path, err)
		}
		dir := filepath.Join(t.mount, g.path)
		if existed {
			if busy, err := occupied(dir); err != nil {
				return nil, fmt.Errorf("create cgroup %s: %w", g.path, err)
			} else if busy {
				return nil, fmt.Errorf("create cgroup %s: container's cgroup is not empty: %s has processes already: %w", g.path, dir, os.ErrExist)
			}
			taken = true
			continue
		}
		made = append(made, dir)
	}
	if frozen, err := g.Frozen(); taken && err == nil && frozen { // a process would never begin in it
		return nil, fmt.Errorf("create cgroup %s: container's cgroup unexpectedly frozen: %w", g.path, unix.EBUSY)
	}
	if res != nil {
		if err := g.Set(res); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// make makes the group's directory; existed tells that it was there.
func (t *hierarchy) make(path string) (existed bool, err error) {
	dir := filepath.Join(t.mount, path)
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrNotExist) {
		if err = t.makeParents(path); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
		return false, err
	}
	if existed = errors.Is(err, os.ErrExist); err != nil && !existed {
		return false, err
	}
	if t.prepared(dir) {
		return existed, nil
	}
	if err = t.makeParents(path); err == nil && !t.v2 { // somebody else made them
		err = inheritCPUs(dir)
	}
	if err != nil && !existed {
		err = errors.Join(err, os.Remove(dir))
	}
	return existed, err
}

// prepared tells that a new group can be used: its parents were made as makeParents does.
func (t *hierarchy) prepared(dir string) bool {
	if t.v2 {
		return t.delegated(dir)
	}
	if !t.has("cpuset") {
		return true
	}
	cpus, err := rawfile.Read(filepath.Join(dir, "cpuset.cpus"))
	return err == nil && len(cpus) > 1 // else a newline alone
}

// delegated tells that a v2 group has every controller of the root.
func (t *hierarchy) delegated(dir string) bool {
	text, err := rawfile.Read(filepath.Join(dir, "cgroup.controllers"))
	return err == nil && len(strings.Fields(string(text))) >= len(t.controllers)
}

// makeParents makes what is above the group, so that a child can use every controller: v2 delegates them level by
// level, and a v1 cpuset takes no process before it has processors and memory nodes, which clone_children copies.
// What is somebody else's stays as it is: what it withholds is missed by who needs it.
func (t *hierarchy) makeParents(path string) error {
	dir := t.mount
	parts := strings.Split(strings.Trim(filepath.Dir(path), "/"), "/")
	for _, part := range parts {
		if t.v2 {
			if err := unlessRefused(delegate(dir, t.controllers)); err != nil {
				return err
			}
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if t.has("cpuset") && !t.v2 {
			if err := unlessRefused(inheritCPUs(dir)); err != nil {
				return err
			}
		}
	}
	if t.v2 {
		return unlessRefused(delegate(dir, t.controllers))
	}
	return nil
}

// delegate gives the children of a v2 group every controller that can be given. One that cannot (a realtime process
// keeps cpu, say) is missed only by who wants to set a limit of it.
func delegate(dir string, controllers []string) error {
	if len(controllers) == 0 {
		return nil
	}
	file := filepath.Join(dir, "cgroup.subtree_control")
	if write(file, "+"+strings.Join(controllers, " +")) == nil {
		return nil
	}
	var first error
	given := 0
	for _, c := range controllers {
		if err := write(file, "+"+c); err == nil {
			given++
		} else if first == nil {
			first = err
		}
	}
	if given == 0 {
		return fmt.Errorf("delegate controllers: %w", first)
	}
	return nil
}

// inheritCPUs fills a v1 cpuset that is new from its parent.
func inheritCPUs(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := rawfile.Read(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		above, err := rawfile.Read(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, file), strings.TrimSpace(string(above))); err != nil {
			return err
		}
	}
	return write(filepath.Join(dir, "cgroup.clone_children"), "1")
}

// Open returns a handle for an existing group, in the hierarchies that have it (one that was mounted later has not);
// os.ErrNotExist if none has. The root is refused: who kills
// or deletes it ends the machine.
func Open(path string) (*Group, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, fmt.Errorf("open cgroup %q: %w", path, err)
	}
	h, err := machine()
	if err != nil {
		return nil, err
	}
	if h = h.having(path); h == nil {
		return nil, fmt.Errorf("open cgroup %s: %w", path, os.ErrNotExist)
	}
	return &Group{path: path, host: h}, nil
}

// Path is the path given to Create or Open.
func (g *Group) Path() string { return g.path }

// Paths maps a v1 controller ("memory"), or "" for v2, to the group's directory.
func (g *Group) Paths() map[string]string { return g.host.paths(g.path) }

// Paths are the directories that the group of a path has, or would have.
func Paths(path string) (map[string]string, error) {
	h, err := machine()
	if err != nil {
		return nil, err
	}
	return h.paths(path), nil
}

func (h *host) paths(path string) map[string]string {
	paths := map[string]string{}
	for _, t := range h.trees() {
		dir := filepath.Join(t.mount, path)
		if t.v2 {
			paths[""] = dir
			continue
		}
		for _, c := range t.controllers {
			paths[c] = dir
		}
	}
	return paths
}

// Entry is how a new process gets into the group.
type Entry struct {
	// Unified is the v2 directory for CLONE_INTO_CGROUP, or nil.
	Unified *EntryFile
	// Tasks are the v1 "tasks" files: a single-threaded process that writes "0" to each moves itself. (Moving
	// oneself by "tasks" needs no lock on thread groups, so no RCU grace period as cgroup.procs does.)
	Tasks []EntryFile
}

// EntryFile is an open file, or directory, of a hierarchy.
type EntryFile struct {
	FD   int
	Path string
}

// Close closes the descriptors.
func (e *Entry) Close() {
	if e.Unified != nil {
		_ = unix.Close(e.Unified.FD) // a directory: nothing to lose
	}
	for _, f := range e.Tasks {
		_ = unix.Close(f.FD) // nothing was written by us
	}
}

// Entry opens the group's entry, of the hierarchies that have it. The caller closes it.
func (g *Group) Entry() (*Entry, error) {
	e, err := g.entry(g.host.trees(), nil)
	if errors.Is(err, os.ErrNotExist) {
		e, err = g.entry(g.present().trees(), nil)
	}
	if err != nil {
		return nil, fmt.Errorf("open the entry of cgroup %s: %w", g.path, err)
	}
	return e, nil
}

// processes is the directory that is asked for the group's processes: all hierarchies have the same.
func (g *Group) processes() string {
	if dir := g.host.dir("pids", g.path); dir != "" {
		return dir
	}
	return filepath.Join(g.host.trees()[0].mount, g.path)
}

// Procs lists the processes of the group and, if deep, of the groups below it.
func (g *Group) Procs(deep bool) ([]int, error) {
	var pids []int
	err := walk(g.processes(), deep, func(dir string) error {
		text, err := rawfile.Read(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return err
		}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("%s/cgroup.procs: %w", dir, err)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("list processes of cgroup %s: %w", g.path, err)
	}
	return pids, nil
}

// walk calls f for a group's directory and, if deep, for those below it, children last.
func walk(dir string, deep bool, f func(dir string) error) error {
	if err := f(dir); err != nil || !deep {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := walk(filepath.Join(dir, e.Name()), deep, f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func occupied(dir string) (bool, error) {
	text, err := rawfile.Read(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, unix.EOPNOTSUPP) { // a threaded v2 group
		return true, nil
	}
	return len(text) > 0, err
}

// write writes a value to a cgroup file in one call.
func write(file, value string) error {
	w, err := openToWrite(file)
	if err != nil {
		return err
	}
	defer w.close()
	return w.write(value)
}

// writer is a cgroup file that takes values, each in one call.
type writer struct {
	fd   int
	path string
}

func openToWrite(file string) (*writer, error) {
	fd, err := rawfile.RetryValue(func() (int, error) { return unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: file, Err: err}
	}
	return &writer{fd, file}, nil
}

func (w *writer) write(value string) error {
	err := rawfile.Retry(func() error {
		_, err := unix.Write(w.fd, []byte(value))
		return err
	})
	if err != nil {
		return fmt.Errorf("write %q to %s: %w", value, w.path, err)
	}
	return nil
}

func (w *writer) close() { _ = unix.Close(w.fd) }
