package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// extraction writes an archive that a container may have had its hands in below a directory. Every directory on the way
// to an entry is opened by itself and never through a link, so that no entry leads elsewhere, whatever came before it.
type extraction struct {
	root *os.File
	dirs []*tar.Header // their modes and times are set last
}

// extract writes an archive's entries, renamed, below dir. Files are replaced, directories merged, neither takes the
// other's place; they belong to the user who copies.
func extract(r io.Reader, dir string, rename func(string) string) error {
	root, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	x := extraction{root: root}
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return x.finish()
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := x.entry(h, files, rename); err != nil {
			return fmt.Errorf("extract %q into %s: %w", h.Name, dir, err)
		}
	}
}

// localName is an entry's name below the root: without the first slash, and never above it.
func localName(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if !filepath.IsLocal(clean) || strings.ContainsRune(clean, 0) {
		return "", fmt.Errorf("the name %q leads outside", name)
	}
	return clean, nil
}

func (x *extraction) entry(h *tar.Header, content io.Reader, rename func(string) string) error {
	name, err := localName(rename(h.Name))
	if err != nil || name == "." {
		return err
	}
	h.Name = name
	parent, base, err := x.parent(name, true)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(parent) }()
	if err := makeWay(parent, base, h.Typeflag == tar.TypeDir); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := ignore(unix.Mkdirat(parent, base, 0o700), unix.EEXIST); err != nil {
			return err
		}
		x.dirs = append(x.dirs, h)
		return attributes(parent, base, h, 0o700)
	case tar.TypeReg:
		err = extractFile(parent, base, content)
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, parent, base)
	case tar.TypeLink:
		return x.link(rename(h.Linkname), parent, base) // the first name has set what the inode has
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		err = makeNode(parent, base, h)
	default:
		return fmt.Errorf("an entry of kind %q is not supported", h.Typeflag)
	}
	if err != nil {
		return err
	}
	return attributes(parent, base, h, 0)
}

// parent opens the directory that a name is in, made where it is missing if create, and returns it with the last name.
func (x *extraction) parent(name string, create bool) (dir int, base string, err error) {
	names := strings.Split(name, "/")
	dir, err = rawfile.RetryValue(func() (int, error) {
		return unix.Openat(int(x.root.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	for _, next := range names[:len(names)-1] {
		if err != nil {
			return -1, "", err
		}
		if create {
			err = ignore(unix.Mkdirat(dir, next, 0o755), unix.EEXIST)
		}
		child := -1
		if err == nil {
			child, err = rawfile.RetryValue(func() (int, error) {
				return unix.Openat(dir, next, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			})
		}
		_ = unix.Close(dir)
		dir = child
	}
	return dir, names[len(names)-1], err
}

// makeWay removes what is in an entry's place, unless one of both is a directory and the other is not.
func makeWay(parent int, base string, isDir bool) error {
	var stat unix.Stat_t
	if err := unix.Fstatat(parent, base, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return ignore(err, unix.ENOENT)
	}
	wasDir := stat.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case wasDir && isDir:
		return nil
	case wasDir:
		return errors.New("cannot overwrite directory with non-directory")
	case isDir:
		return errors.New("cannot overwrite non-directory with directory")
	}
	return ignore(unix.Unlinkat(parent, base, 0), unix.ENOENT)
}

func extractFile(parent int, base string, content io.Reader) error {
	fd, err := rawfile.RetryValue(func() (int, error) {
		return unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// link makes a second name of a file in the destination; a link is not followed.
func (x *extraction) link(target string, parent int, base string) error {
	name, err := localName(target)
	if err != nil || name == "." {
		return fmt.Errorf("the hard link's target %q is not below the destination", target)
	}
	dir, old, err := x.parent(name, false)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }()
	return unix.Linkat(dir, old, parent, base, 0)
}

func makeNode(parent int, base string, h *tar.Header) error {
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor > math.MaxUint32 {
		return fmt.Errorf("no device has the number %d:%d", h.Devmajor, h.Devminor)
	}
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	return unix.Mknodat(parent, base, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

// attributes sets capabilities, mode (and the bits of also) and times of what was just made.
func attributes(parent int, base string, h *tar.Header, also uint32) error {
	fd, err := rawfile.RetryValue(func() (int, error) { return unix.Openat(parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	itself := "/proc/self/fd/" + strconv.Itoa(fd)
	if value, ok := h.PAXRecords[paxAttribute+capAttribute]; ok && h.Typeflag == tar.TypeReg {
		if err := ignore(unix.Setxattr(itself, capAttribute, []byte(value), 0), unix.EPERM); err != nil {
			return &fs.PathError{Op: "set " + capAttribute, Path: h.Name, Err: err}
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Chmod(itself, uint32(h.Mode)&0o7777|also); err != nil {
			return err
		}
	}
	accessed := h.AccessTime
	if accessed.Before(h.ModTime) {
		accessed = h.ModTime
	}
	times := []unix.Timespec{timespec(accessed), timespec(h.ModTime)}
	return unix.UtimesNanoAt(parent, base, times, unix.AT_SYMLINK_NOFOLLOW)
}

// timespec is a time that file systems know; another is the epoch.
func timespec(t time.Time) unix.Timespec {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		t = time.Unix(0, 0)
	}
	return unix.NsecToTimespec(t.UnixNano())
}

// finish gives the directories their modes and times, inner ones first; of two entries for one the last counts.
func (x *extraction) finish() error {
	done := map[string]bool{}
	for _, h := range slices.Backward(x.dirs) {
		if done[h.Name] {
			continue
		}
		done[h.Name] = true
		parent, base, err := x.parent(h.Name, false)
		if err == nil {
			err = attributes(parent, base, h, 0)
			_ = unix.Close(parent)
		}
		if err != nil {
			return fmt.Errorf("set mode and times of the directory %q: %w", h.Name, err)
		}
	}
	return nil
}

// ignore drops one error.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
