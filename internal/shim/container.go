package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gantry/cgroup"
	"gantry/oci"
)

// container is a task: a container with its first process and those of exec.
type container struct {
	id, bundle string
	server     *Server
	oci        *oci.Container
	init       *process
	unwatch    chan struct{} // closed to end watchOOM
	watched    chan struct{} // closed when watchOOM has ended
	killRest   bool          // it shares a pid namespace: its other processes do not end with the first one
	options    options

	op     sync.Mutex // one change at a time
	mu     sync.Mutex // guards what follows
	execs  map[string]*process
	paused bool
	ooms   int           // how often it has run out of memory
	killed bool          // SIGKILL was sent: whoever is frozen now must be thawed to die
	group  *cgroup.Group // nil: not known yet
}

// addresses of a container's streams, kept for the next supervisor.
type addresses struct {
	Bundle                string
	Terminal              bool
	Stdin, Stdout, Stderr string
	Options               options `json:",omitzero"`
}

// path is where the container's files stand in the supervisor's directory.
func (s *Server) path(id string) string { return filepath.Join(s.config.Dir, "io", id) }

// create makes the container. On error nothing is left.
func (s *Server) create(ctx context.Context, r *task.CreateTaskRequest) (_ *container, err error) {
	spec, err := oci.ReadSpec(r.Bundle)
	if err != nil {
		return nil, err
	}
	defaultOOM(spec.Process)
	options, err := readOptions(r.Options)
	if err == nil {
		err = s.place(options.shimCgroup)
	}
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	c := &container{id: r.ID, bundle: r.Bundle, server: s, options: options, killRest: !ownPIDs(spec)}
	p := &process{terminal: r.Terminal, stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr, exited: make(chan struct{})}
	c.init = p
	if p.streams, err = newStreams(r.Terminal, r.Stdin, r.Stdout, r.Stderr); err != nil {
		return nil, err
	}
	p.streams.keep = s.keeping.of(r.ID)
	path := s.path(r.ID)
	o := oci.CreateOptions{Bundle: r.Bundle, Spec: spec, NoPivot: options.noPivot, NoNewKeyring: options.noNewKeyring}
	defer func() {
		closeAll([]*os.File{o.Stdio.Stdin, o.Stdio.Stdout, o.Stdio.Stderr})
		if err != nil {
			p.release()
			err = errors.Join(err, removeFile(path+".json"))
		}
	}()
	text, err := json.Marshal(addresses{r.Bundle, r.Terminal, r.Stdin, r.Stdout, r.Stderr, options})
	if err != nil {
		return nil, err
	}
	if err := writeWhole(path+".json", text); err != nil {
		return nil, fmt.Errorf("remember container %s: %w", r.ID, err)
	}
	if o.Stdio, err = p.stdio(path); err != nil {
		return nil, err
	}
	if err := options.own(o.Stdio); err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	for _, m := range r.Rootfs {
		o.Rootfs = append(o.Rootfs, oci.Mount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	made, child, err := s.runtimeOf(options).Create(ctx, r.ID, o)
	if err != nil {
		return nil, err
	}
	c.oci = made
	c.openGroup(spec)
	c.unwatch, c.watched = make(chan struct{}), make(chan struct{})
	go c.watchOOM()
	if err := p.watch(child.Pid, child.Pidfd, c.ended); err != nil {
		close(c.unwatch)
		return nil, errors.Join(err, made.Delete(ctx, true))
	}
	return c, nil
}

// defaultOOM keeps a process from inheriting our own protection from the out-of-memory killer.
func defaultOOM(p *specs.Process) {
	if p != nil && p.OOMScoreAdj == nil {
		p.OOMScoreAdj = inheritedOOM
	}
}

func ownPIDs(spec *specs.Spec) bool {
	if spec.Linux == nil {
		return false
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.PIDNamespace {
			return n.Path == ""
		}
	}
	return false
}

// openGroup opens the cgroup. A plain path is known from the configuration, without reading the state again.
func (c *container) openGroup(spec *specs.Spec) {
	if spec.Linux == nil || !strings.HasPrefix(spec.Linux.CgroupsPath, "/") || strings.Contains(spec.Linux.CgroupsPath, ":") {
		return
	}
	if g, err := cgroup.Open(filepath.Clean(spec.Linux.CgroupsPath)); err == nil {
		c.group = g
	}
}

func (c *container) cgroup() (*cgroup.Group, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.group == nil {
		g, err := c.oci.Cgroup()
		if err != nil {
			return nil, err
		}
		c.group = g
	}
	return c.group, nil
}

// ended follows the end of the first process.
func (c *container) ended(status int) {
	if c.killRest {
		if err := c.oci.Kill(unix.SIGKILL, true); err != nil && !errors.Is(err, oci.ErrNotRunning) && !errors.Is(err, os.ErrNotExist) {
			warn("end the processes of container "+c.id, err)
		}
	}
	close(c.unwatch)
	<-c.watched
	oom := c.oomKilled()
	c.mu.Lock()
	unseen := oom && c.ooms == 0
	c.mu.Unlock()
	if unseen {
		c.noteOOM()
	}
	c.init.settle(status, oom)
	c.exitEvent(c.init, c.id)
}

// oomKilled reports whether the kernel killed a process of the container for want of memory.
func (c *container) oomKilled() bool {
	g, err := c.cgroup()
	if err != nil {
		return false
	}
	n, err := g.OOMKills()
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a failed hook has removed the container
		warn("read the OOM kills of container "+c.id, err)
	}
	return n > 0
}

func (c *container) exitEvent(p *process, id string) {
	c.server.events.publish(&events.TaskExit{
		ContainerID: c.id, ID: id, Pid: p.number(), ExitStatus: uint32(p.exit.Status), ExitedAt: timestamppb.New(p.exit.At),
	})
}

// process finds a process of the container; "" is the first one.
func (c *container) process(execID string) (*process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.execs[execID]
	if p == nil {
		return nil, fmt.Errorf("process %s of container %s: %w", execID, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}

// addExec prepares a process of exec, which others can attach to before it starts.
func (c *container) addExec(r *task.ExecProcessRequest) error {
	var spec specs.Process
	if err := json.Unmarshal(r.GetSpec().GetValue(), &spec); err != nil {
		return fmt.Errorf("exec %s: read the process: %w: %w", r.ExecID, err, errdefs.ErrInvalidArgument)
	}
	defaultOOM(&spec)
	spec.Terminal = r.Terminal
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[r.ExecID] != nil {
		return fmt.Errorf("exec %s of container %s: %w", r.ExecID, c.id, errdefs.ErrAlreadyExists)
	}
	if c.init.hasExited() {
		return fmt.Errorf("exec in container %s: %w: %w", c.id, oci.ErrNotRunning, errdefs.ErrFailedPrecondition)
	}
	streams, err := newStreams(r.Terminal, r.Stdin, r.Stdout, r.Stderr)
	if err != nil {
		return err
	}
	if c.execs == nil {
		c.execs = map[string]*process{}
	}
	c.execs[r.ExecID] = &process{
		execID: r.ExecID, terminal: r.Terminal, stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr,
		streams: streams, spec: &spec, exited: make(chan struct{}),
	}
	return nil
}

// start executes the container's program.
func (c *container) start(ctx context.Context) error {
	p := c.init
	if p.status(false) != 1 { // CREATED
		return fmt.Errorf("start container %s: it is not created: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if err := c.oci.Start(ctx); err != nil {
		if !errors.Is(err, oci.ErrStarted) { // by the supervisor that this one was taken over from, with its last breath
			return err
		}
	}
	p.mu.Lock()
	p.started = true
	p.mu.Unlock()
	c.server.events.publish(&events.TaskStart{ContainerID: c.id, Pid: p.number()})
	return nil
}

// startExec makes a prepared process. One that cannot be made has ended with what a shell would give.
func (c *container) startExec(ctx context.Context, p *process) error {
	p.mu.Lock()
	spec := p.spec
	p.spec = nil
	p.mu.Unlock()
	if spec == nil {
		return fmt.Errorf("exec %s of container %s was started before: %w", p.execID, c.id, errdefs.ErrFailedPrecondition)
	}
	err := c.spawnExec(ctx, p, spec)
	if state, stateErr := c.oci.State(); err != nil && (stateErr != nil || state.Status == specs.StateStopped) {
		err = fmt.Errorf("%w: %w", oci.ErrNotRunning, err) // whatever the kernel said of what has gone
	}
	if err != nil {
		p.mu.Lock()
		p.exit.Status, p.exit.At = 127, time.Now().UTC()
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOEXEC) {
			p.exit.Status = 126
		}
		p.mu.Unlock()
		p.release()
		close(p.exited)
		return err
	}
	c.server.events.publish(&events.TaskExecStarted{ContainerID: c.id, ExecID: p.execID, Pid: p.number()})
	return nil
}

func (c *container) spawnExec(ctx context.Context, p *process, spec *specs.Process) error {
	o, err := p.stdio("")
	defer func() { closeAll([]*os.File{o.Stdin, o.Stdout, o.Stderr}) }()
	if err == nil {
		err = c.options.own(o)
	}
	if err != nil {
		return err
	}
	child, err := c.oci.Exec(ctx, spec, o)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.started = true
	p.mu.Unlock()
	return p.watch(child.Pid, child.Pidfd, func(status int) {
		p.settle(status, false)
		c.exitEvent(p, p.execID)
	})
}

// remove deletes a container that has ended, or has not begun.
func (c *container) remove(ctx context.Context) error {
	if c.init.status(false) == 1 { // CREATED: nothing of it has run
		if err := c.init.signal(unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		<-c.init.exited
	}
	if !c.init.hasExited() {
		return fmt.Errorf("delete container %s: it is running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if err := c.oci.Delete(ctx, false); err != nil {
		return err
	}
	return removeFile(c.server.path(c.id) + ".json")
}

// writeWhole writes a file that is there as a whole or not at all, whenever this process is killed.
func writeWhole(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
