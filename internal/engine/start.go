package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/image"
	"gantry/internal/network"
	"gantry/oci/overlay"
)

// StartContainer starts a container that does not run; ErrNotModified if it does.
func (e *Engine) StartContainer(ctx context.Context, id string) error {
	c, err := e.lookup(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	switch v := c.view(); v.phase {
	case phaseRunning:
		return ErrNotModified
	case phasePaused:
		return fmt.Errorf("cannot start a paused container, try unpause instead%w", noText{errdefs.ErrConflict})
	case phaseRemoving:
		return fmt.Errorf("container %s is being removed%w", c.ID, noText{errdefs.ErrConflict})
	}
	c.retries.cancel()
	c.mu.Lock()
	c.retries.delay, c.record.Last.Restarts = 0, 0 // the policy begins anew
	c.mu.Unlock()
	return c.start(ctx)
}

// start makes the container's process. op is held. A start that fails leaves the container exited, with the reason.
func (c *Container) start(ctx context.Context) error {
	c.forgetExecs()
	r, err := c.launch(ctx)
	if err != nil {
		c.failStart(ctx, err)
		return err
	}
	c.mu.Lock()
	c.run, c.phase = r, phaseRunning
	c.record.Stopped = false
	c.record.Last.Started, c.record.Last.Error, c.record.Last.OOMKilled = r.Started, "", false
	c.mu.Unlock()
	c.recordOOM(context.WithoutCancel(ctx))
	c.engine.background(func(ctx context.Context) { c.watch(ctx, r) })
	c.engine.containerEvent(c, events.ActionStart)
	c.superviseHealth(ctx, r)
	c.tellLinked()
	return nil
}

// failStart records why a start failed, with the exit code that a shell would give.
func (c *Container) failStart(ctx context.Context, err error) {
	c.mu.Lock()
	c.phase = phaseExited
	if c.record.Last.Finished.IsZero() {
		c.phase = phaseCreated // it has never run
	}
	c.record.Last.ExitCode, c.record.Last.Error, c.record.Last.OOMKilled = startExitCode(err), err.Error(), false
	pending := c.pending
	c.pending = nil
	code, auto := c.record.Last.ExitCode, c.record.Config.HostConfig.AutoRemove
	c.mu.Unlock()
	for _, a := range pending {
		a.fail(nil)
	}
	if saveErr := c.save(context.WithoutCancel(ctx)); saveErr != nil {
		c.engine.log.Error("a failed start is not recorded", "container", c.ID, "error", saveErr)
	}
	c.notify(WaitResult{Status: code}, container.WaitConditionNextExit, container.WaitConditionNotRunning)
	if auto { // as docker does: its client waits for the removal
		if err := c.remove(ctx, nil, true); err != nil {
			c.engine.log.Error("remove a container that failed to start", "container", c.ID, "error", err)
		}
	}
}

// startExitCode is 127 for a program that is not there, 126 for one that cannot be executed, else 128, as docker has it.
func startExitCode(err error) int {
	text := err.Error()
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		return 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"), strings.Contains(text, "not a directory"), strings.Contains(text, "exec format error"):
		return 126
	}
	return 128
}

// startFailure classifies what the supervisor said, of which it passes on only the words: a command that cannot be
// executed and a value that the kernel refuses are the user's, as docker has it.
func (c *Container) startFailure(what string, err error, mounts []specs.Mount) error {
	err = native(err)
	text := userTerms(err.Error(), c.ID, c.view().record.Name, mounts)
	if told := err.Error(); startExitCode(err) != 128 || strings.HasSuffix(told, unix.EINVAL.Error()) || strings.Contains(told, "config.json: ") {
		return refuse("failed to %s: %s", what, text)
	}
	return fmt.Errorf("failed to %s: %s%w", what, text, noText{err})
}

// userTerms says in what the supervisor tells of a start what the user knows: the container's name instead of its id, and
// where a mount is instead of its place in the bundle.
func userTerms(text, id, name string, mounts []specs.Mount) string {
	text = strings.ReplaceAll(text, id, name)
	for i, m := range mounts {
		text = strings.ReplaceAll(text, fmt.Sprintf("config.json: mounts[%d]", i), "mount on "+m.Destination)
	}
	return text
}

