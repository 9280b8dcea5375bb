package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// writeTree makes files with their text, directories (names that end in a slash) and links (texts that begin with ->).
func writeTree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		link, isLink := strings.CutPrefix(text, "->")
		switch {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case isLink:
			_ = os.Remove(path)
			err = os.Symlink(link, path)
		default:
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// mountTmpfs mounts a tmpfs on a directory until the test ends.
func mountTmpfs(t testing.TB, dir string, flags uintptr) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mountMappable mounts a file system whose ids the kernel maps: before 6.3 a tmpfs is none, but ext4 is.
func mountMappable(t testing.TB, dir string) string {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major > 6 || major == 6 && minor >= 3 {
		return mountTmpfs(t, dir, 0)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"truncate", "-s", "64M", disk}, {"mke2fs", "-q", "-F", disk}, {"mkdir", "-p", dir}, {"mount", "-t", "ext4", "-o", "loop", disk, dir},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil { // the loop device goes with the last mount
			t.Error(err)
		}
	})
	return dir
}

// line is what mountinfo says of a mount point: options of the mount and optional fields, and options of the file system.
func (r report) line(path string) (mount, fileSystem string) {
	for line := range strings.Lines(r.Mountinfo) {
		left, right, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(left); fields[4] == path {
			mount, fileSystem = strings.Join(fields[5:], " "), strings.TrimSpace(right) // the last one is on top
		}
	}
	return mount, fileSystem
}

// TestMountFlags: every flag of the specification's table, on a bind, below it, and on a file system of its own.
func TestMountFlags(t *testing.T) {
	host := t.TempDir()
	plain := mountTmpfs(t, filepath.Join(host, "plain"), 0)
	mountTmpfs(t, filepath.Join(plain, "below"), 0)
	full := mountTmpfs(t, filepath.Join(host, "full"), 0)
	mountTmpfs(t, filepath.Join(full, "below"), 0)
	every := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR_NOATIME, Attr_clr: unix.MOUNT_ATTR__ATIME}
	if err := unix.MountSetattr(unix.AT_FDCWD, full, unix.AT_RECURSIVE, &every); err != nil {
		t.Fatal(err)
	}
	const all = "ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow"
	for _, c := range []struct{ source, options, want, below string }{
		{plain, "rbind", "rw,relatime", "rw,relatime"},
		{full, "rbind", all, all},
		{plain, "rbind,ro", "ro,relatime", "rw,relatime"},
		{plain, "rbind,ro,rw", "rw,relatime", "rw,relatime"},
		{plain, "rbind,nosuid,nodev,noexec,nosymfollow", "rw,nosuid,nodev,noexec,relatime,nosymfollow", "rw,relatime"},
		{plain, "rbind,noatime,nodiratime", "rw,noatime,nodiratime", "rw,relatime"},
		{plain, "rbind,strictatime", "rw", "rw,relatime"},
		{plain, "rbind,strictatime,relatime,nostrictatime", "rw,relatime", "rw,relatime"},
		{full, "rbind,rw", "rw,noatime,nodiratime", all},
		{full, "rbind,suid", "rw,noatime,nodiratime", all},
		{full, "rbind,ro,dev,exec,suid,symfollow,atime,diratime", "ro,relatime", all},
		{full, "rbind,nosuid", "rw,nosuid,noatime,nodiratime", all},
		{full, "rbind,ro,atime", "ro,nodiratime,relatime", all},
		{plain, "rbind,rro", "ro,relatime", "ro,relatime"},
		{plain, "rbind,rnosuid,rnodev,rnoexec,rnosymfollow", "rw,nosuid,nodev,noexec,relatime,nosymfollow", "rw,nosuid,nodev,noexec,relatime,nosymfollow"},
		{plain, "rbind,rnoatime,rnodiratime", "rw,noatime,nodiratime", "rw,noatime,nodiratime"},
		{plain, "rbind,rstrictatime", "rw", "rw"},
		{plain, "rbind,rstrictatime,rnostrictatime", "rw,relatime", "rw,relatime"},
		{plain, "rbind,rro,rrw", "rw,relatime", "rw,relatime"},
		{full, "rbind,rrw", "rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow", "rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow"},
		{full, "rbind,rsuid,rdev,rexec,rsymfollow", "ro,noatime,nodiratime", "ro,noatime,nodiratime"},
		{full, "rbind,ratime,rdiratime", "ro,nosuid,nodev,noexec,relatime,nosymfollow", "ro,nosuid,nodev,noexec,relatime,nosymfollow"},
		{full, "rbind,rrelatime", "ro,nosuid,nodev,noexec,relatime,nodiratime,nosymfollow", "ro,nosuid,nodev,noexec,relatime,nodiratime,nosymfollow"},
		{full, "rbind,rnorelatime", "ro,nosuid,nodev,noexec,relatime,nodiratime,nosymfollow", "ro,nosuid,nodev,noexec,relatime,nodiratime,nosymfollow"},
		{full, "rbind,ro,rrw", "rw,noatime,nodiratime", "rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow"},
		{full, "rbind,sync,dirsync,mand,iversion,lazytime,silent,defaults", "rw,noatime,nodiratime", all},
		{"", "ro,nosuid,nodev,noexec,nosymfollow,noatime,nodiratime", all, ""},
		{"", "nosuid,suid,nodev,dev,ro,rw", "rw,relatime", ""},
		{"", "rro,rnosuid", "ro,nosuid,relatime", ""},
		{"", "strictatime", "rw", ""},
	} {
		t.Run(filepath.Base(c.source)+" "+c.options, func(t *testing.T) {
			b := newBundle(t)
			m := specs.Mount{Destination: "/m", Source: c.source, Type: "bind", Options: strings.Split(c.options, ",")}
			if c.source == "" {
				m.Source, m.Type = "tmpfs", "tmpfs"
			}
			b.spec.Mounts = append(b.spec.Mounts, m)
			r := b.report(t)
			for path, want := range map[string]string{"/m": c.want, "/m/below": c.below} {
				got, _ := r.line(path)
				if !sameOptions(got, want) {
					t.Errorf("%s: %s, want %s", path, got, want)
				}
			}
		})
	}
}

