package oci

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// mask hides what is at the paths: a file by the null device, a directory by an empty one, all by the same. A tmpfs for
// each would cost the kernel a file system per path and container.
func (b *builder) mask(paths []string) {
	if len(paths) == 0 {
		return
	}
	b.at("linux.maskedPaths")
	b.emptyDirectory()
	seen := map[string]bool{}
	for i, path := range paths {
		if seen[filepath.Clean(path)] {
			continue
		}
		seen[filepath.Clean(path)] = true
		b.at(fmt.Sprintf("linux.maskedPaths[%d]", i))
		b.maskPath(path)
	}
	b.add("close the empty directory", unix.SYS_CLOSE, spawn.Of(slotEmpty))
	b.add("close the null device", unix.SYS_CLOSE, spawn.Of(slotNull))
}

// emptyDirectory makes a read-only tmpfs that can hold nothing but its root, not mounted yet.
func (b *builder) emptyDirectory() {
	b.add("make an empty directory", unix.SYS_FSOPEN, spawn.Str("tmpfs"), spawn.Flags(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).Result = slotScratch
	b.add("of one node", unix.SYS_FSCONFIG, spawn.Of(slotScratch), spawn.Flags(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"), spawn.Str("nr_inodes"), spawn.Str("1"), spawn.Int(0))
	b.add("that nobody can write", unix.SYS_FSCONFIG, spawn.Of(slotScratch), spawn.Flags(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"), spawn.Str("ro"), spawn.Nil(), spawn.Int(0))
	b.add("as a file system", unix.SYS_FSCONFIG, spawn.Of(slotScratch), spawn.Flags(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), spawn.Nil(), spawn.Nil(), spawn.Int(0))
	b.add("that can be mounted", unix.SYS_FSMOUNT, spawn.Of(slotScratch), spawn.Flags(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), spawn.Flags(unix.MOUNT_ATTR_RDONLY, "MOUNT_ATTR_RDONLY")).Result = slotEmpty
	b.release("what it was made with")
}

// maskPath hides one. Before Linux 6.15 what is not mounted anywhere has no copies: the first mask is the directory itself.
func (b *builder) maskPath(path string) {
	copied := spawn.Flags(treeFlags, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH")
	look := b.resolve("look for "+path, path, unix.O_PATH)
	look.Ignore, look.Else = absent, 7
	enter := b.add("see whether "+path+" is a directory", unix.SYS_FCHDIR, spawn.Of(slotScratch))
	enter.Ignore, enter.Else = []unix.Errno{unix.ENOTDIR}, 2
	s := b.add("take the empty directory", unix.SYS_OPEN_TREE, spawn.Of(slotEmpty), spawn.Str(""), copied)
	s.Result, s.Ignore, s.Skip = slotTree, []unix.Errno{unix.EINVAL}, 2
	b.moveMount("mask "+path+" by it", spawn.Of(slotEmpty), spawn.Of(slotScratch)).Skip = 3
	b.add("take the null device", unix.SYS_OPEN_TREE, spawn.Of(slotNull), spawn.Str(""), copied).Result = slotTree
	b.moveMount("mask "+path, spawn.Of(slotTree), spawn.Of(slotScratch))
	b.add("close the copy", unix.SYS_CLOSE, spawn.Of(slotTree))
	b.release(path)
}
