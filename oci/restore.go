package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/criu"
	"gantry/oci/internal/osthread"
	"gantry/rawfile"
)

// Restore makes a container of what Checkpoint has saved; it runs when Restore returns. On error nothing is left.
func (r *Runtime) Restore(ctx context.Context, id string, o CreateOptions, from CheckpointOptions) (_ *Container, _ *Process, err error) {
	if err := checkID(id); err != nil {
		return nil, nil, err
	}
	if o.Spec == nil {
		if o.Spec, err = ReadSpec(o.Bundle); err != nil {
			return nil, nil, err
		}
	}
	if err := validate(o.Spec); err != nil {
		return nil, nil, err
	}
	if len(o.Rootfs) > 0 {
		return nil, nil, fmt.Errorf("restore container %s: mount its root file system first: criu wants a directory", id)
	}
	if _, err := os.Stat(from.ImagePath); err != nil {
		return nil, nil, fmt.Errorf("restore container %s: %w", id, err)
	}
	c, unlock, err := r.begin(id)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	process, err := c.restore(ctx, o, from)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("restore container %s: %w", id, err), c.remove())
	}
	return c, process, nil
}

func (c *Container) restore(ctx context.Context, o CreateOptions, from CheckpointOptions) (_ *Process, err error) {
	b := &builder{id: c.ID, bundle: o.Bundle, spec: o.Spec}
	rec, err := c.begun(b)
	if err != nil {
		return nil, err
	}
	rec.NoNewKeyring, rec.Pipes = o.NoNewKeyring, o.Stdio.pipes()
	rec.describe(o.Spec)
	if err := c.runtime.save(rec); err != nil {
		return nil, err
	}
	group, undo, err := c.makeGroups(ctx, b, rec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo())
		}
	}()
	j, err := newCriuJob(rec, from, restoreLog)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := j.checkLabels(ctx); err != nil {
		return nil, err
	}
	root, err := c.prepareRoot(j)
	if err != nil {
		return nil, err
	}
	if err := j.forRestore(root); err != nil {
		return nil, err
	}
	files, err := j.inherited(o)
	if err != nil {
		return nil, err
	}
	pid, err := j.runRestore(ctx, rec, group, files, o)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(root); err != nil {
		return nil, err
	}
	if err := group.settle(ctx); err != nil {
		return nil, err
	}
	rec.RDT.created()
	return c.adopt(rec, pid)
}

// adopt records the restored process.
func (c *Container) adopt(rec *record, pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open the restored process %d: %w", pid, err)
	}
	p := &Process{Pid: pid, Pidfd: os.NewFile(uintptr(fd), "pidfd")}
	rec.Pid, rec.Created = pid, time.Now().UTC()
	if rec.StartTime, _, err = processStat(pid); err == nil {
		err = rec.addTimeNamespace()
	}
	if err == nil {
		err = c.runtime.save(rec)
	}
	if err != nil {
		return nil, errors.Join(err, p.Pidfd.Close())
	}
	c.known = rec
	return p, nil
}

// addTimeNamespace notes that criu gives what it restores a time namespace: who executes in the container joins that too,
// or the next checkpoint could not be restored.
func (rec *record) addTimeNamespace() error {
	own, err := os.Stat("/proc/self/ns/time")
	if err != nil {
		return nil //nolint:nilerr // the kernel has none
	}
	restored, err := os.Stat(fmt.Sprintf("/proc/%d/ns/time", rec.Pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has ended already
	}
	if err != nil {
		return fmt.Errorf("time namespace of the restored process: %w", err)
	}
	spec, err := rec.spec()
	if err != nil {
		return err
	}
	listed := slices.ContainsFunc(rec.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.TimeNamespace })
	if listed || os.SameFile(own, restored) {
		return nil
	}
	known, linux := *spec, *spec.Linux
	linux.Namespaces = append(slices.Clone(linux.Namespaces), specs.LinuxNamespace{Type: specs.TimeNamespace})
	known.Linux = &linux
	rec.describe(&known)
	return nil
}

// criuRoot is where the root is bound for criu, and for criu alone.
func (c *Container) criuRoot() string { return filepath.Join(c.dir(), "criu-root") }

// prepareRoot makes the directory in which criu has the root, and what the container mounts on, in case this is another
// copy of the root than the one that was saved.
func (c *Container) prepareRoot(j *criuJob) (dir string, err error) {
	if !j.b.isNew(specs.MountNamespace) {
		return "", errors.New("it has no mount namespace of its own: criu would leave it in another one")
	}
	if err := os.Mkdir(c.criuRoot(), 0o755); err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(c.criuRoot()); err != nil {
		return "", err
	}
	return dir, j.makeMountPoints(dir)
}

// startAside starts criu in a mount namespace of its own, with the root bound where criu wants it: on a mount point whose
// parent is not covered. What criu mounts goes with it, however it ends. Its directories are those that the new namespace
// has, or it could not mount in them.
func (j *criuJob) startAside(root string, start func() error) error {
	var err error
	osthread.Run(func() {
		err = func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("mount namespace for criu: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
				return fmt.Errorf("keep criu's mounts to it: %w", err)
			}
			if err := bindRoot(j.b.rootPath(), root); err != nil {
				return err
			}
			if err := j.openDirectories(); err != nil {
				return err
			}
			return start()
		}()
	})
	return err
}

