package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// Streams may leave out the directories of what they have: bin/hello without bin. Such a directory is implied. It is what
// the layers below have there: a directory with its owner, mode and attributes, a link that is followed, or, where they
// have nothing, root's with mode 0755. A layer is unpacked before those below it are known, and then completed; only if
// one of its implied directories turns out to be a link is it unpacked again, onto the layers below. What became of such a
// layer depends on them, so its directory is not shared by its diff id, but named by its chain id.

// implied is a directory that was made without an entry of its own.
type implied struct {
	path      string // without links
	inode     uint64
	described bool // by a later entry
}

// maxLinks is how many links a path may lead through, as in the kernel.
const maxLinks = 40

// make opens a directory, made where it is missing, with those above it. Links are followed as a process in the root
// would, also to what is not there yet.
func (u *unpacker) make(dir string, links int) (int, error) {
	fd, err := u.open(dir)
	if err != unix.ENOENT && err != unix.ENOTDIR {
		return fd, err
	}
	above, base := "", dir
	if i := strings.LastIndexByte(dir, '/'); i >= 0 {
		above, base = dir[:i], dir[i+1:]
	}
	parent := u.root
	if above != "" {
		if parent, err = u.make(above, links); err != nil {
			return -1, err
		}
		defer unix.Close(parent)
	}
	if base == "" || base == "." || base == ".." { // of a link's target
		return u.open(dir)
	}
	var st unix.Stat_t
	err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		if err := u.imply(parent, base); err != nil {
			return -1, err
		}
	case err != nil:
		return -1, err
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		if err := u.count(); err != nil {
			return -1, err
		}
		if err := u.replaceByDir(parent, base, 0o755); err != nil {
			return -1, err
		}
		if err := unix.Fchmodat(parent, base, 0o755, 0); err != nil { // whatever the umask is
			return -1, err
		}
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(parent, base, target)
	if err == unix.EINVAL { // no link
		return u.open(dir)
	}
	if err != nil {
		return -1, err
	}
	if links--; links < 0 {
		return -1, unix.ELOOP
	}
	to := string(target[:n])
	if !strings.HasPrefix(to, "/") {
		here, err := u.pathOf(parent)
		if err != nil {
			return -1, err
		}
		to = here + "/" + to
	}
	return u.make(strings.Trim(to, "/"), links)
}

// pathOf is the path of an open directory of the layer, without links.
func (u *unpacker) pathOf(dir int) (string, error) {
	if dir == u.root {
		return "", nil
	}
	root, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", u.root))
	if err != nil {
		return "", err
	}
	full, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir))
	if err != nil {
		return "", err
	}
	if full == root {
		return "", nil
	}
	rest, inside := strings.CutPrefix(full, strings.TrimSuffix(root, "/")+"/")
	if !inside {
		return "", errEscape
	}
	return rest, nil
}

