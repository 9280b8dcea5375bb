package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
	"gantry/rawfile"
)

// unpacker writes a layer's tar stream into a directory. The stream is hostile until proven otherwise: every name is
// resolved inside the directory by the kernel (openat2, RESOLVE_IN_ROOT), and every change is made by a descriptor of
// the parent directory and a single name. See the image specification's layer.md.
type unpacker struct {
	entries int64 // how many entries and directories may still be made
	left    int64 // how many bytes of files may still come
	bytes   int64 // of files, so far
	names   int64 // bytes of names of directories, which are kept in memory until the end

	root      int
	parent    int    // the last entry's directory, mostly the next one's too
	parentDir string // its path; "" if there is none
	times     []dirTime
	buf       []byte

	whiteouts, opaques bool // whether there are any

	lower      *lower         // the layers below, or nil if they are not known yet
	dependent  bool           // there are implied directories: what the layer is depends on those below
	unresolved bool           // a hard link was left out, whose target may be found with the layers below
	implied    []implied      // while the layers below are not known
	impliedAt  map[uint64]int // by inode
}

// dirTime is a directory whose time is set at the end: what is put into it would change it.
type dirTime struct {
	path  string
	inode uint64 // another directory may be there by then
	time  time.Time
}

const maxDirNames = 128 << 20

func (u *unpacker) unpack(dir string, r io.Reader) error {
	root, err := rawfile.RetryValue(func() (int, error) { return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	u.root, u.parent, u.buf, u.impliedAt = root, -1, make([]byte, 256<<10), map[uint64]int{}
	defer func() {
		u.leave()
		_ = unix.Close(root)
	}()
	for t := tar.NewReader(r); ; {
		header, err := t.Next()
		if err == io.EOF {
			return errors.Join(u.dropNeedless(dir), u.setTimes())
		}
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
			return fmt.Errorf("read tar: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if err := u.count(); err != nil {
			return err
		}
		if err := u.entry(header, t); err != nil {
			return fmt.Errorf("entry %q: %w", header.Name, err)
		}
	}
}

func (u *unpacker) count() error {
	if u.entries--; u.entries < 0 {
		return fmt.Errorf("the layer has more entries than the limit allows: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// spend takes bytes from what the layer may still use. The stream has a bound of its own, but a sparse file takes no
// bytes of it.
func (u *unpacker) spend(n int64) error {
	if n < 0 || n > u.left {
		return fmt.Errorf("the layer is bigger than the limit for unpacked layers: %w", errdefs.ErrInvalidArgument)
	}
	u.left -= n
	return nil
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
	if h.Typeflag == tar.TypeXGlobalHeader || strings.HasPrefix(name, whiteoutMeta) && name != whiteoutOpaque {
		return nil // of another storage driver
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
		return u.whiteout(parent, base)
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
	fd, err := u.openOrMake(dir)
	if err != nil {
		return -1, err
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
	return inroot.Open(u.root, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// openOrMake opens a directory, made with those above it where they are missing: streams may leave them out.
func (u *unpacker) openOrMake(dir string) (int, error) {
	fd, err := u.make(dir, maxLinks)
	if errno, plain := err.(unix.Errno); plain {
		return -1, &os.PathError{Op: "open", Path: dir, Err: errno}
	}
	return fd, err
}

func (u *unpacker) create(parent int, base, name string, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return u.directory(parent, base, name, h)
	}
	if h.Typeflag == tar.TypeLink {
		return u.link(parent, base, name, h)
	}
	if err := u.remove(parent, base); err != nil {
		return err
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
			err = u.replaceByDir(parent, base, 0o700)
		} else {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	fd, err := rawfile.RetryValue(func() (int, error) {
		return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
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
	if dir = strings.TrimSuffix(dir, "/"); dir != "" {
		if from, err = u.open(dir); err == unix.ENOENT && u.lower != nil { // perhaps by way of a link of the layers below
			from, err = u.openOrMake(dir)
		}
		if err == nil {
			defer unix.Close(from)
		}
	}
	if err == nil {
		err = u.linkAt(from, file, parent, base)
	}
	if errors.Is(err, unix.ENOENT) && u.lower == nil {
		u.dependent, u.unresolved = true, true
		return nil
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	return nil
}

func (u *unpacker) linkAt(from int, file string, parent int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, file, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := u.remove(parent, base); err != nil {
		return err
	}
	return unix.Linkat(from, file, parent, base, 0)
}

func (u *unpacker) file(parent int, base string, h *tar.Header, content io.Reader) error {
	if err := u.spend(h.Size); err != nil {
		return err
	}
	fd, err := rawfile.RetryValue(func() (int, error) {
		return unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
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
	if err := checkOwner(h); err != nil {
		return err
	}
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
	if h.Typeflag != tar.TypeDir {
		return setTime(fd, "", h.ModTime)
	}
	if err := u.remember(dir); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if i, found := u.impliedAt[st.Ino]; found {
		u.implied[i].described = true
	}
	u.times = append(u.times, dirTime{dir, st.Ino, h.ModTime})
	return nil
}

// remember takes the bytes of a directory's name from what may be kept in memory.
func (u *unpacker) remember(dir string) error {
	if u.names += int64(len(dir)); u.names > maxDirNames {
		return fmt.Errorf("the names of the layer's directories have more than %d bytes: %w", maxDirNames, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkOwner refuses ids that the kernel would cut to 32 bits, or take as "leave it": 1<<32 would be root.
func checkOwner(h *tar.Header) error {
	for _, id := range []int{h.Uid, h.Gid} {
		if id < 0 || uint64(id) >= math.MaxUint32 {
			return fmt.Errorf("owner %d:%d is out of range: %w", h.Uid, h.Gid, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// describeAt likewise for what is not opened: links, devices, FIFOs.
func (u *unpacker) describeAt(parent int, base string, h *tar.Header) error {
	if err := checkOwner(h); err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, uint32(h.Mode&0o7777), 0); err != nil {
			return fmt.Errorf("set mode %o: %w", h.Mode, err)
		}
	}
	for key, value := range xattrs(h) {
		err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", parent, base), key, []byte(value), 0)
		if err == unix.EPERM && strings.HasPrefix(key, "user.") { // only files and directories can have them
			continue
		}
		if err != nil && err != unix.ENOTSUP {
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
		if !found || ofOverlay(name) {
			continue
		}
		if list == nil {
			list = map[string]string{}
		}
		list[name] = value
	}
	return list
}

func ofOverlay(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
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

// setTimes sets the times of directories, now that nothing is put into them any more. A directory's name may have led
// through links, but it is none itself.
func (u *unpacker) setTimes() error {
	for _, d := range u.times {
		fd := u.root
		if d.path != "" {
			var err error
			fd, err = inroot.Open(u.root, d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP { // a later entry replaced it
				continue
			}
			if err != nil {
				return &os.PathError{Op: "open", Path: d.path, Err: err}
			}
		}
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		if err == nil && st.Ino == d.inode {
			err = setTime(fd, "", d.time)
		}
		if fd != u.root {
			_ = unix.Close(fd)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
