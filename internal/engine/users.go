package engine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
	"gantry/oci/overlay"
	"gantry/oci/user"
	"gantry/rawfile"
)

// identityQuery asks who a process runs as in a container that does not run.
type identityQuery struct {
	image  digest.Digest
	layers []string // of the image, topmost first
	upper  string   // the container's own layer
	mounts []specs.Mount
	user   string
	groups []string
}

type identity user.Identity

func (i identity) spec() specs.User {
	return specs.User{UID: i.UID, GID: i.GID, AdditionalGids: i.Groups}
}

// identities resolves users, remembering what an unchanged image says. The zero value is ready.
type identities struct {
	mu    sync.Mutex // guards known
	known map[string]identity
}

// maxIdentities bounds the memory of identities; past it, everything is forgotten and resolved anew.
const maxIdentities = 4096

func (s *identities) resolve(q identityQuery) (identity, error) {
	own, err := os.ReadDir(q.upper)
	fresh := len(own) == 0 // a running container may change its users
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return identity{}, err
	}
	key := q.key()
	if fresh {
		s.mu.Lock()
		id, found := s.known[key]
		s.mu.Unlock()
		if found {
			return id, nil
		}
	}
	layers := q.layers
	if !fresh {
		layers = append([]string{q.upper}, layers...)
	}
	var id identity
	crossed := false
	err = withRoot(layers, func(root *os.File) (err error) {
		id, crossed, err = q.within(int(root.Fd()))
		return err
	})
	if err != nil {
		return identity{}, err
	}
	if fresh && !crossed {
		s.mu.Lock()
		if s.known == nil || len(s.known) >= maxIdentities {
			s.known = map[string]identity{}
		}
		s.known[key] = id
		s.mu.Unlock()
	}
	return id, nil
}

// key names what the answer depends on, if it does not depend on what is mounted.
func (q identityQuery) key() string {
	parts := append([]string{q.image.String(), q.user}, q.groups...)
	for _, m := range q.mounts {
		parts = append(parts, "on "+m.Destination)
	}
	return strings.Join(parts, "\x00")
}

// within resolves with a root in which nothing is mounted yet. crossed tells that the answer depends on what will be.
func (q identityQuery) within(root int) (id identity, crossed bool, err error) {
	tree := inroot.NewTree(root)
	for _, m := range q.mounts {
		fd := -1
		if m.Type == "bind" {
			if fd, err = rawfile.RetryValue(func() (int, error) { return unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0) }); err != nil {
				return identity{}, false, fmt.Errorf("open the source of the mount on %s: %w", m.Destination, &os.PathError{Op: "open", Path: m.Source, Err: err})
			}
			defer unix.Close(fd)
		}
		if _, err := tree.Mount(m.Destination, fd); err != nil {
			return identity{}, false, fmt.Errorf("look for the destination %s of a mount: %w", m.Destination, err)
		}
	}
	id, err = resolveUser(tree.Open, q.user, q.groups)
	return id, tree.Crossed(), err
}

// resolveUser resolves a user with the files of a container.
func resolveUser(open user.Opener, spec string, groups []string) (identity, error) {
	id, err := user.ResolveWith(open, spec, groups)
	if err != nil {
		return identity{}, fmt.Errorf("%w%w", err, noText{errdefs.ErrInvalidArgument})
	}
	return identity(id), nil
}

// userOf resolves a user with the files that a root has.
func (r *rootView) userOf(spec string, groups []string) (identity, error) {
	return resolveUser(func(name string) (int, error) { return inroot.Open(r.fd, name, unix.O_PATH, 0) }, spec, groups)
}

// withRoot calls f with a read-only view of layers (topmost first) stacked by overlay. The mount is detached: it
// has no place in any mount table and ends with the call.
func withRoot(layers []string, f func(*os.File) error) error {
	fd, err := stack(layers)
	if err != nil {
		return err
	}
	root := os.NewFile(uintptr(fd), "the image's root")
	return errors.Join(f(root), root.Close())
}

// stack mounts layers read-only and detached and returns the mount's descriptor.
func stack(layers []string) (int, error) {
	if len(layers) == 1 { // overlay wants two
		fd, err := rawfile.RetryValue(func() (int, error) { return unix.Open(layers[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
		if err != nil {
			return -1, fmt.Errorf("open layer %s: %w", layers[0], err)
		}
		return fd, nil
	}
	return overlay.Config{Lower: layers, Attributes: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}.Mount()
}
