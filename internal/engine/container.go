package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/network"
	"gantry/internal/shim/client"
)

// Container is one container, running or not.
type Container struct {
	ID     string
	engine *Engine

	// op is held through one change of the life cycle: start, the clean-up after an exit, removal. Never taken with mu held.
	op sync.Mutex

	mu      sync.Mutex // guards what follows; never held while waiting for anything
	record  record
	run     *run // the life of its process, if it has one
	phase   phase
	waiters []waiter
	removed bool          // nothing will happen to it any more: every waiter has been told
	pending []*attachment // attached before the start
	retries retries
	execs   []string
	oom     client.OOM // what was last heard of it
	// restarts counts the calls of RestartContainer in progress.
	restarts int
}

// record is what is known of a container that must outlive everything: it is in the state database.
type record struct {
	ID, Name string
	Created  time.Time
	Config   Config
	Image    imageRef
	Volumes  map[string]volumeUse `json:",omitempty"` // by destination
	Links    []link               `json:",omitempty"`
	Borrowed []mountPoint         `json:",omitempty"` // of --volumes-from, as they were at the creation
	Last     lastRun
	Health   *container.Health `json:",omitempty"` // replaced as a whole, never changed; nil without a check
	// Stopped tells that a user stopped it, which "unless-stopped" and "always" respect.
	Stopped bool
}

// imageRef pins the image that a container was made from, whatever its name means later.
type imageRef struct {
	ID       digest.Digest
	Manifest ocispec.Descriptor
	Platform ocispec.Platform
}

type volumeUse struct {
	Name      string
	Anonymous bool
}

// lastRun is how the latest run of the container's process went. It is not stored while it goes on.
type lastRun struct {
	Started, Finished time.Time
	ExitCode          int
	OOMKilled         bool
	Error             string
	Restarts          int
}

// run is one life of the container's process. Its JSON form stands beside the bundle, for an engine that comes later.
type run struct {
	Pid      int
	Started  time.Time
	Restarts int               // how often the restart policy has started it
	Endpoint *network.Endpoint // nil unless it is on the bridge
	Cgroup   string
	ended    chan struct{}  // closed when the exit is known
	ooms     int            // how often it has run out of memory, as far as anybody was told
	held     *client.Held   // what must outlive the supervisor; nil: nothing could be held
	process  *specs.Process // as the bundle has it, once somebody asked
}

type phase int

const (
	phaseCreated phase = iota
	phaseRunning
	phasePaused
	phaseRestarting // ended, and to be started again by its restart policy
	phaseExited
	phaseRemoving
)

var phaseStates = map[phase]container.ContainerState{
	phaseCreated:    container.StateCreated,
	phaseRunning:    container.StateRunning,
	phasePaused:     container.StatePaused,
	phaseRestarting: container.StateRestarting,
	phaseExited:     container.StateExited,
	phaseRemoving:   container.StateRemoving,
}

func (p phase) alive() bool { return p == phaseRunning || p == phasePaused }

// view is a consistent copy of what changes in a container.
type view struct {
	record record
	run    run
	phase  phase
	execs  []string
}

func (c *Container) view() view {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := view{record: c.record, phase: c.phase, execs: append([]string{}, c.execs...)}
	if c.run != nil {
		v.run = *c.run
	}
	return v
}

func (c *Container) setPhase(p phase) {
	c.mu.Lock()
	c.phase = p
	c.mu.Unlock()
}

// dir is where the container's own files are; runDir is where those of its current run are.
func (c *Container) dir() string    { return filepath.Join(c.engine.o.Root, "containers", c.ID) }
func (c *Container) runDir() string { return filepath.Join(c.engine.o.Run, "bundles", c.ID) }
func (c *Container) logPath() string {
	return filepath.Join(c.dir(), c.ID+"-json.log")
}

// save stores the record durably.
func (c *Container) save(ctx context.Context) error {
	c.mu.Lock()
	if c.phase == phaseRemoving { // its record goes, and must not come back
		c.mu.Unlock()
		return nil
	}
	value, err := json.Marshal(c.record)
	if err != nil {
		c.mu.Unlock()
		return fmt.Errorf("store container %s: %w", c.ID, err)
	}
	stored, err := c.engine.store.begin(bucketContainers, c.ID, value) // with mu held: in the order of the changes
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return stored.wait(ctx)
}

// update changes the record and stores it.
func (c *Container) update(ctx context.Context, change func(*record)) error {
	c.mu.Lock()
	change(&c.record)
	c.mu.Unlock()
	return c.save(ctx)
}

// lookup finds a container by id, name, or unambiguous prefix of an id.
func (e *Engine) lookup(ref string) (*Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[ref]; c != nil {
		return c, nil
	}
	if id, ok := e.names[strings.TrimPrefix(ref, "/")]; ok {
		return e.containers[id], nil
	}
	var found *Container
	for id, c := range e.containers {
		if ref == "" || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, refuse("%q stands for several containers; give more of the id", ref)
		}
		found = c
	}
	if found == nil {
		return nil, fmt.Errorf("No such container: %s%w", ref, noText{errdefs.ErrNotFound})
	}
	return found, nil
}

// noText classifies an error without adding words to its message.
type noText struct{ class error }

func (noText) Error() string   { return "" }
func (n noText) Unwrap() error { return n.class }

// all returns every container.
func (e *Engine) all() []*Container {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*Container, 0, len(e.containers))
	for _, c := range e.containers {
		list = append(list, c)
	}
	return list
}

// alive finds a container whose process runs; paused or not.
func (e *Engine) alive(ref string) (*Container, run, error) {
	c, err := e.lookup(ref)
	if err != nil {
		return nil, run{}, err
	}
	v := c.view()
	if !v.phase.alive() {
		return nil, run{}, fmt.Errorf("container %s is not running%w", c.ID, noText{errdefs.ErrConflict})
	}
	return c, v.run, nil
}

// reserveName takes a name for a container, or makes one up.
func (e *Engine) reserveName(name, id string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if name == "" {
		for {
			name = inventName()
			if e.names[name] == "" {
				break
			}
		}
	}
	name = strings.TrimPrefix(name, "/")
	if !containerName.MatchString(name) {
		return "", refuse("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	if holder := e.names[name]; holder != "" {
		return "", fmt.Errorf("Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.%w",
			"/"+name, holder, noText{errdefs.ErrConflict})
	}
	e.names[name] = id
	return name, nil
}

func (e *Engine) freeName(name string) {
	e.mu.Lock()
	delete(e.names, name)
	e.mu.Unlock()
}
