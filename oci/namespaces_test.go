package oci

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/spawn"
)

// nsFiles are the names of namespaces in /proc/PID/ns.
var nsFiles = map[specs.LinuxNamespaceType]string{
	specs.UserNamespace: "user", specs.MountNamespace: "mnt", specs.PIDNamespace: "pid", specs.NetworkNamespace: "net",
	specs.UTSNamespace: "uts", specs.IPCNamespace: "ipc", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time",
}

const hostRoot = 100000 // the id that the root of a user namespace is to the host

var oneMap = []specs.LinuxIDMapping{{ContainerID: 0, HostID: hostRoot, Size: 65536}}

// inUserNamespace gives the bundle a new user namespace, which owns its files.
func (b *bundle) inUserNamespace(t testing.TB) {
	t.Helper()
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = oneMap, oneMap
	b.own(t, hostRoot)
}

// own gives the bundle's files to an id, and copies the probe, which others use too.
func (b *bundle) own(t testing.TB, id int) {
	t.Helper()
	file := filepath.Join(b.dir, "rootfs/bin/probe")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.Remove(file)
	}
	if err == nil {
		err = os.WriteFile(file, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(b.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/state") {
			return err
		}
		return os.Lchown(path, id, id)
	}); err != nil {
		t.Fatal(err)
	}
}

// holder is a container that keeps its namespaces alive for others to join.
func holder(t *testing.T, kinds ...specs.LinuxNamespaceType) (pid int) {
	t.Helper()
	b := newBundle(t, "sleep")
	b.spec.Linux.CgroupsPath += "-holder"
	b.spec.Linux.Namespaces = nil
	for _, kind := range append(kinds, specs.MountNamespace) {
		if kind == specs.UserNamespace {
			b.inUserNamespace(t)
		} else if !slices.ContainsFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind }) {
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
		}
	}
	b.spec.Hostname = ""
	b.spec.Mounts = []specs.Mount{b.spec.Mounts[0], b.spec.Mounts[1], b.spec.Mounts[5]} // what a user namespace may mount must have been in sight
	b.spec.Linux.ReadonlyPaths, b.spec.Linux.MaskedPaths = nil, nil
	if !slices.Contains(kinds, specs.PIDNamespace) {
		b.spec.Mounts = b.spec.Mounts[1:]
	}
	c, p, r := b.start(t)
	t.Cleanup(func() {
		if err := c.Delete(t.Context(), true); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		if _, err := spawn.Reap(p.Pidfd); err != nil {
			t.Error(err)
		}
		r.Close()
		p.Pidfd.Close()
	})
	return p.Pid
}

func nsOf(t *testing.T, pid any, kind specs.LinuxNamespaceType) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%v/ns/%s", pid, nsFiles[kind]))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestNamespacesByPath joins every kind of namespace, alone and with a user namespace that is joined or new.
func TestNamespacesByPath(t *testing.T) {
	all := []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace, specs.MountNamespace}
	type row struct {
		name    string
		holder  []specs.LinuxNamespaceType // what the other container has
		join    []specs.LinuxNamespaceType // what of it is joined
		newUser bool
	}
	var rows []row
	for _, kind := range all {
		rows = append(rows,
			row{name: string(kind), holder: all, join: []specs.LinuxNamespaceType{kind}},
			row{name: "user+" + string(kind), holder: append(all, specs.UserNamespace), join: []specs.LinuxNamespaceType{specs.UserNamespace, kind}},
		)
		if kind != specs.MountNamespace { // nobody may mount in one that belongs to the host's user namespace
			rows = append(rows, row{name: "new user, host's " + string(kind), holder: all, join: []specs.LinuxNamespaceType{kind}, newUser: true})
		}
	}
	rows = append(rows,
		row{name: "user", holder: append(all, specs.UserNamespace), join: []specs.LinuxNamespaceType{specs.UserNamespace}},
		row{name: "all", holder: append(all, specs.UserNamespace), join: append(all, specs.UserNamespace)},
		row{name: "all but user", holder: all, join: all},
	)
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			pid := holder(t, c.holder...)
			b := newBundle(t)
			b.spec.Linux.CgroupsPath += "-b"
			b.spec.Linux.Namespaces = nil
			for _, kind := range all {
				b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
			}
			if c.newUser || slices.Contains(c.join, specs.UserNamespace) {
				b.inUserNamespace(t)
			}
			for i, n := range b.spec.Linux.Namespaces {
				if slices.Contains(c.join, n.Type) {
					b.spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", pid, nsFiles[n.Type])
				}
			}
			hostOwned := c.newUser && (slices.Contains(c.join, specs.NetworkNamespace) || slices.Contains(c.join, specs.PIDNamespace) || slices.Contains(c.join, specs.IPCNamespace))
			if hostOwned { // the kernel mounts proc, sysfs and mqueue only for who owns the namespace
				b.spec.Mounts = []specs.Mount{b.spec.Mounts[1], {Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind"}}}
				b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = nil, nil
			}
			if c.newUser && slices.Contains(c.join, specs.UTSNamespace) {
				b.spec.Hostname = "" // not this user namespace's to set
			}
			wanted := map[specs.LinuxNamespaceType]string{}
			for _, kind := range c.join {
				wanted[kind] = nsOf(t, pid, kind)
			}
			got := b.report(t)
			for _, n := range b.spec.Linux.Namespaces {
				is, host := got.NS[nsFiles[n.Type]], nsOf(t, "self", n.Type)
				if want, join := wanted[n.Type]; join && is != want || !join && (is == host || is == nsOf(t, pid, n.Type)) {
					t.Errorf("%s namespace %s, the other's is %s, the host's %s", n.Type, is, nsOf(t, pid, n.Type), host)
				}
			}
		})
	}
}