func sameOptions(a, b string) bool {
	x, y := strings.Split(a, ","), strings.Split(b, ",")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// TestPropagation: the root's, and that of a bind by its options; the host's mount is shared.
func TestPropagation(t *testing.T) {
	host := mountTmpfs(t, filepath.Join(t.TempDir(), "shared"), 0)
	mountTmpfs(t, filepath.Join(host, "below"), 0)
	if err := unix.Mount("", host, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	kind := func(line string) string { // of "rw,relatime shared:1 master:2"
		_, fields, _ := strings.Cut(line, " ")
		var kinds []string
		for field := range strings.FieldsSeq(fields) {
			name, _, _ := strings.Cut(field, ":")
			kinds = append(kinds, name)
		}
		return strings.Join(kinds, " ")
	}
	for _, c := range []struct{ root, options, wantRoot, want, below string }{
		{"", "", "", "master", "master"},
		{"rslave", "", "", "master", "master"},
		{"slave", "private", "", "", "master"},
		{"rprivate", "", "", "", ""},
		{"private", "rslave", "", "", ""},
		{"shared", "", "shared", "shared", "shared"},
		{"rshared", "", "shared", "shared", "shared"},
		{"rshared", "rprivate", "shared", "shared", "shared"}, // as it says, all of the root
		{"shared", "rslave", "shared", "master", "master"},
		{"shared", "slave", "shared", "master", "shared"},
		{"shared", "rprivate", "shared", "", ""},
		{"shared", "private,rshared", "shared", "shared", "shared"},
		{"unbindable", "", "unbindable", "", ""},
		{"runbindable", "", "unbindable", "unbindable", "unbindable"},
		{"", "runbindable", "", "unbindable", "unbindable"},
		{"", "unbindable", "", "unbindable", "master"},
		{"", "rshared", "", "shared master", "shared master"},
		{"", "rprivate", "", "", ""},
	} {
		t.Run(c.root+" "+c.options, func(t *testing.T) {
			b := newBundle(t)
			b.spec.Linux.RootfsPropagation = c.root
			m := specs.Mount{Destination: "/m", Source: host, Type: "bind", Options: []string{"rbind"}}
			if c.options != "" {
				m.Options = append(m.Options, strings.Split(c.options, ",")...)
			}
			b.spec.Mounts = append(b.spec.Mounts, m)
			r := b.report(t)
			for path, want := range map[string]string{"/": c.wantRoot, "/m": c.want, "/m/below": c.below} {
				if line, _ := r.line(path); kind(line) != want {
					t.Errorf("%s: %q, want %q", path, kind(line), want)
				}
			}
		})
	}
	b := newBundle(t)
	b.spec.Linux.RootfsPropagation = "dreamy"
	b.refused(t, `rootfsPropagation: unknown value "dreamy"`)
	b = newBundle(t) // a user namespace's mounts never spread to the host
	b.inUserNamespace(t)
	b.spec.Linux.RootfsPropagation = "shared"
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/m", Source: host, Type: "bind", Options: []string{"rbind", "rshared"}})
	if line, _ := b.report(t).line("/m"); kind(line) != "shared master" {
		t.Errorf("in a user namespace: %s", line)
	}
}

// TestRootIsCutOff: a root from a shared mount of the host does not send its mounts there.
func TestRootIsCutOff(t *testing.T) {
	b := newBundle(t, "exit", "0")
	root := filepath.Join(b.dir, "rootfs")
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := unix.Mount("", root, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	before := mountTable()
	b.spec.Process.Args = []string{"probe", "sleep"}
	c, p, r := b.start(t, func(o *CreateOptions) { o.Rootfs = nil })
	defer r.Close()
	if after := mountTable(); after != before {
		t.Errorf("the container's mounts are on the host:\n%s", after)
	}
	b.end(t, c, p)
}

// TestIDMappedMounts: files of the host's ids are the container's, in both directions.
func TestIDMappedMounts(t *testing.T) {
	for _, c := range []struct {
		name, options string
		user          bool
		maps          []specs.LinuxIDMapping
		want, below   string // owners
	}{
		{"own maps", "rbind", false, []specs.LinuxIDMapping{{ContainerID: 0, HostID: 500, Size: 10}}, "500:500", "0:0"},
		{"own maps, below too", "rbind,ridmap", false, []specs.LinuxIDMapping{{ContainerID: 0, HostID: 500, Size: 10}}, "500:500", "500:500"},
		{"two ranges", "rbind,idmap", false, []specs.LinuxIDMapping{{ContainerID: 7, HostID: 900, Size: 1}, {ContainerID: 0, HostID: 600, Size: 1}}, "600:600", "0:0"},
		{"user namespace, its maps", "rbind,idmap", true, nil, "0:0", "65534:65534"},
		{"user namespace, its maps, below too", "rbind,ridmap", true, nil, "0:0", "0:0"},
		{"user namespace, own maps", "rbind,ridmap", true, []specs.LinuxIDMapping{{ContainerID: 0, HostID: hostRoot + 5, Size: 1}}, "5:5", "5:5"},
		{"user namespace, none", "rbind", true, nil, "65534:65534", "65534:65534"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := mountMappable(t, filepath.Join(t.TempDir(), "m"))
			mountMappable(t, filepath.Join(host, "below"))
			writeTree(t, host, map[string]string{"file": "x", "below/file": "y"})
			b := newBundle(t, "stat", "/m/file", "/m/below/file")
			if c.user {
				b.inUserNamespace(t)
			}
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/m", Source: host, Type: "bind", Options: strings.Split(c.options, ","), UIDMappings: c.maps, GIDMappings: c.maps})
			text, _ := b.output(t)
			if fields := strings.Fields(text); len(fields) != 8 || fields[2] != c.want || fields[6] != c.below {
				t.Errorf("%q, want %s and %s", text, c.want, c.below)
			}
		})
	}
	for want, m := range map[string]specs.Mount{
		"has no user namespace":       {Type: "bind", Source: "/tmp", Options: []string{"idmap"}},
		"must be there both, or none": {Type: "bind", Source: "/tmp", UIDMappings: oneMap},
		"only a bind":                 {Type: "tmpfs", Source: "tmpfs", UIDMappings: oneMap, GIDMappings: oneMap},
		"does not do it for this":     {Type: "bind", Source: "/proc", UIDMappings: oneMap, GIDMappings: oneMap},
	} {
		b := newBundle(t)
		m.Destination = "/m"
		b.spec.Mounts = append(b.spec.Mounts, m)
		b.refused(t, want)
	}
}

// TestIDMappedRoot: a root of the host's ids serves a user namespace without a chown.
func TestIDMappedRoot(t *testing.T) {
	b := newBundle(t, "stat", "/etc/passwd")
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = oneMap, oneMap
	own := mountMappable(t, filepath.Join(t.TempDir(), "m"))
	if out, err := exec.Command("cp", "-a", b.dir+"/rootfs", own).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root := Mount{Type: "bind", Source: own + "/rootfs", Options: []string{"rbind", "rw", "uidmap=0:100000:65536", "gidmap=0:100000:65536"}}
	text, code := b.output(t, func(o *CreateOptions) { o.Rootfs = []Mount{root} })
	if !strings.Contains(text, " 0:0 ") || code != 0 {
		t.Errorf("exit %d: %s", code, text)
	}
}

// TestCopyUp: a tmpfs with the content that it covers, of the image and of a mount before it.
func TestCopyUp(t *testing.T) {
	for _, user := range []bool{false, true} {
		host := t.TempDir()
		writeTree(t, host, map[string]string{"of-mount": "bound"})
		b := newBundle(t, "cat", "/up/file", "/up/dir/deep", "/up/link", "/bound/of-mount")
		writeTree(t, b.dir+"/rootfs", map[string]string{"up/file": "file ", "up/dir/deep": "deep ", "up/link": "->dir/deep", "up/out": "->/etc/passwd"})
		if err := os.Chmod(b.dir+"/rootfs/up", 0o711); err != nil {
			t.Fatal(err)
		}
		if user {
			b.inUserNamespace(t)
			if err := os.Chown(host, hostRoot, hostRoot); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(host+"/of-mount", hostRoot, hostRoot); err != nil {
				t.Fatal(err)
			}
		}
		b.spec.Mounts = append(b.spec.Mounts,
			specs.Mount{Destination: "/up", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "ro"}},
			specs.Mount{Destination: "/bound", Type: "bind", Source: host},
			specs.Mount{Destination: "/bound", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
		if text, _ := b.output(t); text != "file deep deep bound" {
			t.Errorf("user namespace %v: %q", user, text)
		}
		b.spec.Process.Args = []string{"probe", "stat", "/up", "/up/out", "/up/file"}
		text, _ := b.output(t)
		if want := "/up 040711 0:0 0 \n/up/out 0120777 0:0 0 /etc/passwd\n/up/file 0100644 0:0 0 \n"; text != want {
			t.Errorf("user namespace %v: %q, want %q", user, text, want)
		}
		b.spec.Process.Args = []string{"probe", "write", "/up/new", "x"}
		if text, _ := b.output(t); !strings.Contains(text, "read-only file system") {
			t.Errorf("it is not read-only: %q", text)
		}
	}
	b := newBundle(t)
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/m", Type: "bind", Source: "/tmp", Options: []string{"tmpcopyup"}})
	b.refused(t, "tmpcopyup is for a tmpfs")
}

// TestMountPoints: links are resolved inside the root, what is missing is made, relative ones count from the root.
func TestMountPoints(t *testing.T) {
	host := t.TempDir()
	writeTree(t, host, map[string]string{"dir/file": "bound", "single": "one"})
	for _, c := range []struct{ destination, source, see, want string }{
		{"relative/path", "dir", "/relative/path/file", "bound"},
		{"/new/deep", "dir", "/new/deep/file", "bound"},
		{"/new/file", "single", "/new/file", "one"},
		{"/out/at", "dir", "/host/at/file", "bound"},
		{"/up/etc/x", "dir", "/etc/x/file", "bound"},
		{"/dangling", "single", "/nowhere", "one"},
		{"/lost", "dir", "/made/by/link/file", "bound"},
		{"/lost/deeper", "dir", "/made/by/link/deeper/file", "bound"},
		{"/lostup/x", "dir", "/made2/x/file", "bound"},
		{"/chain", "dir", "/etc/chained/file", "bound"},
		{"/a/../b", "dir", "/b/file", "bound"},
		{"/../../c", "dir", "/c/file", "bound"},
	} {
		t.Run(c.destination, func(t *testing.T) {
			b := newBundle(t, "cat", c.see)
			writeTree(t, b.dir+"/rootfs", map[string]string{
				"host/": "", "out": "->" + "../../../../../../host", "up": "->../../../../../../..", "dangling": "->/nowhere",
				"lost": "->/made/by/link", "etc/lostup": "->../../../made2", "lostup": "->etc/lostup", "chain": "->link2", "link2": "->/etc/chained", "etc/chained/": "",
			})
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: c.destination, Type: "bind", Source: filepath.Join(host, c.source), Options: []string{"bind"}})
			if text, _ := b.output(t); text != c.want {
				t.Errorf("%q, want %q", text, c.want)
			}
		})
	}
}

// TestProcMounts: nothing but proc stands at /proc, whatever leads there (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561,
// CVE-2023-28642).
func TestProcMounts(t *testing.T) {
	host := t.TempDir()
	writeTree(t, host, map[string]string{"self/attr/exec": "", "file": "fake"})
	bind := func(destination, source string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind"}}
	}
	for _, c := range []struct {
		name  string
		mount specs.Mount
		want  string // of the error; empty: it is taken
	}{
		{"fake by bind", bind("/proc", host), "on /proc is refused"},
		{"fake by tmpfs", specs.Mount{Destination: "/proc", Type: "tmpfs", Source: "tmpfs"}, "on /proc is refused"},
		{"fake by tmpfs, unclean", specs.Mount{Destination: "//tmp/../proc/", Type: "tmpfs", Source: "tmpfs"}, "on /proc is refused"},
		{"fake named proc", specs.Mount{Destination: "/proc", Type: "bind", Source: host + "/self"}, "on /proc is refused"},
		{"inside", bind("/proc/sys", host), "inside /proc is refused"},
		{"inside, self", bind("/proc/self/attr", host), "inside /proc is refused"},
		{"inside, number", bind("/proc/1/attr", host), "inside /proc is refused"},
		{"by a link", bind("/toproc/sys/kernel", host), "must not lead into a proc file system: permission denied"},
		{"by a link itself", bind("/toproc", host), "must not lead into a proc file system: permission denied"},
		{"by a link, tmpfs", specs.Mount{Destination: "/toproc/self", Type: "tmpfs", Source: "tmpfs"}, "must not lead into a proc file system: permission denied"},
		{"by a link to a descriptor", bind("/tofd", host), "open /tofd: too many levels"},
		{"the host's proc", bind("/proc", "/proc"), ""},
		{"what LXCFS makes", bind("/proc/uptime", host+"/file"), ""},
		{"what LXCFS makes, stat", bind("/proc/stat", host+"/file"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBundle(t, "exit", "3")
			writeTree(t, b.dir+"/rootfs", map[string]string{"toproc": "->proc", "tofd": "->/proc/self/fd/3"})
			b.spec.Mounts = append(b.spec.Mounts, c.mount)
			if c.want != "" {
				b.refused(t, c.want)
			} else if text, code := b.output(t); code != 3 {
				t.Errorf("exit %d: %s", code, text)
			}
		})
	}
	for _, name := range []string{"proc", "sys"} { // the image's link in the place of a directory
		b := newBundle(t)
		if err := os.Remove(b.dir + "/rootfs/" + name); err != nil {
			t.Fatal(err)
		}
		writeTree(t, b.dir+"/rootfs", map[string]string{name: "->/tmp"})
		b.refused(t, fmt.Sprintf("/%s must be mounted on ordinary directory, not a link", name))
	}
}
