package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/overlay"
	"gantry/oci/user"
)

// identityQuery asks who a process runs as.
type identityQuery struct {
	image  digest.Digest
	layers []string // of the image, topmost first
	upper  string   // the container's own layer, which may have changed /etc
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
	_, err := os.Lstat(filepath.Join(q.upper, "etc"))
	fresh := errors.Is(err, os.ErrNotExist)
	key := strings.Join(append([]string{q.image.String(), q.user}, q.groups...), "\x00")
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
	var id user.Identity
	err = withRoot(layers, func(root *os.File) (err error) {
		id, err = user.Resolve(root, q.user, q.groups)
		return err
	})
	if err != nil {
		return identity{}, fmt.Errorf("%w%w", err, noText{errdefs.ErrInvalidArgument})
	}
	if fresh {
		s.mu.Lock()
		if s.known == nil || len(s.known) >= maxIdentities {
			s.known = map[string]identity{}
		}
		s.known[key] = identity(id)
		s.mu.Unlock()
	}
	return identity(id), nil
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
		fd, err := unix.Open(layers[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open layer %s: %w", layers[0], err)
		}
		return fd, nil
	}
	return overlay.Config{Lower: layers, Attributes: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}.Mount()
}
