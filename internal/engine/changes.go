package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
)

// ChangesContainer lists what a container's own layer has over its image, by path.
func (e *Engine) ChangesContainer(ctx context.Context, id string) ([]container.FilesystemChange, error) {
	c, err := e.lookup(id)
	if err != nil {
		return nil, err
	}
	rec := c.view().record
	img, err := e.images.Get(ctx, rec.Image.ID.String(), &rec.Image.Platform)
	if err != nil {
		return nil, err
	}
	layers, err := e.images.Rootfs(ctx, img)
	if err != nil {
		return nil, err
	}
	lower, err := stack(layers)
	if err != nil {
		return nil, err
	}
	defer unix.Close(lower)
	list, err := changes(ctx, filepath.Join(c.dir(), "upper"), lower, c.places(rec))
	if err != nil {
		return nil, fmt.Errorf("changes of container %s: %w", rec.Name, err)
	}
	return list, nil
}

// places are paths that are made in every container as places for mounts, and are no change of the container's.
func (c *Container) places(rec record) map[string]bool {
	places := map[string]bool{"/.dockerenv": true, "/sbin/docker-init": wantsInit(rec.Config.HostConfig)}
	for _, m := range systemMounts(0, false) {
		places[m.Destination] = true
	}
	for _, name := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/console"} {
		places[name] = true
	}
	if points, err := rec.mountPoints(); err == nil { // it was checked at the creation
		for _, m := range points {
			places[m.Destination] = true
		}
	}
	return places
}

// changes walks an overlay's upper directory, beside the layers below it; see the kernel's overlayfs.rst.
func changes(ctx context.Context, upper string, lower int, places map[string]bool) ([]container.FilesystemChange, error) {
	root, err := os.OpenRoot(upper)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	found := map[string]container.ChangeType{}
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // a container that runs
			return nil
		}
		if err != nil || name == "." {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		full := "/" + name
		below, err := inLayers(lower, name)
		if err != nil {
			return err
		}
		return classify(root, full, entry, below, lower, places, found)
	})
	if err != nil {
		return nil, err
	}
	list := []container.FilesystemChange{}
	for name, kind := range found {
		list = append(list, container.FilesystemChange{Kind: kind, Path: name})
	}
	slices.SortFunc(list, func(a, b container.FilesystemChange) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// classify adds one entry of the upper directory to what was found. below is what the layers have there; nil: nothing.
func classify(root *os.Root, full string, entry fs.DirEntry, below *unix.Stat_t, lower int, places map[string]bool, found map[string]container.ChangeType) error {
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	add := func(kind container.ChangeType) {
		found[full] = kind
		for dir := path.Dir(full); dir != "/"; dir = path.Dir(dir) { // docker names the directories above a change
			if _, known := found[dir]; !known {
				found[dir] = container.ChangeModify
			}
		}
	}
	switch {
	case isWhiteout(info):
		if below != nil {
			add(container.ChangeDelete)
		}
	case places[full] && below == nil:
		if entry.IsDir() {
			return fs.SkipDir
		}
	case below == nil:
		add(container.ChangeAdd)
	case !entry.IsDir():
		add(container.ChangeModify)
	case below.Mode&unix.S_IFMT != unix.S_IFDIR:
		add(container.ChangeModify)
	case sameDirectory(info, below): // copied up for what is in it
	case onlyPlaces(root, full, places):
	default:
		add(container.ChangeModify)
	}
	if entry.IsDir() && below != nil && below.Mode&unix.S_IFMT == unix.S_IFDIR && opaque(root, full) {
		return hidden(root, full, lower, add, found)
	}
	return nil
}

// hidden finds what an opaque directory hides of the layers below it.
func hidden(root *os.Root, full string, lower int, add func(container.ChangeType), found map[string]container.ChangeType) error {
	add(container.ChangeModify)
	dir, err := inroot.Open(lower, full, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	names, err := list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := root.Lstat(path.Join(full[1:], name)); errors.Is(err, fs.ErrNotExist) {
			found[path.Join(full, name)] = container.ChangeDelete
		}
	}
	return nil
}

// inLayers looks a path up in the layers below; nil if it is not there.
func inLayers(lower int, name string) (*unix.Stat_t, error) {
	fd, err := inroot.Open(lower, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil, nil
	default:
		return nil, fmt.Errorf("look for %s in the image: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("look at %s in the image: %w", name, err)
	}
	return &st, nil
}

// isWhiteout tells a file that hides what is below it: a character device 0:0.
func isWhiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

// sameDirectory tells that a directory is as it is below: its mode, owner and time.
func sameDirectory(info fs.FileInfo, below *unix.Stat_t) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Mode == below.Mode && st.Uid == below.Uid && st.Gid == below.Gid &&
		st.Mtim.Sec == below.Mtim.Sec && st.Mtim.Nsec == below.Mtim.Nsec
}

// onlyPlaces tells that a directory holds nothing but places for mounts: they changed its time.
func onlyPlaces(root *os.Root, full string, places map[string]bool) bool {
	entries, err := fs.ReadDir(root.FS(), full[1:])
	return err == nil && len(entries) > 0 && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !places[path.Join(full, e.Name())] })
}

// opaque tells that a directory hides the one below it.
func opaque(root *os.Root, full string) bool {
	f, err := root.OpenFile(full[1:], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	var value [4]byte
	n, err := unix.Fgetxattr(int(f.Fd()), "trusted.overlay.opaque", value[:])
	return err == nil && string(value[:n]) == "y"
}
