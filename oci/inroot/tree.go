package inroot

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// Tree is a root directory with mounts in it that nobody has made yet. It finds files as a process will find them once the
// mounts are there. It borrows all its descriptors.
type Tree struct {
	root    int
	mounts  []mount
	crossed bool
}

type mount struct {
	at string // clean and absolute, and leads over no link
	fd int    // of what is mounted; -1: an empty directory
}

// NewTree returns a tree without mounts.
func NewTree(root int) *Tree { return &Tree{root: root} }

// Mount puts the file or directory of a descriptor (-1: an empty directory, as a new tmpfs is) on a destination, after the
// mounts that are there already: links in the destination lead where they lead in these. A destination that is missing is
// taken as made. Mount returns the path at which the mount ends up.
func (t *Tree) Mount(destination string, fd int) (at string, err error) {
	w, err := t.walk(destination)
	if err != nil {
		return "", err
	}
	w.close()
	kept := t.mounts[:0]
	for _, m := range t.mounts {
		if !Within(m.at, w.path()) { // else it is hidden
			kept = append(kept, m)
		}
	}
	t.mounts = append(kept, mount{w.path(), fd})
	return w.path(), nil
}

// Open opens a path (O_PATH, links followed). The caller closes the descriptor. What is missing is ENOENT.
func (t *Tree) Open(name string) (int, error) {
	w, err := t.walk(name)
	if err != nil {
		return -1, err
	}
	defer w.close()
	if w.missing() {
		return -1, unix.ENOENT
	}
	return unix.FcntlInt(uintptr(w.fd()), unix.F_DUPFD_CLOEXEC, 3)
}

// Path returns where a path leads: clean, absolute, without links. Parts that are missing are kept.
func (t *Tree) Path(name string) (string, error) {
	w, err := t.walk(name)
	if err != nil {
		return "", err
	}
	w.close()
	return w.path(), nil
}

// Crossed reports whether any path so far led into a mount: what was found may depend on what is mounted.
func (t *Tree) Crossed() bool { return t.crossed }

// Within reports whether a clean absolute path is another one or below it.
func Within(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// walker is a way from the root to a file, one place for each part.
type walker struct {
	root   int
	places []place
}

type place struct {
	name string
	fd   int // -1: nothing is there
	own  bool
}

func (w *walker) fd() int {
	if len(w.places) == 0 {
		return w.root
	}
	return w.places[len(w.places)-1].fd
}

func (w *walker) missing() bool { return w.fd() < 0 }

func (w *walker) path() string {
	var b strings.Builder
	for _, p := range w.places {
		b.WriteString("/" + p.name)
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

func (w *walker) up() {
	if n := len(w.places); n > 0 {
		if p := w.places[n-1]; p.own {
			_ = unix.Close(p.fd)
		}
		w.places = w.places[:n-1]
	}
}

func (w *walker) close() {
	for i := range w.places {
		if w.places[i].own {
			_ = unix.Close(w.places[i].fd)
			w.places[i].own = false
		}
	}
}

// maxLinks is how many links the kernel follows on one way; see path_resolution(7).
const maxLinks = 40

// walk follows a path part by part. The caller closes the walker.
func (t *Tree) walk(name string) (*walker, error) {
	w := &walker{root: t.root}
	if err := t.follow(w, name); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (t *Tree) follow(w *walker, name string) error {
	if len(name) >= unix.PathMax {
		return unix.ENAMETOOLONG
	}
	links, left := 0, strings.Split(name, "/")
	for len(left) > 0 {
		part := left[0]
		left = left[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			w.up()
			continue
		}
		p, target, err := t.step(w, part)
		if err != nil {
			return err
		}
		if target == "" {
			w.places = append(w.places, p)
			continue
		}
		if links++; links > maxLinks {
			return unix.ELOOP
		}
		if path.IsAbs(target) {
			w.close()
			w.places = nil
		}
		left = append(strings.Split(target, "/"), left...)
	}
	return nil
}

// step opens one part below where a walker is. If that is a link, step returns its target instead.
func (t *Tree) step(w *walker, part string) (p place, target string, err error) {
	at := path.Join(w.path(), part)
	for _, m := range t.mounts {
		if m.at == at {
			t.crossed = true
			return place{part, m.fd, false}, "", nil
		}
	}
	if w.missing() {
		return place{part, -1, false}, "", nil
	}
	fd, err := openPart(w.fd(), part)
	if err == unix.ENOENT {
		return place{part, -1, false}, "", nil
	}
	if err != nil {
		return place{}, "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return place{}, "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return place{part, fd, true}, "", nil
	}
	defer func() { _ = unix.Close(fd) }()
	var text [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", text[:])
	if err == nil && n == 0 {
		err = unix.ENOENT
	}
	return place{}, string(text[:max(n, 0)]), err
}

func openPart(dir int, part string) (int, error) {
	for {
		fd, err := rawfile.RetryValue(func() (int, error) { return unix.Openat(dir, part, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
		if err != unix.EINTR {
			return fd, err
		}
	}
}
