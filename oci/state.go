package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/oci/plainjson"
	"gantry/rawfile"
)

// record is a container's state.json: what another process needs to go on.
type record struct {
	ID        string
	Bundle    string
	Pid       int
	StartTime uint64 // field 22 of /proc/PID/stat: tells the process from a later one of the same pid
	Created   time.Time
	Cgroup    string // path in the hierarchies
	// Scope is systemd's unit, if systemd has made the cgroup.
	Scope *cgroup.Scope
	// Of the configuration, what start, kill, state and delete ask for.
	Annotations map[string]string
	Hooks       *laterHooks `json:",omitzero"`
	Namespaces  []specs.LinuxNamespace
	// Spec is the configuration as create got it. It is decoded when somebody asks: most commands do not.
	Spec    jsontext.Value `json:",omitzero"`
	decoded *specs.Spec
	// RDT are the resctrl groups, if linux.intelRdt is set.
	RDT *rdtState `json:",omitzero"`
	// Pipes are those of the first process's streams that came from outside, as /proc names them: a restore replaces them.
	Pipes []string `json:",omitzero"`
	// NoNewKeyring: the container's processes keep the session keyring of their creator.
	NoNewKeyring bool
}

// describe takes into the record what it keeps of the configuration.
func (rec *record) describe(spec *specs.Spec) {
	rec.decoded, rec.Spec = spec, nil
	rec.Annotations, rec.Hooks, rec.Namespaces = spec.Annotations, keepHooks(spec.Hooks), spec.Linux.Namespaces
}

// spec is the container's configuration; an empty one if its creator was killed.
func (rec *record) spec() (*specs.Spec, error) {
	if rec.decoded == nil {
		spec := &specs.Spec{Root: &specs.Root{}}
		if rec.Spec != nil {
			if err := plainjson.Unmarshal(rec.Spec, spec); err != nil {
				return nil, fmt.Errorf("read state of container %s: %w", rec.ID, err)
			}
		}
		rec.decoded = spec
	}
	return rec.decoded, nil
}

const maxID = 255 // bytes: it names a directory

func checkID(id string) error {
	const possible = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-."
	if id == "" || len(id) > maxID || strings.Trim(id, possible) != "" || id == "." || id == ".." {
		return fmt.Errorf("container id %q: letters, digits and _ + - . are possible, at most %d", id, maxID)
	}
	return nil
}

func (r *Runtime) dir(id string) string { return filepath.Join(r.Root, id) }

func (c *Container) dir() string { return c.runtime.dir(c.ID) }

// save writes state.json atomically.
func (r *Runtime) save(rec *record) error {
	if err := r.prepare(rec); err != nil {
		return err
	}
	return r.commit(rec)
}

func (rec *record) encode() (text []byte, err error) {
	if rec.Spec == nil && rec.decoded != nil {
		if rec.Spec, err = plainjson.Marshal(rec.decoded); err != nil {
			return nil, err
		}
	}
	return plainjson.Marshal(rec)
}

// prepare writes what commit makes the state.
func (r *Runtime) prepare(rec *record) error {
	text, err := rec.encode()
	if err == nil {
		err = rawfile.Write(r.stateFile(rec.ID)+".new", text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("store state of container %s: %w", rec.ID, err)
	}
	return nil
}

func (r *Runtime) commit(rec *record) error {
	file := r.stateFile(rec.ID)
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("store state of container %s: %w", rec.ID, err)
	}
	return nil
}

func (r *Runtime) stateFile(id string) string { return filepath.Join(r.dir(id), "state.json") }

// load reads state.json. The process that created the container knows what is in it, and looks only whether it is there.
func (c *Container) load() (*record, error) {
	if c.known != nil {
		if born, err := c.bornAt(); err == nil && born == c.born {
			return c.known, nil
		}
		return nil, c.errGone()
	}
	text, err := rawfile.Read(c.runtime.stateFile(c.ID))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, c.errGone()
		}
		return nil, fmt.Errorf("read state of container %s: %w", c.ID, err)
	}
	var rec record
	if err := plainjson.Unmarshal(text, &rec); err != nil {
		return nil, fmt.Errorf("read state of container %s: %w", c.ID, err)
	}
	return &rec, nil
}

// Load finds an existing container; os.ErrNotExist if there is none.
func (r *Runtime) Load(id string) (*Container, error) {
	c, _, err := r.find(id)
	return c, err
}

func (r *Runtime) find(id string) (*Container, *record, error) {
	if err := checkID(id); err != nil {
		return nil, nil, err
	}
	c := &Container{ID: id, runtime: r}
	c.born, _ = c.bornAt() // a container that an older version made may have no lock
	rec, err := c.load()
	if err != nil {
		return nil, nil, err
	}
	return c, rec, nil
}

