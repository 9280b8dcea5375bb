package engine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
)

// StatPath describes a file of a container, whether it runs or not. A link is not followed unless the path ends in a slash.
func (e *Engine) StatPath(ctx context.Context, id, name string) (*container.PathStat, error) {
	c, root, err := e.rootOf(ctx, id)
	if err != nil {
		return nil, err
	}
	defer root.close()
	fd, stat, err := root.stat(c, name)
	if err != nil {
		return nil, err
	}
	_ = unix.Close(fd)
	return stat, nil
}

// ReadArchive calls begin with what is at a path of a container, and then writes it as a tar archive to the writer that
// begin returns. Names in the archive begin with the last element of the path, as docker's do.
func (e *Engine) ReadArchive(ctx context.Context, id, name string, begin func(*container.PathStat) io.Writer) error {
	c, root, err := e.rootOf(ctx, id)
	if err != nil {
		return err
	}
	defer root.close()
	fd, stat, err := root.stat(c, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	w := newArchiver(ctx, begin(stat))
	if err := w.tree(fd, path.Base(slashed(name))); err != nil {
		return fmt.Errorf("archive %s of container %s: %w", name, c.ID, err)
	}
	if err := w.tar.Close(); err != nil {
		return err
	}
	e.containerEvent(c, events.ActionArchivePath)
	return nil
}

// ExportContainer writes a container's files as a tar archive; of volumes and other mounts only the places.
func (e *Engine) ExportContainer(ctx context.Context, id string, begin func() io.Writer) error {
	c, root, err := e.rootOf(ctx, id)
	if err != nil {
		return err
	}
	defer root.close()
	w := newArchiver(ctx, begin())
	if w.mount, err = mountID(root.fd); err != nil {
		return err
	}
	if err := w.children(root.fd, ""); err != nil {
		return fmt.Errorf("export container %s: %w", c.ID, err)
	}
	if err := w.tar.Close(); err != nil {
		return err
	}
	e.containerEvent(c, events.ActionExport)
	return nil
}

func (e *Engine) rootOf(ctx context.Context, id string) (*Container, *rootView, error) {
	c, err := e.lookup(id)
	if err != nil {
		return nil, nil, err
	}
	root, err := c.openRoot(ctx)
	return c, root, err
}

// slashed is a clean absolute path that keeps the slash or the "/." at its end, which asks for what a link points to.
func slashed(name string) string {
	clean := path.Clean("/" + name)
	switch {
	case clean == "/":
	case strings.HasSuffix(name, "/."):
		clean += "/."
	case strings.HasSuffix(name, "/"):
		clean += "/"
	}
	return clean
}

// stat opens (O_PATH) and describes a file.
func (r *rootView) stat(c *Container, name string) (int, *container.PathStat, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return -1, nil, refuse("path %q: the name of a file in the container is needed", name)
	}
	full := slashed(name)
	fd, err := inroot.Open(r.fd, full, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, nil, r.explain(c, name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, nil, r.explain(c, name, err)
	}
	s := &container.PathStat{Name: path.Base(full), Size: st.Size, Mode: fileMode(st.Mode), Mtime: time.Unix(st.Mtim.Unix())}
	if s.Mode&fs.ModeSymlink != 0 {
		s.LinkTarget = r.follow(full)
	}
	return fd, s, nil
}

func (r *rootView) explain(c *Container, name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("Could not find the file %s in container %s%w", name, c.ID, noText{errdefs.ErrNotFound})
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return refuse("open %s in container %s: %v", name, c.ID, err)
	}
	return fmt.Errorf("open %s in container %s: %w", name, c.ID, err)
}

// maxLinks is how many symbolic links the kernel follows in one path.
const maxLinks = 40

// follow is where a link leads in the end. It is told to the client and not used here.
func (r *rootView) follow(name string) string {
	for range maxLinks {
		fd, err := inroot.Open(r.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return name
		}
		target, err := readLink(fd)
		_ = unix.Close(fd)
		switch {
		case err != nil: // not a link
			return name
		case path.IsAbs(target):
			name = path.Clean(target)
		default:
			name = path.Join(path.Dir(name), target)
		}
	}
	return name
}

// readLink reads the link that a descriptor (O_PATH|O_NOFOLLOW) stands for; see readlinkat(2).
func readLink(fd int) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// fileMode is a mode of stat(2) in Go's form.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	}
	for bit, is := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= is
		}
	}
	return m
}

func newArchiver(ctx context.Context, w io.Writer) *archiver {
	return &archiver{ctx: ctx, tar: tar.NewWriter(w), links: map[inode]string{}}
}
