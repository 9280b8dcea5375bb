package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
	"gantry/oci/internal/osthread"
	"gantry/rawfile"
)

// mountPoint is where a mount is, all links resolved: criu knows it by that.
func (j *criuJob) mountPoint(destination string) string {
	if point, found := j.points[destination]; found {
		return point
	}
	return filepath.Clean("/" + destination)
}

func (j *criuJob) source(m specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(j.b.bundle, m.Source)
}

// findMountPoints asks the kernel where the mounts of a container are.
func (j *criuJob) findMountPoints(pid int) error {
	root, err := openRootOf(pid)
	if err != nil {
		return err
	}
	defer root.Close()
	text, err := rawfile.Read(threadOf(pid) + "/mountinfo")
	if err != nil {
		return err
	}
	points := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 {
			points[f[0]] = f[4]
		}
	}
	j.points = map[string]string{}
	for _, m := range j.b.spec.Mounts {
		file, err := openIn(root, m.Destination)
		if err != nil {
			continue // it has been covered, or unmounted
		}
		var stat unix.Statx_t
		err = unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stat)
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("mount point %s: %w", m.Destination, err)
		}
		if point, found := points[fmt.Sprint(stat.Mnt_id)]; found && stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			j.points[m.Destination] = unescape.Replace(point)
		}
	}
	return nil
}

// openRootOf opens the root of a process.
func openRootOf(pid int) (root *os.File, err error) {
	const tries = 10 // a thread may end between two looks
	for range tries {
		if root, err = os.Open(threadOf(pid) + "/root"); !isGone(err) {
			break
		}
	}
	return root, err
}

// unescape undoes what mountinfo (proc(5)) does to paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// makeMountPoints makes what the container mounts on, in the root and in what is bound into it, and notes where that is,
// as if the root were at dir. What is on tmpfs and the like, criu brings back by itself. It binds where nobody sees it, and
// where nothing is left of it.
func (j *criuJob) makeMountPoints(dir string) error {
	var err error
	osthread.Run(func() { err = j.makeMountPointsAside(dir) })
	return err
}

func (j *criuJob) makeMountPointsAside(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace to make mount points in: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := bindRoot(j.b.rootPath(), dir); err != nil {
		return err
	}
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	j.points = map[string]string{}
	for _, m := range j.b.spec.Mounts {
		if m.Type == "cgroup" || m.Type == "cgroup2" || j.broughtBack(m.Destination) {
			continue
		}
		point, err := j.makeMountPoint(root, m)
		switch {
		case errors.Is(err, unix.EROFS):
			continue // criu tells of it, if it is missing
		case err != nil:
			return fmt.Errorf("make the mount point %s: %w", m.Destination, err)
		}
		j.points[m.Destination] = "/" + strings.TrimPrefix(strings.TrimPrefix(point, dir), "/")
	}
	return nil
}

func (j *criuJob) makeMountPoint(root *os.File, m specs.Mount) (point string, err error) {
	info, err := os.Stat(j.source(m))
	f, err := makeIn(root, m.Destination, isBind(m) && err == nil && !info.IsDir())
	if err != nil {
		return "", err
	}
	defer f.Close()
	link := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if point, err = os.Readlink(link); err != nil || !isBind(m) {
		return point, err
	}
	if err := unix.Mount(j.source(m), link, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind %s, to make mount points in it: %w", m.Source, err)
	}
	return point, nil
}

// broughtBack reports whether a path is on a mount of the container that is no bind.
func (j *criuJob) broughtBack(path string) bool {
	return slices.ContainsFunc(j.b.spec.Mounts, func(m specs.Mount) bool {
		return !isBind(m) && strings.HasPrefix(path, strings.TrimSuffix(m.Destination, "/")+"/")
	})
}

// openIn opens what a path is to who has a directory as its root, to mount on it.
func openIn(root *os.File, path string) (*os.File, error) {
	fd, err := inroot.Open(int(root.Fd()), path, unix.O_PATH, 0)
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// makeIn makes a directory, or an empty file, below a root unless it is there, and opens it.
func makeIn(root *os.File, path string, file bool) (*os.File, error) {
	path = filepath.Clean("/" + path)
	f, err := openIn(root, path)
	if !errors.Is(err, unix.ENOENT) || path == "/" {
		return f, err
	}
	if err := createIn(root, path, file); err != nil {
		return nil, err
	}
	return openIn(root, path)
}

func createIn(root *os.File, path string, file bool) error {
	parent, err := makeIn(root, filepath.Dir(path), false)
	if err != nil {
		return err
	}
	defer parent.Close()
	if file {
		err = unix.Mknodat(int(parent.Fd()), filepath.Base(path), unix.S_IFREG|0o644, 0)
	} else {
		err = unix.Mkdirat(int(parent.Fd()), filepath.Base(path), 0o755)
	}
	if err != nil {
		return &os.PathError{Op: "make", Path: path, Err: err}
	}
	return nil
}