// TestNamespacesRefused: what is not the namespace that it should be is named.
func TestNamespacesRefused(t *testing.T) {
	user := holder(t, specs.UserNamespace)
	for _, c := range []struct {
		name, want string
		change     func(*specs.Linux)
	}{
		{"wrong kind", "linux.namespaces[1]: /proc/self/ns/uts is a uts namespace, not a network namespace", func(l *specs.Linux) { l.Namespaces[1].Path = "/proc/self/ns/uts" }},
		{"wrong kind of user", "is a pid namespace, not a user namespace", func(l *specs.Linux) {
			l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/self/ns/pid"})
		}},
		{"a file", "/proc/self/status is not a namespace", func(l *specs.Linux) { l.Namespaces[0].Path = "/proc/self/status" }},
		{"relative", `path "self" must be absolute`, func(l *specs.Linux) { l.Namespaces[2].Path = "self" }},
		{"no maps", "needs linux.uidMappings", func(l *specs.Linux) {
			l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}},
		{"maps without", "without a user namespace", func(l *specs.Linux) { l.UIDMappings = oneMap }},
		{"overlapping maps", "linux.uidMappings[0] and [1] overlap", func(l *specs.Linux) {
			l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			l.UIDMappings, l.GIDMappings = append(oneMap, oneMap...), oneMap
		}},
		{"other maps", "are not those of the user namespace", func(l *specs.Linux) {
			l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", user)})
			l.UIDMappings, l.GIDMappings = []specs.LinuxIDMapping{{HostID: 5, Size: 1}}, oneMap
		}},
		{"offsets without", "linux.timeOffsets", func(l *specs.Linux) { l.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}} }},
		{"unknown clock", `linux.timeOffsets: unknown clock "tai"`, func(l *specs.Linux) {
			l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			l.TimeOffsets = map[string]specs.LinuxTimeOffset{"tai": {Secs: 1}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBundle(t)
			c.change(b.spec.Linux)
			b.refused(t, c.want)
		})
	}
}

// refused creates the container, which must fail with the text.
func (b *bundle) refused(t *testing.T, want string) {
	t.Helper()
	c, _, err := b.lib.Create(t.Context(), "bad", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
	if err == nil {
		t.Errorf("it was taken, want %q", want)
		if err := c.Delete(t.Context(), true); err != nil {
			t.Error(err)
		}
	} else if !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// TestSeveralMaps: ids are hostRoot in ranges, and the maps of a user namespace that is joined may be repeated.
func TestSeveralMaps(t *testing.T) {
	b := newBundle(t)
	b.inUserNamespace(t)
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: hostRoot, Size: 1000}, {ContainerID: 1000, HostID: 5000, Size: 1}, {ContainerID: 1001, HostID: hostRoot + 1001, Size: 60000}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: hostRoot, Size: 10}, {ContainerID: 20, HostID: hostRoot + 20, Size: 1}}
	b.spec.Process.User.UID = 1000
	got := b.report(t)
	if want := "0 100000 1000 1000 5000 1 1001 101001 60000"; strings.Join(strings.Fields(got.UIDMap), " ") != want || got.UID != 1000 {
		t.Errorf("uid %d, map %q", got.UID, got.UIDMap)
	}
	pid := holder(t, specs.UserNamespace)
	b = newBundle(t)
	b.spec.Linux.CgroupsPath += "-b"
	b.inUserNamespace(t)
	b.spec.Linux.Namespaces[len(b.spec.Linux.Namespaces)-1].Path = fmt.Sprintf("/proc/%d/ns/user", pid)
	if got := b.report(t); got.UID != 0 || !strings.Contains(got.UIDMap, "100000") {
		t.Errorf("uid %d, map %q", got.UID, got.UIDMap)
	}
}

// TestOwnNamespaces: paths below /proc/self are those of the runtime, its user namespace included.
func TestOwnNamespaces(t *testing.T) {
	b := newBundle(t)
	for i, n := range b.spec.Linux.Namespaces {
		if n.Type != specs.MountNamespace && n.Type != specs.UTSNamespace {
			b.spec.Linux.Namespaces[i].Path = "/proc/self/ns/" + nsFiles[n.Type]
		}
	}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/self/ns/user"}, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/self/ns/time"})
	got := b.report(t)
	for _, n := range b.spec.Linux.Namespaces {
		if is, own := got.NS[nsFiles[n.Type]], nsOf(t, "self", n.Type); (is == own) != (n.Path != "") {
			t.Errorf("%s namespace %s, the runtime's is %s", n.Type, is, own)
		}
	}
}

// TestTimeOffsets: the container's clocks are set off, in a user namespace too, and for exec.
func TestTimeOffsets(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBundle(t, "cat", "/proc/self/timens_offsets", "/proc/uptime")
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 7881, Nanosecs: 2718281}, "boottime": {Secs: 50000000}}
		if user {
			b.inUserNamespace(t)
		}
		text, _ := b.output(t)
		fields := strings.Fields(text)
		if len(fields) != 8 || strings.Join(fields[:6], " ") != "monotonic 7881 2718281 boottime 50000000 0" || len(fields[6]) != len("50000000.00") {
			t.Errorf("user namespace %v: %q", user, text)
		}
	}
}