// LoadCreated is Load for a container whose create has returned, or was killed. While create runs there is none yet, also
// for the hooks of create.
func (r *Runtime) LoadCreated(id string) (*Container, error) {
	c, rec, err := r.find(id)
	if err == nil && rec.Pid == 0 && c.unfinished() == specs.StateCreating {
		return nil, fmt.Errorf("container %s does not exist yet, it is being created: %w", id, os.ErrNotExist)
	}
	return c, err
}

// List returns the ids of all containers.
func (r *Runtime) List() ([]string, error) {
	entries, err := os.ReadDir(r.Root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && checkID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// fifo is what start writes to. It is there until the program was told to go.
func (c *Container) fifo() string { return filepath.Join(c.dir(), "exec.fifo") }

// status is the container's status by the kernel's word.
func (c *Container) status(rec *record) specs.ContainerState {
	if rec.Pid == 0 {
		return c.unfinished()
	}
	pidfd, err := rec.pidfd()
	if err != nil {
		return specs.StateStopped
	}
	defer unix.Close(pidfd)
	if hasEnded(pidfd) {
		return specs.StateStopped
	}
	if c.waits() {
		return specs.StateCreated
	}
	if g, err := rec.group(); err == nil {
		if frozen, err := g.Frozen(); err == nil && frozen {
			return StatePaused
		}
	}
	return specs.StateRunning
}

// waits reports whether the process still waits to be started: it holds the FIFO open until it executes its program. A start
// that was killed may have left the FIFO's name.
func (c *Container) waits() bool {
	f, err := rawfile.Open(c.fifo(), unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENXIO)
	}
	_ = f.Close()
	return true
}

// hasEnded reports whether a pidfd is readable: when all threads have ended. The state in /proc is the first thread's, which
// is Z as soon as that one has ended, and while another thread calls execve.
func hasEnded(pidfd int) bool {
	ended, err := rawfile.HasEnded(pidfd)
	return err == nil && ended
}

// StatePaused is the status of a frozen container; the specification leaves the name to the runtimes.
const StatePaused specs.ContainerState = "paused"

// State is the specification's state; Status is recomputed from the kernel.
func (c *Container) State() (*specs.State, error) {
	rec, err := c.load()
	if err != nil {
		return nil, err
	}
	s := &specs.State{Version: specs.Version, ID: c.ID, Status: c.status(rec), Bundle: rec.Bundle, Annotations: rec.Annotations}
	if s.Status != specs.StateStopped {
		s.Pid = rec.Pid
	}
	return s, nil
}

// Complete reports whether Create got to its end. Otherwise it is under way or was killed; then only Delete is of use.
func (c *Container) Complete() bool {
	rec, err := c.load()
	return err == nil && rec.Pid != 0
}

// First opens the container's first process, also one that has ended and that nobody has waited for. Once it is gone, the error
// wraps ErrNotRunning.
func (c *Container) First() (pid int, pidfd *os.File, err error) {
	rec, err := c.load()
	if err != nil {
		return 0, nil, err
	}
	fd, err := rec.pidfd()
	if err != nil {
		return 0, nil, fmt.Errorf("process %d of container %s: %w", rec.Pid, c.ID, ErrNotRunning)
	}
	return rec.Pid, os.NewFile(uintptr(fd), "pidfd"), nil
}

// Created is when Create returned.
func (c *Container) Created() (time.Time, error) {
	rec, err := c.load()
	if err != nil {
		return time.Time{}, err
	}
	return rec.Created, nil
}

// Spec is the configuration that the container was created with.
func (c *Container) Spec() (*specs.Spec, error) {
	rec, err := c.load()
	if err != nil {
		return nil, err
	}
	return rec.spec()
}

// Cgroup opens the container's cgroup: statistics, processes, OOM kills.
func (c *Container) Cgroup() (*cgroup.Group, error) {
	rec, err := c.load()
	if err != nil {
		return nil, err
	}
	return rec.group()
}

// processStat reads the start time and the state of a process; see proc_pid_stat(5).
func processStat(pid int) (start uint64, state byte, err error) {
	text, err := rawfile.Read(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "" {
		return 0, 0, fmt.Errorf("/proc/%d/stat is malformed", pid)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return start, f[0][0], err
}

// pidfd opens the container's first process; unix.ESRCH if it has ended.
func (rec *record) pidfd() (int, error) {
	if rec.Pid == 0 { // its creator was killed
		return -1, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(rec.Pid, 0)
	if err != nil {
		return -1, unix.ESRCH
	}
	// Checked after the opening: the descriptor cannot change its process any more.
	if start, _, err := processStat(rec.Pid); err != nil || start != rec.StartTime {
		_ = unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}