func bindRoot(root, dir string) error {
	if err := unix.Mount(root, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", root, dir, err)
	}
	return nil
}

// forRestore completes the options.
func (j *criuJob) forRestore(root string) error {
	if err := j.checkNames(); err != nil {
		return err
	}
	opts := j.opts
	opts.Root, opts.EvasiveDevices, opts.RestoreSibling = root, true, true
	for _, m := range j.externalMounts() {
		opts.ExtMounts = append(opts.ExtMounts, criu.Pair{Key: j.mountPoint(m.Destination), Value: j.source(m)})
	}
	if len(j.b.spec.Linux.MaskedPaths) > 0 {
		opts.ExtMounts = append(opts.ExtMounts, criu.Pair{Key: "/dev/null", Value: "/dev/null"})
	}
	for _, n := range j.b.spec.Linux.Namespaces {
		switch {
		case n.Path == "", n.Type == specs.NetworkNamespace, n.Type == specs.PIDNamespace: // see inherited
		case n.Type == specs.CgroupNamespace:
			return fmt.Errorf("criu cannot restore into the cgroup namespace %s", n.Path)
		default:
			opts.JoinNS = append(opts.JoinNS, criu.Pair{Key: nsNames[n.Type], Value: n.Path})
		}
	}
	return nil
}

// inherited opens what criu passes on: namespaces that are not the container's own, and its streams where they were pipes.
func (j *criuJob) inherited(o CreateOptions) ([]*os.File, error) {
	var files []*os.File
	for _, kind := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.PIDNamespace} {
		n, listed := j.b.has(kind)
		if !listed || n.Path == "" {
			continue
		}
		f, err := os.Open(n.Path)
		if err != nil {
			return nil, fmt.Errorf("requested %s namespace %s does not exist: %w", kind, n.Path, err)
		}
		j.dirs = append(j.dirs, f)
		const first = 4 // behind the streams and the socket
		j.opts.InheritFDs = append(j.opts.InheritFDs, criu.InheritFD{Key: externalKey(kind), FD: first + len(files)})
		files = append(files, f)
	}
	text, err := rawfile.Read(filepath.Join(j.o.ImagePath, descriptorsFile))
	if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(text, &names); err != nil {
		return nil, fmt.Errorf("read %s: %w", descriptorsFile, err)
	}
	streams := []*os.File{o.Stdio.Stdin, o.Stdio.Stdout, o.Stdio.Stderr}
	for fd, name := range names {
		if strings.HasPrefix(name, "pipe:") && fd < len(streams) && streams[fd] != nil {
			j.opts.InheritFDs = append(j.opts.InheritFDs, criu.InheritFD{Key: name, FD: fd})
		}
	}
	return files, nil
}

// runRestore runs criu in the container's cgroup, so that what it makes is in it, and returns the first process's pid.
func (j *criuJob) runRestore(ctx context.Context, rec *record, group *newGroup, files []*os.File, o CreateOptions) (int, error) {
	pid := 0
	hooks := &hookRunner{ctx: ctx, hooks: o.Spec.Hooks, state: specs.State{
		Version: specs.Version, ID: j.b.id, Status: specs.StateCreating, Bundle: o.Bundle, Annotations: o.Spec.Annotations,
	}}
	request := &criu.Request{
		Kind: criu.Restore, Options: j.opts, Files: files, Stdio: [3]*os.File{o.Stdio.Stdin, o.Stdio.Stdout, o.Stdio.Stderr},
		Start: func(start func() error) error { return j.startAside(j.opts.Root, start) },
		Started: func(criuPid int) error {
			if err := group.Add(criuPid); err != nil {
				return err
			}
			if err := rec.RDT.join(criuPid); err != nil {
				return err
			}
			return j.cgroupRoots(criuPid)
		},
		Notify: func(script string, told int, file *os.File) error {
			switch {
			case script == "orphan-pts-master" && file != nil && o.Stdio.Console != nil:
				return o.Stdio.Console(file)
			case script == "setup-namespaces" && hooks.ofCreate():
				hooks.state.Pid = told
				kinds := hooks.all()
				for _, kind := range kinds[:createContainer] {
					if err := hooks.run(kind, hooks.runInRuntime); err != nil {
						return err
					}
				}
			case script == "post-restore":
				pid = told
			}
			if file != nil {
				_ = file.Close() // nobody takes it
			}
			return nil
		},
	}
	a, err := j.do(ctx, request)
	if err != nil {
		return 0, err
	}
	if a.Pid != 0 {
		pid = a.Pid
	}
	return pid, nil
}

// cgroupRoots tells criu where the cgroups of the images are now: where it is itself.
func (j *criuJob) cgroupRoots(criuPid int) error {
	text, err := rawfile.Read(fmt.Sprintf("/proc/%d/cgroup", criuPid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			j.opts.CgroupRoots = append(j.opts.CgroupRoots, criu.Pair{Key: controller, Value: parts[2]})
		}
	}
	return nil
}
