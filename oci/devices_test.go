package oci

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestDevices: every type, with mode and owner; a user namespace gets the host's.
func TestDevices(t *testing.T) {
	uid, gid, mode := uint32(5), uint32(6), os.FileMode(0o640)
	list := []specs.LinuxDevice{
		{Path: "/dev/c", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/u", Type: "u", Major: 1, Minor: 5},
		{Path: "/dev/b", Type: "b", Major: 7, Minor: 99, GID: &gid},
		{Path: "/dev/p", Type: "p", FileMode: &mode, UID: &uid},
		{Path: "/dev/deep/er/c", Type: "c", Major: 1, Minor: 7},
		{Path: "/outside", Type: "c", Major: 1, Minor: 8},
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: &mode},
	}
	args := []string{"probe", "stat"}
	for _, d := range list {
		args = append(args, d.Path)
	}
	b := newBundle(t)
	b.spec.Process.Args, b.spec.Linux.Devices = args, list
	want := fmt.Sprintf(`/dev/c 020640 5:6 %d 
/dev/u 020666 0:0 %d 
/dev/b 060666 0:6 %d 
/dev/p 010640 5:0 0 
/dev/deep/er/c 020666 0:0 %d 
/outside 020666 0:0 %d 
/dev/null 020640 0:0 %d 
`, unix.Mkdev(1, 3), unix.Mkdev(1, 5), unix.Mkdev(7, 99), unix.Mkdev(1, 7), unix.Mkdev(1, 8), unix.Mkdev(1, 3))
	if text, _ := b.output(t); text != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
	b = newBundle(t, "stat", "/dev/null", "/dev/full", "/dev/p", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx")
	b.inUserNamespace(t)
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/full", Type: "c", Major: 1, Minor: 7}, {Path: "/dev/p", Type: "p", FileMode: &mode}}
	text, _ := b.output(t)
	for _, want := range []string{
		fmt.Sprintf("/dev/null 020666 65534:65534 %d", unix.Mkdev(1, 3)), fmt.Sprintf("/dev/full 020666 65534:65534 %d", unix.Mkdev(1, 7)), "/dev/p 010640 0:0 0",
		"/proc/self/fd\n", "/proc/self/fd/0\n", "/proc/self/fd/1\n", "/proc/self/fd/2\n", " pts/ptmx\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	owner := uint32(7)
	b = newBundle(t, "stat", "/dev/null", "/dev/no-such")
	b.inUserNamespace(t)
	b.spec.Linux.Devices = []specs.LinuxDevice{ // the host has another one of this name, and none
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 7},
		{Path: "/dev/no-such", Type: "b", Major: 7, Minor: 99, FileMode: &mode, UID: &owner, GID: &owner},
	}
	want = fmt.Sprintf("/dev/null 020666 0:0 %d \n/dev/no-such 060640 7:7 %d \n", unix.Mkdev(1, 7), unix.Mkdev(7, 99))
	if text, _ := b.output(t); text != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
	for path, want := range map[string]string{"relative": "must be that of a file", "/": "must be that of a file", "/dev/x": `type "x"`} {
		b = newBundle(t)
		b.spec.Linux.Devices = []specs.LinuxDevice{{Path: path, Type: map[bool]string{true: "x", false: "c"}[path == "/dev/x"]}}
		b.refused(t, want)
	}
}

// TestDevicesOfTheImage: whatever the image has in the place of /dev and its devices, nothing is made outside, and a
// device is the one that it should be (CVE-2026-41579, CVE-2026-47766, CVE-2026-88265).
func TestDevicesOfTheImage(t *testing.T) {
	for _, mounted := range []bool{false, true} {
		for _, user := range []bool{false, true} {
			sentinel := t.TempDir()
			if err := os.Chmod(sentinel, 0o777); err != nil {
				t.Fatal(err)
			}
			for name, files := range map[string]map[string]string{
				"linked /dev":     {"dev": "->" + sentinel, sentinel[1:] + "/": ""},
				"linked up":       {"dev": "->../../../.." + sentinel, sentinel[1:] + "/": ""},
				"a file for null": {"dev/null": "not a device"},
				"a link for null": {"dev/null": "->" + sentinel + "/null", "dev/console": "->" + sentinel + "/console", "dev/pts": "->" + sentinel},
			} {
				b := newBundle(t, "stat", "/dev/null")
				if err := os.Remove(b.dir + "/rootfs/dev"); err != nil {
					t.Fatal(err)
				}
				writeTree(t, b.dir+"/rootfs", files)
				if !mounted {
					b.spec.Mounts = b.spec.Mounts[:1]
					b.spec.Linux.ReadonlyPaths, b.spec.Linux.MaskedPaths = nil, nil
				}
				if user {
					b.inUserNamespace(t)
				}
				c, p, err := b.lib.Create(t.Context(), "image", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
				if err == nil {
					if number, err := deviceIn(p.Pid, "/dev/null"); err != nil || number != unix.Mkdev(1, 3) {
						t.Errorf("%s, mounted %v, user %v: /dev/null: %v, device %d", name, mounted, user, err, number)
					}
					b.end(t, c, p)
				}
				if entries, err := os.ReadDir(sentinel); err != nil || len(entries) > 0 {
					t.Errorf("%s, mounted %v, user %v: made outside: %v (%v)", name, mounted, user, entries, err)
				}
			}
		}
	}
}

// TestDevicesDoNotSpread: what a user namespace mounts on a device is not mounted on the host's device.
func TestDevicesDoNotSpread(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("devices", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := dir + "/full"
	if err := errors.Join(unix.Mount("", dir, "", unix.MS_SHARED, ""), unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 7)))); err != nil {
		t.Fatal(err)
	}
	for _, propagation := range []string{"", "rshared"} {
		b := newBundle(t, "cat", "/proc/self/mountinfo")
		b.inUserNamespace(t)
		b.spec.Linux.RootfsPropagation = propagation
		b.spec.Linux.Devices = []specs.LinuxDevice{{Path: path, Type: "c", Major: 1, Minor: 7}}
		text, _ := b.output(t)
		found := false
		for line := range strings.Lines(text) {
			if strings.Contains(line, " "+path+" ") {
				found = true
				if strings.Contains(line, " shared:") && !strings.Contains(line, " master:") { // the host's own
					t.Errorf("propagation %q: %s", propagation, line)
				}
			}
		}
		if !found {
			t.Errorf("propagation %q: no %s in %s", propagation, path, text)
		}
	}
}

// deviceIn is the number of a device as a process sees it.
func deviceIn(pid int, path string) (uint64, error) {
	root, err := os.Open(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return 0, err
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Rdev, err
}
