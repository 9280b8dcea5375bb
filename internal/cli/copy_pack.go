package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/tarfs"
)

// capAttribute is the attribute that archives keep, and where they keep it.
const (
	capAttribute     = "security.capability"
	paxAttribute     = "SCHILY.xattr."
	capabilityV2Size = 20 // struct vfs_cap_data of linux/capability.h; revision 3 appends the owner of a user namespace
)

// inode tells files apart: two names of one are a hard link.
type inode struct{ device, number uint64 }

// packer writes files of this machine into an archive.
type packer struct {
	*tar.Writer
	links   map[inode]string
	leftOut func(path string) // is told of sockets, for which archives have no kind
}

// pack writes the file or tree src as an archive, with names that rename has seen. What vanishes meanwhile is left out;
// what cannot be read ends the archive with an error.
func pack(w io.Writer, src copyPath, rename func(string) string, leftOut func(string)) error {
	p := packer{tar.NewWriter(w), map[inode]string{}, leftOut}
	base := src.base()
	root := filepath.Clean(src.path)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			var rel string
			if rel, err = filepath.Rel(root, path); err == nil {
				err = p.add(path, rename(entryName(base, rel)), entry)
			}
		}
		if path != root && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return p.Close()
}

// entryName is what a file at rel below the source is called: the source's contents (".") and the root directory's have
// no directory around them.
func entryName(base, rel string) string {
	switch {
	case base == "/":
		return rel
	case rel == ".":
		return base
	}
	return base + "/" + rel
}

// unnamed keeps archive/tar from looking up the names of owners.
type unnamed struct{ fs.FileInfo }

func (unnamed) Uname() (string, error) { return "", nil }
func (unnamed) Gname() (string, error) { return "", nil }

func (p *packer) add(path, name string, entry fs.DirEntry) error {
	if entry.Type().IsRegular() {
		// It may have become a link or a pipe since; neither is followed or waited for.
		file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		return p.write(path, name, info, file)
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		p.leftOut(path)
		return nil
	}
	return p.write(path, name, info, nil)
}

// write adds an entry, with the content of an open file.
func (p *packer) write(path, name string, info fs.FileInfo, content *os.File) error {
	h, err := header(path, name, info, content)
	if err != nil {
		return fmt.Errorf("archive %s: %w", path, err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 && !info.IsDir() {
		id := inode{uint64(stat.Dev), stat.Ino} //nolint:unconvert // another type elsewhere
		if first, seen := p.links[id]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			p.links[id] = h.Name
		}
	}
	var body io.Reader
	if content != nil && h.Typeflag == tar.TypeReg {
		if body, h.Size, err = tarfs.Content(content, h.Size); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	if err := p.WriteHeader(h); err != nil {
		return fmt.Errorf("archive %s: %w", path, err)
	}
	if body == nil {
		return nil
	}
	// A file that grows meanwhile is cut, one that shrinks has no archive.
	if _, err := io.CopyN(p, body, h.Size); err != nil {
		return fmt.Errorf("archive %s: %w", path, err)
	}
	return nil
}

// header describes a file: docker's archives have whole seconds, no names of owners, and one attribute.
func header(path, name string, info fs.FileInfo, content *os.File) (*tar.Header, error) {
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(unnamed{info}, target)
	if err != nil {
		return nil, err
	}
	h.Name, h.Format = name, tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	h.ModTime, h.AccessTime, h.ChangeTime = h.ModTime.Truncate(time.Second), time.Time{}, time.Time{}
	if content != nil {
		value := make([]byte, 64)
		if n, err := unix.Fgetxattr(int(content.Fd()), capAttribute, value); err == nil && n >= capabilityV2Size {
			value[3] = 2 // the revision: the owner of a user namespace says nothing elsewhere
			h.PAXRecords = map[string]string{paxAttribute + capAttribute: string(value[:capabilityV2Size])}
		}
	}
	return h, nil
}
