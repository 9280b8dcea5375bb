package oci

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// Masked directories are all one file system, and a path is masked once however often it is listed.
func TestMasksShareOneDirectory(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBundle(t)
		writeTree(t, b.dir+"/rootfs", map[string]string{"a/file": "x", "b/file": "x", "c/file": "x", "single": "x"})
		b.spec.Linux.MaskedPaths = []string{"/a", "/b", "/single", "/c", "/a/", "/single", "/b/../b"}
		if user {
			b.inUserNamespace(t)
		}
		r := b.report(t)
		var devices []string
		for _, path := range []string{"/a", "/b", "/c", "/single"} {
			var mounts []string
			for line := range strings.Lines(r.Mountinfo) {
				if fields := strings.Fields(line); fields[4] == path {
					mounts = append(mounts, fields[2])
					if path != "/single" && !strings.HasPrefix(fields[5], "ro") {
						t.Errorf("user namespace %v: the mask of %s can be written: %s", user, path, line)
					}
				}
			}
			if len(mounts) != 1 {
				t.Errorf("user namespace %v: %d mounts on %s", user, len(mounts), path)
			}
			devices = append(devices, mounts...)
		}
		if slices.Sort(devices); len(slices.Compact(devices)) != 2 {
			t.Errorf("user namespace %v: masks of %d file systems, want one for directories and the null device's", user, len(slices.Compact(devices)))
		}
	}
}

// Where the kernel cannot copy what is not mounted yet, the first directory is masked by the empty one itself.
func TestMaskWithoutCopiesOfDetachedMounts(t *testing.T) {
	b := newBundle(t, "ls", "/a", "/b")
	writeTree(t, b.dir+"/rootfs", map[string]string{"a/SECRET": "x", "b/SECRET": "x"})
	b.spec.Linux.MaskedPaths = []string{"/a", "/b"}
	x := &builder{id: "x", bundle: b.dir, spec: b.spec}
	x.maskPath("/a")
	names := map[string]int{}
	for i, s := range x.plan.Steps {
		names[s.Name] = i
	}
	take, itself := x.plan.Steps[names["take the empty directory"]], names["mask /a by it"]
	if !slices.Contains(take.Ignore, unix.EINVAL) || names["take the empty directory"]+1+take.Else != itself {
		t.Error("a copy that the kernel refuses is not followed by the move of the directory itself")
	}
	if next := itself + 1 + x.plan.Steps[itself].Skip; x.plan.Steps[next].Name != "close /a" {
		t.Errorf("the move is followed by %q", x.plan.Steps[next].Name)
	}
	if text, _ := b.output(t); strings.Contains(text, "SECRET") {
		t.Errorf("masked directories show %q", text)
	}
}

// The same steps as a kernel before 6.15 answers them: the first copy is refused, later ones are made of what is mounted by then.
func TestMaskAsAnOlderKernelDoes(t *testing.T) {
	root := t.TempDir()
	writeTree(t, root, map[string]string{"a/SECRET": "x", "b/SECRET": "x", "c/SECRET": "x"})
	x := &builder{id: "x"}
	x.add("make a mount namespace", unix.SYS_UNSHARE, spawn.Flags(unix.CLONE_NEWNS, "CLONE_NEWNS"))
	x.add("keep mounts to it", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("/"), spawn.Nil(), spawn.Flags(unix.MS_REC|unix.MS_PRIVATE, ""), spawn.Nil())
	x.add("walk paths from the root", unix.SYS_CHROOT, spawn.Str(root))
	x.add("go there", unix.SYS_CHDIR, spawn.Str("/"))
	x.emptyDirectory()
	for _, path := range []string{"/a", "/b", "/c"} {
		x.maskPath(path)
	}
	i := slices.IndexFunc(x.plan.Steps, func(s spawn.Step) bool { return s.Name == "take the empty directory" })
	x.plan.Steps[i].Args[2] = spawn.Int(1 << 30) // a flag that no kernel has: EINVAL
	var seen []string
	x.plan.Steps = append(x.plan.Steps, spawn.Step{Name: "look", Sync: func(child *spawn.Process) error {
		for _, path := range []string{"a", "b", "c"} {
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/%s", child.Pid, path))
			if err != nil {
				return err
			}
			for _, e := range entries {
				seen = append(seen, path+"/"+e.Name())
			}
		}
		return nil
	}})
	if err := runHelper(&x.plan); err != nil {
		t.Fatal(err)
	}
	if len(seen) > 0 {
		t.Errorf("masked directories show %q", seen)
	}
}
