package engine

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
	"gantry/rawfile"
)

// view of a container's files from outside. Every path in it is resolved by the kernel within its root (openat2,
// RESOLVE_IN_ROOT): no link and no swap of directories by the container leads out.
type rootView struct {
	fd    int
	close func()
}

// openRoot opens a container's root with its volumes: of a running container as its processes see it, else mounted for
// the time being, while the container cannot be started or removed.
func (c *Container) openRoot(ctx context.Context) (*rootView, error) {
	c.op.Lock()
	v := c.view()
	if v.phase.alive() {
		defer c.op.Unlock()
		fd, err := liveRoot(v.run.Pid, c.ID)
		if err != nil {
			return nil, fmt.Errorf("open the root of container %s: %w", v.record.Name, err)
		}
		return &rootView{fd: fd, close: func() { _ = unix.Close(fd) }}, nil
	}
	if v.phase == phaseRemoving {
		c.op.Unlock()
		return nil, fmt.Errorf("container %s is being removed%w", c.ID, noText{errdefs.ErrConflict})
	}
	fd, release, err := c.mountRoot(ctx, v.record)
	if err != nil {
		c.op.Unlock()
		return nil, fmt.Errorf("mount the root of container %s: %w", v.record.Name, err)
	}
	return &rootView{fd: fd, close: func() {
		_ = unix.Close(fd)
		release()
		c.op.Unlock()
	}}, nil
}