// launch takes every step of a start, and takes them back if one fails.
func (c *Container) launch(ctx context.Context) (r *run, err error) {
	e := c.engine
	rec := c.view().record
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			if undoErr := undo[i](); undoErr != nil {
				e.log.Error("after a failed start", "container", c.ID, "error", undoErr)
			}
		}
	}()
	cleanup := context.WithoutCancel(ctx)

	img, err := e.images.Get(ctx, rec.Image.ID.String(), &rec.Image.Platform)
	if err != nil {
		return nil, err
	}
	lower, err := e.images.Rootfs(ctx, img)
	if err != nil {
		return nil, err
	}
	endpoint, err := c.connect(ctx, rec, img)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return c.disconnect(cleanup, endpoint) })

	undo = append(undo, func() error { return c.clearTask(cleanup) })
	s, err := c.startValues(rec, img, lower, endpoint)
	if err != nil {
		return nil, err
	}
	c.volumeEvents(events.ActionMount)
	undo = append(undo, func() error { c.volumeEvents(events.ActionUnmount); return nil })
	mounts, err := c.writeBundle(rec, s)
	if err != nil {
		return nil, fmt.Errorf("write the bundle of container %s: %w", rec.Name, err)
	}
	created, err := c.createTask(ctx, rec, lower)
	if err != nil {
		return nil, c.startFailure("create task for container", err, mounts)
	}
	if endpoint != nil {
		e.net.Joined(endpoint)
	}
	r = &run{Pid: int(created.Pid), Started: time.Now().UTC(), Restarts: rec.Last.Restarts, Endpoint: endpoint, Cgroup: s.Cgroup, ended: make(chan struct{})}
	undo = append(undo, func() error { return r.held.Close() })
	c.hold(r)
	if err := c.writeRun(r); err != nil {
		return nil, fmt.Errorf("record the start of container %s: %w", rec.Name, err)
	}
	if err := c.attachPending(ctx); err != nil {
		return nil, err
	}
	if err := e.startTask(ctx, c.ID); err != nil {
		return nil, c.startFailure("start container", err, mounts)
	}
	return r, nil
}

// prepareRootfs makes the overlay's directories fresh where they must be, and returns the mount.
func (c *Container) prepareRootfs(rec record, lower []string) (*types.Mount, error) {
	work := filepath.Join(c.dir(), "work")
	if err := os.RemoveAll(work); err != nil { // a work directory of an earlier mount is refused after "volatile"
		return nil, err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return nil, err
	}
	return &types.Mount{Type: "overlay", Source: "overlay", Options: c.overlay(lower, rec.Config.HostConfig.AutoRemove).MountOptions()}, nil
}

// overlay describes the overlay of an image's layers and the container's own. What is thrown away at the end (discard)
// needs no syncfs.
func (c *Container) overlay(lower []string, discard bool) overlay.Config {
	o := overlay.Config{Lower: lower, Upper: filepath.Join(c.dir(), "upper"), Work: filepath.Join(c.dir(), "work")}
	if discard {
		o.Options = []string{"volatile"}
	}
	return o
}

// startValues gathers what the stored configuration does not say.
func (c *Container) startValues(rec record, img *image.Image, lower []string, endpoint *network.Endpoint) (start, error) {
	e, host := c.engine, rec.Config.HostConfig
	s := start{ID: c.ID, Hostname: c.hostname(rec), Image: &img.Config, Cgroup: c.cgroupPath(rec), Namespace: map[specs.LinuxNamespaceType]string{}}
	user := rec.Config.User
	if user == "" {
		user = img.Config.Config.User
	}
	var err error
	if s.Mounts, err = c.mounts(rec, img, endpoint); err != nil {
		return start{}, err
	}
	id, err := e.users.resolve(identityQuery{
		image: img.Manifest.Digest, layers: lower, upper: filepath.Join(c.dir(), "upper"), mounts: s.Mounts, user: user, groups: host.GroupAdd,
	})
	if err != nil {
		return start{}, err
	}
	s.User, s.Home = id.spec(), id.Home
	if endpoint != nil {
		s.Namespace[specs.NetworkNamespace] = endpoint.Namespace
	}
	for kind, other := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: host.NetworkMode.ConnectedContainer(),
		specs.PIDNamespace:     host.PidMode.Container(),
		specs.IPCNamespace:     host.IpcMode.Container(),
	} {
		if other == "" {
			continue
		}
		_, r, err := e.alive(other)
		if err != nil {
			return start{}, fmt.Errorf("join the %s namespace of container %s: %w", kind, other, err)
		}
		s.Namespace[kind] = fmt.Sprintf("/proc/%d/ns/%s", r.Pid, namespaceFiles[kind])
	}
	if s.Links, err = e.linkEnvironment(context.Background(), rec); err != nil {
		return start{}, err
	}
	if s.Devices, s.Rules, err = devices(host); err != nil {
		return start{}, err
	}
	return s, nil
}

