package oci

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
