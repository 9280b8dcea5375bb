package image

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
	"gantry/rawfile"
)

// lower is what the layers below a layer show together, as overlay would merge them. A layer that is unpacked onto it
// finds there what an entry's directories are where the layer itself does not say.
type lower struct {
	roots []int // open directories of the layers, topmost first
}

// openLower opens the directories of layers, topmost first. The caller closes it.
func openLower(dirs []string) (*lower, error) {
	l := &lower{}
	for _, dir := range dirs {
		fd, err := rawfile.RetryValue(func() (int, error) { return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
		if err != nil {
			l.close()
			return nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		l.roots = append(l.roots, fd)
	}
	return l, nil
}

func (l *lower) close() {
	for _, fd := range l.roots {
		_ = unix.Close(fd)
	}
	l.roots = nil
}

// found is what the lower layers show at a path.
type found struct {
	kind     uint32 // S_IFLNK, S_IFDIR, …; 0: nothing
	mode     uint32 // permissions and set-ID bits
	uid, gid int
	time     time.Time
	target   string            // of a link
	xattrs   map[string]string // of a directory
}

// lookup finds a path, none of whose directories is a link: the topmost layer that has it wins, and directories are
// merged down to the first that is opaque.
func (l *lower) lookup(name string) (found, error) {
	roots, parts := l.roots, strings.Split(name, "/")
	for i := range parts {
		at := strings.Join(parts[:i+1], "/")
		top, merged, err := visible(roots, at)
		if err != nil || top < 0 {
			return found{}, err
		}
		if i == len(parts)-1 {
			return describeFound(top, name)
		}
		roots = merged
	}
	return found{}, nil
}

// visible tells which layer's entry shows at a path (its root, or -1), and which layers' directories are merged there.
func visible(roots []int, name string) (top int, merged []int, err error) {
	top = -1
	for _, root := range roots {
		fd, err := openBelow(root, name, unix.O_PATH)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return -1, nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		opaque := err == nil && isOpaqueFD(fd)
		_ = unix.Close(fd)
		if err != nil {
			return -1, nil, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 { // a whiteout
			break
		}
		directory := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if top < 0 {
			top = root
		}
		if !directory {
			break // it shows, or the directories above hide it
		}
		if merged = append(merged, root); opaque {
			break
		}
	}
	return top, merged, nil
}

// openBelow opens what a path names, a link itself if it is one. No part of the path may be a link.
func openBelow(root int, name string, flags int) (int, error) {
	return inroot.Open(root, name, flags|unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
}

func isOpaqueFD(fd int) bool {
	value := make([]byte, 1)
	n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), opaqueAttribute, value)
	return err == nil && n == 1 && value[0] == 'y'
}

func describeFound(root int, name string) (f found, err error) {
	fd, err := openBelow(root, name, unix.O_PATH)
	if err != nil {
		return f, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return f, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	f = found{kind: st.Mode & unix.S_IFMT, mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid), time: time.Unix(st.Mtim.Unix())}
	switch f.kind {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", target)
		if err != nil {
			return f, &os.PathError{Op: "read link", Path: name, Err: err}
		}
		f.target = string(target[:n])
	case unix.S_IFDIR:
		if f.xattrs, err = attributes(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil {
			return f, &os.PathError{Op: "read attributes", Path: name, Err: err}
		}
	}
	return f, nil
}

// attributes are the extended attributes of a file, without those of overlay.
func attributes(file string) (map[string]string, error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Listxattr(file, names)
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if ofOverlay(name) {
			continue
		}
		n, err := unix.Getxattr(file, name, value)
		if err == unix.ENODATA || err == unix.ENOTSUP {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		list[name] = string(value[:n])
	}
	return list, nil
}

// apply gives an open directory what the lower layers' has.
func (f *found) apply(fd int) error {
	if err := unix.Fchown(fd, f.uid, f.gid); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", f.uid, f.gid, err)
	}
	if err := unix.Fchmod(fd, f.mode); err != nil {
		return fmt.Errorf("set mode %o: %w", f.mode, err)
	}
	for name, value := range f.xattrs {
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return nil
}
