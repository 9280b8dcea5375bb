package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// What cp says of a destination that does not fit, as docker's does.
var (
	errNotDirectory = errors.New("not a directory")
	errNoDirectory  = errors.New("no such directory")
	errCannotCopy   = errors.New("cannot copy directory")
)

// maxLinks bounds the links that a destination on this machine may lead through.
const maxLinks = 10

// copyPath is one end of a copy.
type copyPath struct {
	path   string // ends with "/" or "/." where the user's did
	exists bool
	isDir  bool
	rename string // what the user called a source whose link was followed; empty: its own name
}

// base is the name that a source's entries begin with.
func (c copyPath) base() string {
	if c.rename != "" {
		return c.rename
	}
	_, base := splitCopyPath(c.path)
	return base
}

// splitCopyPath cleans a path and splits it; a final dot is a name.
func splitCopyPath(name string) (dir, base string) {
	clean := filepath.Clean(name)
	if filepath.Base(name) == "." {
		clean += "/."
	}
	return filepath.Dir(clean), filepath.Base(clean)
}

// keepEnding gives a clean path the final "/" or "/." of the original, which means that it is a directory.
func keepEnding(clean, original string) string {
	if filepath.Base(original) == "." && filepath.Base(clean) != "." {
		clean = strings.TrimSuffix(clean, "/") + "/."
	}
	if strings.HasSuffix(original, "/") && !strings.HasSuffix(clean, "/") {
		clean += "/"
	}
	return clean
}

// localPath makes a path of this machine absolute.
func localPath(name string) (string, error) {
	absolute, err := filepath.Abs(name)
	return keepEnding(absolute, name), err
}

// followed is a source whose link was followed, with the name that its entries keep.
func followed(link, resolved string) (name, rename string) {
	name = keepEnding(resolved, link)
	if base := filepath.Base(link); base != filepath.Base(name) {
		rename = base
	}
	return name, rename
}

// localSource finds what to copy from this machine. Without follow a link that the path ends with is itself copied.
func localSource(name string, follow bool) (copyPath, error) {
	var src copyPath
	if follow {
		resolved, err := filepath.EvalSymlinks(name)
		if err != nil {
			return src, err
		}
		src.path, src.rename = followed(name, resolved)
	} else {
		dir, base := filepath.Split(name)
		resolved, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return src, err
		}
		src.path = resolved + "/" + base
		if strings.HasSuffix(name, "/") && filepath.Base(name) != filepath.Base(src.path) {
			src.rename = filepath.Base(name)
		}
	}
	info, err := os.Lstat(src.path)
	if err != nil {
		return src, err
	}
	src.exists, src.isDir = true, info.IsDir()
	return src, nil
}

// localDestination finds where to copy to on this machine: links are followed, and only the last name may be missing.
func localDestination(name string) (copyPath, error) {
	dst := copyPath{path: name}
	for range maxLinks {
		info, err := os.Lstat(dst.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return dst, parentExists(dst.path)
		case err != nil:
			return dst, err
		case info.Mode()&(fs.ModeDevice|fs.ModeIrregular) != 0:
			return dst, fmt.Errorf("destination %q must be a directory or a regular file", name)
		case info.Mode()&fs.ModeSymlink == 0:
			dst.exists, dst.isDir = true, info.IsDir()
			return dst, nil
		}
		target, err := os.Readlink(dst.path)
		if err != nil {
			return dst, err
		}
		if !filepath.IsAbs(target) {
			dir, _ := splitCopyPath(dst.path)
			target = filepath.Join(dir, target)
		}
		dst.path = target
	}
	return dst, fmt.Errorf("too many symlinks in %s", name)
}

func parentExists(name string) error {
	dir, _ := splitCopyPath(name)
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: %w", dir, errNotDirectory)
	}
	return nil
}

// place says into which directory a source's entries go, and how each is called there.
func place(src, dst copyPath) (dir string, rename func(string) string, err error) {
	dir, base := splitCopyPath(dst.path)
	switch {
	case dst.exists && dst.isDir:
		return dst.path, func(name string) string { return name }, nil
	case dst.exists && src.isDir:
		return "", nil, errCannotCopy
	case !dst.exists && !src.isDir && (strings.HasSuffix(dst.path, "/") || filepath.Base(dst.path) == "."):
		return "", nil, errNoDirectory
	}
	return dir, renamer(src.base(), base), nil
}

// renamer replaces the first name of an archive's entries; of one of the root directory, which has none, it prepends it.
func renamer(from, to string) func(string) string {
	from, to = strings.TrimRight(from, "/"), strings.TrimRight(to, "/")
	return func(name string) string {
		if from == "" {
			return strings.TrimLeft(to+"/"+strings.TrimLeft(name, "/"), "/")
		}
		rest, found := strings.CutPrefix(name, from)
		if !found || rest != "" && rest[0] != '/' {
			return name
		}
		return to + rest
	}
}