// imply makes what an implied directory is: in the first pass a directory, later what the layers below have.
func (u *unpacker) imply(parent int, base string) error {
	if err := u.count(); err != nil {
		return err
	}
	u.dependent = true
	dir, err := u.pathOf(parent)
	if err != nil {
		return err
	}
	hidden, err := u.hidden(dir)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(dir+"/"+base, "/")
	var below found
	if u.lower != nil && !hidden {
		if below, err = u.lower.lookup(name); err != nil {
			return fmt.Errorf("the layers below: %w", err)
		}
	}
	if below.kind == unix.S_IFLNK {
		return u.copyLink(parent, base, below)
	}
	if err := unix.Mkdirat(parent, base, 0o700); err != nil {
		return err
	}
	fd, err := rawfile.RetryValue(func() (int, error) {
		return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if below.kind != unix.S_IFDIR {
		if err := unix.Fchmod(fd, 0o755); err != nil { // whatever the umask is
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := u.remember(name); err != nil {
		return err
	}
	switch {
	case below.kind == unix.S_IFDIR:
		u.times = append(u.times, dirTime{name, st.Ino, below.time})
		return below.apply(fd)
	case u.lower == nil && !hidden:
		u.impliedAt[st.Ino] = len(u.implied)
		u.implied = append(u.implied, implied{path: name, inode: st.Ino})
	}
	return nil
}

// hidden tells that nothing of the layers below shows in a directory of the layer: it or one above it is opaque by now.
func (u *unpacker) hidden(dir string) (bool, error) {
	if !u.opaques {
		return false, nil
	}
	for at := range prefixes(dir) {
		fd, err := openBelow(u.root, at, unix.O_PATH)
		if err != nil {
			return false, err
		}
		opaque := isOpaqueFD(fd)
		_ = unix.Close(fd)
		if opaque {
			return true, nil
		}
	}
	return false, nil
}

// prefixes yields the root (".") and every part of a path that names a directory: ".", "a", "a/b".
func prefixes(dir string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if !yield(".") || dir == "" {
			return
		}
		for i, c := range dir {
			if c == '/' && !yield(dir[:i]) {
				return
			}
		}
		yield(dir)
	}
}

// copyLink puts the link that the layers below have in its place in the layer, where it leads to the same directory.
func (u *unpacker) copyLink(parent int, base string, below found) error {
	if err := unix.Symlinkat(below.target, parent, base); err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, below.uid, below.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", below.uid, below.gid, err)
	}
	return setTime(parent, base, below.time)
}

// finish puts an unpacked layer, the topmost of ids, in its place. A dependent layer is completed before, so the layers
// below must be in their places.
func (s *Store) finish(ctx context.Context, layer *unpacked, desc ocispec.Descriptor, ids []digest.Digest) error {
	if !layer.dependent {
		return layer.commit()
	}
	chain := chainsOf(ids)[len(ids)-1]
	leave, err := s.flights.board(ctx, "chain "+chain.String(), nil)
	if err != nil {
		return errors.Join(err, layer.discard())
	}
	defer leave()
	if s.layers.key(ids) != "" {
		return layer.discard()
	}
	below, err := s.below(ids)
	if err != nil {
		return errors.Join(err, layer.discard())
	}
	defer below.close()
	again, err := layer.complete(below)
	if err != nil || again {
		if err = errors.Join(err, layer.discard()); err != nil {
			return err
		}
		layer = nil
		if err := s.stored(ctx, desc, func(r io.Reader) (err error) {
			layer, err = s.layers.unpack(ctx, ids[len(ids)-1], r, below)
			return err
		}); err != nil {
			if layer != nil {
				err = errors.Join(err, layer.discard())
			}
			return err
		}
	}
	layer.key = chain
	return layer.commit()
}

// below opens the layers below the topmost of ids.
func (s *Store) below(ids []digest.Digest) (*lower, error) {
	dirs, missing := s.layers.stack(ids[:len(ids)-1])
	if missing != "" {
		return nil, fmt.Errorf("the layer %s below is not here: %w", missing, errdefs.ErrNotFound)
	}
	return openLower(dirs)
}

// complete gives the implied directories of a layer what the layers below have. It tells whether that is not enough,
// and the layer must be unpacked again, onto these.
func (u *unpacked) complete(below *lower) (again bool, err error) {
	if u.unresolved {
		return true, nil
	}
	root, err := rawfile.RetryValue(func() (int, error) { return unix.Open(u.fs(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return false, &os.PathError{Op: "open", Path: u.fs(), Err: err}
	}
	defer unix.Close(root)
	for _, i := range u.implied {
		f, err := below.lookup(i.path)
		if err != nil {
			return false, err
		}
		if f.kind == unix.S_IFLNK {
			return true, nil
		}
		if f.kind != unix.S_IFDIR || i.described {
			continue
		}
		if err := completeOne(root, i, &f); err != nil {
			return false, fmt.Errorf("complete %s by the layers below: %w", i.path, err)
		}
	}
	return false, nil
}

func completeOne(root int, i implied, f *found) error {
	fd, err := openBelow(root, i.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP { // a later entry replaced it
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Ino != i.inode {
		return nil
	}
	if err := f.apply(fd); err != nil {
		return err
	}
	return setTime(fd, "", f.time)
}