var namespaceFiles = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net", specs.PIDNamespace: "pid", specs.IPCNamespace: "ipc",
}

func (c *Container) hostname(rec record) string {
	switch {
	case rec.Config.Hostname != "":
		return rec.Config.Hostname
	case rec.Config.HostConfig.NetworkMode.IsContainer(): // its own files name that host, too
		if other, err := c.engine.lookup(rec.Config.HostConfig.NetworkMode.ConnectedContainer()); err == nil && other != c {
			return other.hostname(other.view().record)
		}
	case rec.Config.HostConfig.NetworkMode.IsHost(), rec.Config.HostConfig.UTSMode.IsHost():
		if name, err := os.Hostname(); err == nil {
			return name
		}
	}
	return c.ID[:12]
}

func (c *Container) cgroupPath(rec record) string {
	parent := rec.Config.HostConfig.CgroupParent
	if parent == "" {
		parent = c.engine.o.CgroupParent
	}
	return filepath.Join("/", parent, c.ID)
}

// writeBundle writes the bundle and returns its mounts.
func (c *Container) writeBundle(rec record, s start) ([]specs.Mount, error) {
	spec, err := buildSpec(rec.Config.Config, rec.Config.HostConfig, s)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.runDir(), 0o700); err != nil {
		return nil, err
	}
	return spec.Mounts, os.WriteFile(filepath.Join(c.runDir(), "config.json"), text, 0o600)
}

// writeRun stores the facts of the run beside the bundle, atomically, before the program is executed.
func (c *Container) writeRun(r *run) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(c.runDir(), "run.json")
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// createTask makes the container's process up to where its program would be executed. A supervisor that dies on the way
// has made at most a process that the next one finds: that one goes, and another is made.
func (c *Container) createTask(ctx context.Context, rec record, lower []string) (*task.CreateTaskResponse, error) {
	out, err := c.outputURI(rec)
	if err != nil {
		return nil, err
	}
	request := &task.CreateTaskRequest{ID: c.ID, Bundle: c.runDir(), Terminal: rec.Config.Tty, Stdout: out}
	if !rec.Config.Tty {
		request.Stderr = out
	}
	if rec.Config.OpenStdin {
		request.Stdin = "attach:"
		if rec.Config.StdinOnce {
			request.Stdin = "attach:?once"
		}
	}
	for attempt := 1; ; attempt++ {
		rootfs, err := c.prepareRootfs(rec, lower)
		if err != nil {
			return nil, fmt.Errorf("prepare the root of container %s: %w", rec.Name, err)
		}
		request.Rootfs = []*types.Mount{rootfs}
		shim, err := c.engine.supervisor(ctx)
		if err != nil {
			return nil, err
		}
		response, err := shim.Task.Create(ctx, request)
		switch {
		case err == nil:
			return response, nil
		case attempt == maxSupervisors:
			return nil, native(err)
		case lost(ctx, err):
			awaitLoss(ctx, shim)
		case !errdefs.IsAlreadyExists(native(err)):
			return nil, native(err)
		}
		// The task of a supervisor that died, or of an engine that died between an exit and its record.
		if err := c.engine.deleteTask(ctx, c.ID); err != nil {
			return nil, err
		}
	}
}

// clearTask deletes what there is of an unfinished or earlier run: its task, then its run directory, which tells others
// that there may be a task.
func (c *Container) clearTask(ctx context.Context) error {
	if err := c.engine.deleteTask(ctx, c.ID); err != nil {
		return err
	}
	return os.RemoveAll(c.runDir())
}

// outputURI tells the supervisor where output goes: to the log, or to whoever is attached only.
func (c *Container) outputURI(rec record) (string, error) {
	if rec.Config.HostConfig.LogConfig.Type == "none" {
		return "attach:", nil
	}
	o, err := logOptions(rec, c.logPath())
	if err != nil {
		return "", err
	}
	return o.URI(), nil
}
