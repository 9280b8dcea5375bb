package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// unpacker writes a layer's tar stream into a directory. The stream is hostile until proven otherwise: every name is
// resolved inside the directory by the kernel (openat2, RESOLVE_IN_ROOT), and every change is made by a descriptor of
// the parent directory and a single name. See the image specification's layer.md.
type unpacker struct {
	entries int64 // how many may still come
	bytes   int64 // of files, so far

	root      int
	parent    int    // the last entry's directory, mostly the next one's too
	parentDir string // its path; "" if there is none
	times     []dirTime
	buf       []byte
}

// dirTime is a directory whose time is set at the end: what is put into it would change it.
type dirTime struct {
	path string
	time time.Time
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

func (u *unpacker) unpack(dir string, r io.Reader) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	u.root, u.parent, u.buf = root, -1, make([]byte, 256<<10)
	defer func() {
		u.leave()
		_ = unix.Close(root)
	}()
	for t := tar.NewReader(r); ; {
		header, err := t.Next()
		if err == io.EOF {
			return u.setTimes()
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if u.entries--; u.entries < 0 {
			return fmt.Errorf("the layer has more entries than the limit allows: %w", errdefs.ErrInvalidArgument)
		}
		if err := u.entry(header, t); err != nil {
			return fmt.Errorf("entry %q: %w", header.Name, err)
		}
	}
}

// errEscape: a name that leads out of the layer.
var errEscape = fmt.Errorf("the name leads out of the layer: %w", errdefs.ErrInvalidArgument)

// inside cleans a name of the stream: relative to the root, without "..".
func inside(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errEscape
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "" { // the root itself
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root is no directory: %w", errdefs.ErrInvalidArgument)
		}
		return u.describe(u.root, h, name)
	}
	dir, base := path.Split(name)
	parent, err := u.enter(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return whiteout(parent, base)
	}
	return u.create(parent, base, name, h, content)
}

