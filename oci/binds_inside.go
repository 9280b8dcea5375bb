package oci

import (
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// destination is where in the container something is mounted: an absolute path, also for a relative one, as runtimes
// always took it. A path of the host that leads into the root directory stands for the path inside.
func (b *builder) destination(m specs.Mount) string {
	path := filepath.Clean("/" + m.Destination)
	if inside, found := strings.CutPrefix(path, strings.TrimSuffix(filepath.Clean(b.rootPath()), "/")+"/"); found {
		return "/" + inside
	}
	return path
}

// bindInOrder binds the i-th mount's source. One in the container's own root, where earlier mounts have changed what is
// there, is taken when they are done.
func (b *builder) bindInOrder(i int, m specs.Mount, o mountOptions) error {
	source, found := strings.CutPrefix(filepath.Clean(b.sourceOf(m)), filepath.Clean(b.rootPath())+"/")
	if !found || !b.ofBundle || !b.mountedAround("/"+source, b.spec.Mounts[:i]) {
		return b.bind(m, o)
	}
	if o.idMap && !b.dry { // while nothing runs yet
		if _, err := b.idMapNamespace(m); err != nil {
			return fmt.Errorf("mount %s on %s: %w", source, m.Destination, err)
		}
	}
	b.bindInside("/"+source, m, o)
	return nil
}

// mountedAround reports whether one of the mounts is at, above or below a path.
func (b *builder) mountedAround(path string, mounts []specs.Mount) bool {
	for _, m := range mounts {
		at := b.destination(m)
		if at == path || strings.HasPrefix(at, path+"/") || strings.HasPrefix(path, at+"/") {
			return true
		}
	}
	return false
}

// bindInside binds a part of the container to another place of it. The process takes the copy; the runtime, who may,
// gives it its flags and ids.
func (b *builder) bindInside(source string, m specs.Mount, o mountOptions) {
	flags, shown := uint64(treeFlags), "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH"
	if o.recursive {
		flags, shown = flags|unix.AT_RECURSIVE, shown+"|AT_RECURSIVE"
	}
	b.resolve("open "+source, source, unix.O_PATH)
	b.add("clone the mount of "+source, unix.SYS_OPEN_TREE, spawn.Of(slotScratch), spawn.Str(""), spawn.Flags(flags, shown)).Result = slotTree
	b.release(source)
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "set flags of the copy of " + source, Pass: slotTree, Sync: func(child *spawn.Process) error {
		num, err := unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		if err != nil {
			return fmt.Errorf("take the mount: %w", err)
		}
		defer unix.Close(num)
		return b.bindAttributes(num, m, o)
	}})
	enter := b.add("see whether "+source+" is a directory", unix.SYS_FCHDIR, spawn.Of(slotTree))
	enter.Ignore = []unix.Errno{unix.ENOTDIR}
	at := len(b.plan.Steps)
	b.target(m.Destination, true, 0)
	b.add("it is", unix.SYS_FCHDIR, spawn.Of(slotTree))
	file := len(b.plan.Steps)
	b.plan.Steps[at-1].Else = file - at
	b.target(m.Destination, false, 0)
	b.plan.Steps[file-1].Skip = len(b.plan.Steps) - file
	b.moveMount(fmt.Sprintf("bind %s to %s", source, m.Destination), spawn.Of(slotTree), spawn.Of(slotScratch))
	b.release(m.Destination)
	b.add("close the copy", unix.SYS_CLOSE, spawn.Of(slotTree))
}
