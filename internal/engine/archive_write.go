package engine

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
	"gantry/rawfile"
)

// ExtractOptions are those of docker cp into a container.
type ExtractOptions struct {
	KeepKinds bool // a directory is not replaced by something else, nor the other way round
	ToUser    bool // files belong to the container's user, not to whom the archive says
}

// ExtractArchive unpacks a tar archive (plain, gzip or zstd) into a directory of a container, whether it runs or not.
func (e *Engine) ExtractArchive(ctx context.Context, id, dir string, r io.Reader, o ExtractOptions) error {
	c, root, err := e.rootOf(ctx, id)
	if err != nil {
		return err
	}
	defer root.close()
	fd, err := inroot.Open(root.fd, slashed(dir)+"/.", unix.O_PATH, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return refuse("extraction point is not a directory: %s", dir)
	}
	if err != nil {
		return root.explain(c, dir, err)
	}
	_ = unix.Close(fd)
	x := &extractor{ctx: ctx, root: root.fd, dir: slashed(dir), options: o, uid: -1, gid: -1}
	if user := c.view().record.Config.User; o.ToUser && user != "" {
		id, err := root.userOf(user, nil)
		if err != nil {
			return err
		}
		x.uid, x.gid = int(id.UID), int(id.GID)
	}
	plain, err := decompressed(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := x.extract(tar.NewReader(plain)); err != nil {
		if errors.Is(err, unix.EROFS) {
			return fmt.Errorf("the root or the volume of the container is marked read-only: %w%w", err, noText{errdefs.ErrPermissionDenied})
		}
		return fmt.Errorf("copy into %s of container %s: %w%w", dir, c.ID, err, noText{badEntry(err)})
	}
	e.containerEvent(c, events.ActionExtractToDir)
	return nil
}

// badEntry classifies an error over what an archive asks for, as against what the engine or the disk cannot do.
func badEntry(err error) error {
	for _, errno := range []unix.Errno{
		unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.EEXIST, unix.ENOTEMPTY, unix.ELOOP, unix.ENAMETOOLONG, unix.EXDEV, unix.EINVAL, unix.EBUSY,
	} {
		if errors.Is(err, errno) {
			return errdefs.ErrInvalidArgument
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) {
		return errdefs.ErrInvalidArgument
	}
	return nil
}

// decompressed recognises gzip, zstd and plain tar by their first bytes.
func decompressed(r io.Reader) (io.ReadCloser, error) {
	whole := bufio.NewReaderSize(r, 64<<10)
	start, err := whole.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(whole)
		if err != nil {
			return nil, refuse("read the archive: %v", err)
		}
		return z, nil
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(whole, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, refuse("read the archive: %v", err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(whole), nil
}

// extractor writes an archive's files below a directory of a root. Every parent is resolved within the root by the
// kernel, and what is changed is one name in that parent, whatever links the archive or the container puts in the way.
type extractor struct {
	ctx      context.Context
	root     int
	dir      string
	options  ExtractOptions
	uid, gid int // -1: as the archive says
	times    []dirTimes
}

// dirTimes is a directory whose time is set at the end: what is put into it would change it.
type dirTimes struct {
	name string
	time unix.Timespec
}

func (x *extractor) extract(t *tar.Reader) error {
	for {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if err == io.EOF {
			return x.setTimes()
		}
		if err != nil {
			return refuse("read tar: %v", err)
		}
		if err := x.entry(h, t); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// within is the path of an archive's name below the directory that is extracted to.
func (x *extractor) within(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", refuse("the name leads out of the directory")
		}
	}
	return path.Join(x.dir, path.Clean("/"+name)), nil
}

func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	full, err := x.within(h.Name)
	if err != nil {
		return err
	}
	if full == path.Clean(x.dir) { // the directory itself stays as it is
		if h.Typeflag != tar.TypeDir {
			return refuse("the destination is a directory")
		}
		return nil
	}
	parent, err := makeDirs(x.root, path.Dir(full))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := path.Base(full)
	there, err := x.makeWay(parent, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		return x.file(parent, base, h, content)
	}
	if !there {
		if err := x.create(parent, base, h); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeLink {
		return nil // what it links to has been described
	}
	fd, err := rawfile.RetryValue(func() (int, error) { return unix.Openat(parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if h.Typeflag == tar.TypeDir {
		x.times = append(x.times, dirTimes{full, unix.NsecToTimespec(h.ModTime.UnixNano())})
	}
	return x.describe(fd, h)
}

// file writes a regular file, which is not there.
func (x *extractor) file(parent int, base string, h *tar.Header, content io.Reader) error {
	fd, err := rawfile.RetryValue(func() (int, error) {
		return unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(f, content)
	if err == nil {
		err = x.describe(fd, h)
	}
	return errno(errors.Join(err, f.Close()))
}

// makeWay removes what has the name already, unless it is a directory and stays one (there).
func (x *extractor) makeWay(parent int, base string, isDir bool) (there bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	wasDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case wasDir && isDir:
		return true, nil
	case wasDir && x.options.KeepKinds:
		return false, refuse("cannot overwrite directory %q with non-directory", base)
	case isDir && x.options.KeepKinds:
		return false, refuse("cannot overwrite non-directory %q with directory", base)
	case !wasDir:
		return false, unix.Unlinkat(parent, base, 0)
	}
	dir, err := os.OpenRoot(self(parent))
	if err != nil {
		return false, errno(err)
	}
	defer func() { _ = dir.Close() }()
	return false, dir.RemoveAll(base)
}

// create makes what is not a regular file, and is not there.
func (x *extractor) create(parent int, base string, h *tar.Header) error {
	device := int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	switch h.Typeflag {
	case tar.TypeDir:
		return unix.Mkdirat(parent, base, 0o700)
	case tar.TypeSymlink:
		return unix.Symlinkat(h.Linkname, parent, base)
	case tar.TypeLink:
		return x.link(parent, base, h.Linkname)
	case tar.TypeChar:
		return unix.Mknodat(parent, base, unix.S_IFCHR, device)
	case tar.TypeBlock:
		return unix.Mknodat(parent, base, unix.S_IFBLK, device)
	case tar.TypeFifo:
		return unix.Mknodat(parent, base, unix.S_IFIFO, 0)
	}
	return refuse("an archive entry of type %q cannot be extracted", h.Typeflag)
}

// link gives a file that the archive named before another name.
func (x *extractor) link(parent int, base, target string) error {
	from, err := x.within(target)
	if err != nil {
		return err
	}
	dir, err := inroot.Open(x.root, path.Dir(from), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("link to %q: %w", target, err)
	}
	defer unix.Close(dir)
	if err := unix.Linkat(dir, path.Base(from), parent, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", target, err)
	}
	return nil
}

// describe gives the file that a descriptor stands for its owner, mode, attributes and time.
func (x *extractor) describe(fd int, h *tar.Header) error {
	uid, gid := h.Uid, h.Gid
	if x.uid >= 0 {
		uid, gid = x.uid, x.gid
	}
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("give it to %d:%d: %w", uid, gid, err)
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(h.ModTime.UnixNano())}
	if h.Typeflag == tar.TypeSymlink {
		return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	}
	if err := unix.Chmod(self(fd), uint32(h.Mode&0o7777)); err != nil {
		return fmt.Errorf("set its mode: %w", err)
	}
	for key, value := range h.PAXRecords {
		name, found := strings.CutPrefix(key, xattrRecord)
		if !found || name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		if err := unix.Setxattr(self(fd), name, []byte(value), 0); err != nil && err != unix.ENOTSUP && err != unix.EPERM {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, self(fd), times, 0)
}

// setTimes gives the directories the times of the archive, the deepest first.
func (x *extractor) setTimes() error {
	for i := len(x.times) - 1; i >= 0; i-- {
		d := x.times[i]
		fd, err := inroot.Open(x.root, d.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil { // it was removed or replaced meanwhile
			continue
		}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, self(fd), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, d.time}, 0)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("set the time of %s: %w", d.name, err)
		}
	}
	return nil
}