// liveRoot opens /proc/PID/root of a container's first process. The directory of /proc stays that of one process even
// if its number is used again, and the cgroup tells that it is the container's.
func liveRoot(pid int, id string) (int, error) {
	proc, err := rawfile.RetryValue(func() (int, error) {
		return unix.Open(fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: fmt.Sprintf("/proc/%d", pid), Err: err}
	}
	defer unix.Close(proc)
	fd, err := rawfile.RetryValue(func() (int, error) { return unix.Openat(proc, "cgroup", unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, fmt.Errorf("read the cgroup of process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "cgroup")
	defer f.Close()
	var text [16 << 10]byte
	n, err := f.Read(text[:])
	if err != nil || !strings.Contains(string(text[:n]), "/"+id) {
		return -1, fmt.Errorf("process %d is not the container's any more%w", pid, noText{errdefs.ErrConflict})
	}
	return rawfile.RetryValue(func() (int, error) { return unix.Openat(proc, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
}

// mountRoot mounts the root and the volumes of a container that does not run, in a mount namespace that exists until
// release is called: it is that of one thread.
func (c *Container) mountRoot(ctx context.Context, rec record) (fd int, release func(), err error) {
	img, err := c.engine.images.Get(ctx, rec.Image.ID.String(), &rec.Image.Platform)
	if err != nil {
		return -1, nil, err
	}
	lower, err := c.engine.images.Rootfs(ctx, img)
	if err != nil {
		return -1, nil, err
	}
	if _, err := c.prepareRootfs(rec, lower); err != nil {
		return -1, nil, err
	}
	points, err := rec.mountPoints()
	if err != nil {
		return -1, nil, err
	}
	workingDir := cmp.Or(rec.Config.WorkingDir, img.Config.Config.WorkingDir)
	type answer struct {
		fd  int
		err error
	}
	ready, done, ended := make(chan answer), make(chan struct{}), make(chan struct{})
	onThread(ended, func() {
		fd, err := c.assemble(rec, lower, points, workingDir)
		ready <- answer{fd, err}
		<-done
	})
	a := <-ready
	release = func() {
		close(done)
		<-ended
	}
	if a.err != nil {
		release()
		return -1, nil, a.err
	}
	return a.fd, release, nil
}

// onThread runs f on a thread that ends after it, and then closes ended. The process's first thread is never taken: it
// would not end, and stands for the process in /proc.
func onThread(ended chan<- struct{}, f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			other := make(chan struct{})
			onThread(other, f) // on another thread, since this one is held
			<-other
			runtime.UnlockOSThread()
			close(ended)
			return
		}
		defer close(ended) // without an unlock, the thread ends with the goroutine
		f()
	}()
}

// assemble mounts overlay and volumes, and makes the working directory, in a mount namespace of the calling thread's own, and opens the root.
func (c *Container) assemble(rec record, lower []string, points []mountPoint, workingDir string) (int, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("keep mounts to the mount namespace: %w", err)
	}
	var sources []int
	defer func() {
		for _, fd := range sources {
			_ = unix.Close(fd)
		}
	}()
	var kept []mountPoint
	for _, m := range points {
		if m.Kind == mount.TypeTmpfs {
			continue
		}
		source := m.Source
		if m.Kind == mount.TypeVolume {
			source = c.engine.volumeData(rec.Volumes[m.Destination].Name)
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err == unix.ENOENT && m.Create {
			continue // the start will make it
		}
		if err != nil {
			return -1, fmt.Errorf("open the source of mount %s: %w", m.Destination, err)
		}
		sources, kept = append(sources, fd), append(kept, m)
	}
	layers := c.overlay(lower, false)
	layers.Attributes = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID
	files, err := layers.Mount()
	if err != nil {
		return -1, err
	}
	defer unix.Close(files)
	if err := unix.MoveMount(files, "", unix.AT_FDCWD, c.dir(), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return -1, fmt.Errorf("attach the overlay: %w", err)
	}
	root, err := rawfile.RetryValue(func() (int, error) { return unix.Open(c.dir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: c.dir(), Err: err}
	}
	for i, m := range kept {
		if err := attach(root, sources[i], m); err != nil {
			_ = unix.Close(root)
			return -1, fmt.Errorf("mount on %s: %w", m.Destination, err)
		}
	}
	if err := finishRoot(root, files, workingDir, rec.Config.HostConfig.ReadonlyRootfs); err != nil {
		_ = unix.Close(root)
		return -1, err
	}
	return root, nil
}

// finishRoot makes the working directory, as a start would, and then a read-only container's root read-only.
func finishRoot(root, files int, workingDir string, readOnly bool) error {
	if workingDir != "" {
		if dir, err := makeDirs(root, workingDir); err == nil { // otherwise the start tells why it cannot go there
			_ = unix.Close(dir)
		}
	}
	if !readOnly {
		return nil
	}
	if err := unix.MountSetattr(files, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// attach puts a mount at its destination, which is made where it is missing, as at a start.
func attach(root, source int, m mountPoint) error {
	var st unix.Stat_t
	if err := unix.Fstat(source, &st); err != nil {
		return err
	}
	if m.ReadOnly {
		flags := uint(unix.AT_EMPTY_PATH)
		if !m.Shallow {
			flags |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(source, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return err
		}
	}
	target, err := inroot.Open(root, m.Destination, unix.O_PATH, 0)
	if err == unix.ENOENT {
		target, err = makeTarget(root, m.Destination, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return unix.MoveMount(source, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// makeTarget makes what a mount is put on: a directory, or an empty file.
func makeTarget(root int, name string, isDir bool) (int, error) {
	if isDir {
		return makeDirs(root, name)
	}
	parent, err := makeDirs(root, path.Dir(name))
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	return rawfile.RetryValue(func() (int, error) {
		return unix.Openat(parent, path.Base(name), unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_CLOEXEC, 0o644)
	})
}

// makeDirs opens a directory in the root, made with its parents where it is missing.
func makeDirs(root int, name string) (int, error) {
	fd, err := inroot.Open(root, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != unix.ENOENT || path.Clean("/"+name) == "/" {
		return fd, err
	}
	parent, err := makeDirs(root, path.Dir(name))
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, path.Base(name), 0o755); err != nil && err != unix.EEXIST {
		return -1, err
	}
	return inroot.Open(root, name, unix.O_PATH|unix.O_DIRECTORY, 0)
}