// enter opens a directory of the layer, made where it is missing, and remembers it.
func (u *unpacker) enter(dir string) (int, error) {
	if dir == "" {
		return u.root, nil
	}
	if dir == u.parentDir && u.parent >= 0 {
		return u.parent, nil
	}
	fd, err := u.open(dir)
	if err == unix.ENOENT {
		if err := u.makeAll(dir); err != nil {
			return -1, err
		}
		fd, err = u.open(dir)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	u.leave()
	u.parent, u.parentDir = fd, dir
	return fd, nil
}

func (u *unpacker) leave() {
	if u.parent >= 0 {
		_ = unix.Close(u.parent)
	}
	u.parent, u.parentDir = -1, ""
}

func (u *unpacker) open(dir string) (int, error) {
	return unix.Openat2(u.root, dir, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// makeAll makes a directory and those above it, as root's, 0755: streams may leave them out.
func (u *unpacker) makeAll(dir string) error {
	above := path.Dir(dir)
	parent := u.root
	if above != "." {
		fd, err := u.open(above)
		if err == unix.ENOENT {
			if err := u.makeAll(above); err != nil {
				return err
			}
			fd, err = u.open(above)
		}
		if err != nil {
			return &os.PathError{Op: "open", Path: above, Err: err}
		}
		defer unix.Close(fd)
		parent = fd
	}
	if err := unix.Mkdirat(parent, path.Base(dir), 0o755); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

// whiteout hides what lower layers have, in overlay's own form: a device 0:0 in place of the name, or for all of a
// directory an attribute; see the kernel's filesystems/overlayfs, "whiteouts and opaque directories".
func whiteout(parent int, base string) error {
	switch {
	case base == whiteoutOpaque:
		return unix.Fsetxattr(parent, "trusted.overlay.opaque", []byte("y"), 0)
	case strings.HasPrefix(base, whiteoutMeta):
		return nil // bookkeeping of another storage driver
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errEscape
	}
	if err := remove(parent, hidden); err != nil {
		return err
	}
	return unix.Mknodat(parent, hidden, unix.S_IFCHR, 0)
}

// remove makes way for an entry: a later one of a name replaces the earlier.
func remove(parent int, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return &os.PathError{Op: "remove", Path: base, Err: err}
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", parent))
	if err != nil {
		return err
	}
	return errors.Join(root.RemoveAll(base), root.Close())
}

func (u *unpacker) create(parent int, base, name string, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return u.directory(parent, base, name, h)
	}
	if h.Typeflag == tar.TypeLink {
		return u.link(parent, base, name, h)
	}
	if err := remove(parent, base); err != nil {
		return err
	}
	if u.parentDir == name || strings.HasPrefix(u.parentDir, name+"/") {
		u.leave()
	}
	mode := uint32(h.Mode & 0o7777)
	device := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	var err error
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeGNUSparse:
		return u.file(parent, base, h, content)
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, parent, base)
	case tar.TypeChar:
		err = unix.Mknodat(parent, base, unix.S_IFCHR|mode, int(device))
	case tar.TypeBlock:
		err = unix.Mknodat(parent, base, unix.S_IFBLK|mode, int(device))
	case tar.TypeFifo:
		err = unix.Mknodat(parent, base, unix.S_IFIFO|mode, 0)
	default:
		return fmt.Errorf("tar type %q is not supported: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	return u.describeAt(parent, base, h)
}

func (u *unpacker) directory(parent int, base, name string, h *tar.Header) error {
	err := unix.Mkdirat(parent, base, 0o700)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := remove(parent, base); err != nil {
				return err
			}
			err = unix.Mkdirat(parent, base, 0o700)
		} else {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return u.describe(fd, h, name)
}

// link makes a hard link to an entry before it; a link to a symbolic link is one to the link itself.
func (u *unpacker) link(parent int, base, name string, h *tar.Header) error {
	target, err := inside(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	if target == name {
		return fmt.Errorf("hard link to itself: %w", errdefs.ErrInvalidArgument)
	}
	dir, file := path.Split(target)
	from := u.root
	if dir != "" {
		if from, err = u.open(strings.TrimSuffix(dir, "/")); err != nil {
			return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
		}
		defer unix.Close(from)
	}
	if err := remove(parent, base); err != nil {
		return err
	}
	if err := unix.Linkat(from, file, parent, base, 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	return nil
}

func (u *unpacker) file(parent int, base string, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	n, err := io.CopyBuffer(onlyWriter{f}, content, u.buf)
	u.bytes += n
	if err == nil {
		err = u.describe(fd, h, "")
	}
	return errors.Join(err, f.Close())
}

// onlyWriter hides ReadFrom, so that the copy uses our buffer.
type onlyWriter struct{ io.Writer }

// describe sets owner, mode, attributes and time of an open file or directory, in the order in which one does not
// undo the other: a change of owner clears set-user-ID bits and capabilities. A directory's time waits (dir is its path).
func (u *unpacker) describe(fd int, h *tar.Header, dir string) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil {
		return fmt.Errorf("set mode %o: %w", h.Mode, err)
	}
	for key, value := range xattrs(h) {
		if err := unix.Fsetxattr(fd, key, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set attribute %s: %w", key, err)
		}
	}
	if h.Typeflag == tar.TypeDir {
		u.times = append(u.times, dirTime{dir, h.ModTime})
		return nil
	}
	return setTime(fd, "", h.ModTime)
}

// describeAt likewise for what is not opened: links, devices, FIFOs.
func (u *unpacker) describeAt(parent int, base string, h *tar.Header) error {
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, uint32(h.Mode&0o7777), 0); err != nil {
			return fmt.Errorf("set mode %o: %w", h.Mode, err)
		}
	}
	for key, value := range xattrs(h) {
		if err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", parent, base), key, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set attribute %s: %w", key, err)
		}
	}
	return setTime(parent, base, h.ModTime)
}

// xattrs are the extended attributes of an entry. Those of overlay itself are not the image's to set.
func xattrs(h *tar.Header) map[string]string {
	var list map[string]string
	for key, value := range h.PAXRecords {
		name, found := strings.CutPrefix(key, "SCHILY.xattr.")
		if !found || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if list == nil {
			list = map[string]string{}
		}
		list[name] = value
	}
	return list
}

// setTime sets the time of last change and access, to the nanosecond; with an empty name that of fd itself.
func setTime(fd int, name string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		ts = unix.Timespec{} // a date that no file system knows
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	if err := unix.UtimesNanoAt(fd, name, []unix.Timespec{ts, ts}, flags); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// setTimes sets the times of directories, now that nothing is put into them any more.
func (u *unpacker) setTimes() error {
	for _, d := range u.times {
		fd := u.root
		if d.path != "" {
			var err error
			fd, err = unix.Openat2(u.root, d.path, &unix.OpenHow{
				Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
			})
			if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP { // a later entry replaced it
				continue
			}
			if err != nil {
				return &os.PathError{Op: "open", Path: d.path, Err: err}
			}
		}
		err := setTime(fd, "", d.time)
		if fd != u.root {
			_ = unix.Close(fd)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
