package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
)

// TestNoPivot: the root is moved over the host's, whose mounts are out of reach, and proc and sysfs of the host are gone.
func TestNoPivot(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBundle(t)
		if user {
			b.inUserNamespace(t)
		}
		r := b.report(t, func(o *CreateOptions) { o.NoPivot = true })
		if root, _ := r.line("/"); root == "" || !strings.Contains(r.Mountinfo, " / / ") {
			t.Errorf("user namespace %v: no root in\n%s", user, r.Mountinfo)
		}
		if strings.Count(r.Mountinfo, " - proc ") != 1+len(b.spec.Linux.ReadonlyPaths)-1 {
			t.Errorf("user namespace %v: the host's proc:\n%s", user, r.Mountinfo)
		}
	}
}

// TestRootPath: relative, by a link, read-only, and missing.
func TestRootPath(t *testing.T) {
	b := newBundle(t, "write", "/x", "y")
	if err := os.Symlink("rootfs", b.dir+"/link"); err != nil {
		t.Fatal(err)
	}
	bare := func(o *CreateOptions) { o.Rootfs = nil }
	for _, path := range []string{"rootfs", "./rootfs/../rootfs", "link", filepath.Join(b.dir, "link")} {
		b.spec.Root.Path, b.spec.Root.Readonly = path, false
		if text, code := b.output(t, bare); code != 0 || text != "" {
			t.Errorf("%s: exit %d: %s", path, code, text)
		}
		b.spec.Root.Readonly = true
		if text, _ := b.output(t, bare); !strings.Contains(text, "read-only file system") {
			t.Errorf("%s: the root was written to: %s", path, text)
		}
	}
	b.spec.Root.Path = "missing"
	if _, _, err := b.lib.Create(t.Context(), "bad", CreateOptions{Bundle: b.dir, Spec: b.spec}); err == nil || !strings.Contains(err.Error(), "missing: no such file or directory") {
		t.Errorf("a missing root: %v", err)
	}
}

// TestMasks: directories and files are masked, links are followed inside, what is missing is passed over; and the mask is
// the null device even if the image has something else by that name (CVE-2025-31133, CVE-2025-62161).
func TestMasks(t *testing.T) {
	for _, user := range []bool{false, true} {
		b := newBundle(t, "cat", "/secret/file", "/single", "/etc/target", "/proc/keys")
		b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/dev", Type: "bind", Source: filepath.Join(b.dir, "rootfs/imagedev"), Options: []string{"rbind"}})
		writeTree(t, b.dir+"/rootfs", map[string]string{
			"secret/file": "SECRET", "single": "SECRET", "etc/target": "SECRET", "etc/link": "->target", "imagedev/null": "SECRET",
		})
		b.spec.Linux.MaskedPaths = []string{"/secret", "/single", "/etc/link", "/missing", "/single/below", "/proc/keys"}
		if user {
			b.inUserNamespace(t)
		}
		text, _ := b.output(t)
		if strings.Contains(text, "SECRET") || strings.Count(text, "error:") != 1 {
			t.Errorf("user namespace %v: %q", user, text)
		}
		b.spec.Process.Args = []string{"probe", "write", "/secret/new", "x"}
		if text, _ := b.output(t); !strings.Contains(text, "read-only file system") {
			t.Errorf("user namespace %v: the mask was written to: %q", user, text)
		}
	}
}

// TestReadonlyPaths: with what is mounted below, and a path that is a link.
func TestReadonlyPaths(t *testing.T) {
	b := newBundle(t)
	host := mountTmpfs(t, filepath.Join(t.TempDir(), "m"), 0)
	mountTmpfs(t, filepath.Join(host, "below"), 0)
	writeTree(t, b.dir+"/rootfs", map[string]string{"real/file": "x", "link": "->real"})
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/m", Type: "bind", Source: host, Options: []string{"rbind", "nosuid"}})
	b.spec.Linux.ReadonlyPaths = []string{"/m", "/link", "/missing", "/proc/sys"}
	r := b.report(t)
	for path, want := range map[string]string{"/m": "ro,nosuid,relatime", "/m/below": "ro,relatime", "/real": "ro,relatime", "/proc/sys": "ro,nosuid,nodev,noexec,relatime"} {
		line, _ := r.line(path)
		if got, _, _ := strings.Cut(line, " "); !sameOptions(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestSysfsOfTheHost: a user namespace without a network namespace of its own gets the runtime's sysfs, as a bind.
func TestSysfsOfTheHost(t *testing.T) {
	b := newBundle(t)
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
	b.inUserNamespace(t)
	r := b.report(t)
	if mount, fs := r.line("/sys"); !strings.HasPrefix(fs, "sysfs ") || !strings.HasPrefix(mount, "ro,") {
		t.Errorf("sysfs: %q %q in\n%s", mount, fs, r.Mountinfo)
	}
}

// TestCgroupMount: with and without a cgroup namespace, read-only and not.
func TestCgroupMount(t *testing.T) {
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []bool{false, true} {
		for _, option := range []string{"ro", "rw"} {
			b := newBundle(t)
			if !own {
				b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
			}
			m := &b.spec.Mounts[len(b.spec.Mounts)-1]
			m.Options = []string{"nosuid", "noexec", "nodev", option}
			r := b.report(t)
			if line, _ := r.line("/sys/fs/cgroup"); !strings.HasPrefix(line, option+",nosuid,nodev,noexec") {
				t.Errorf("own %v: /sys/fs/cgroup: %s", own, line)
			}
			for _, controllers := range hierarchies {
				path := "/sys/fs/cgroup/" + strings.TrimPrefix(strings.Join(controllers, ","), "name=")
				line, fs := r.line(path)
				if !strings.HasPrefix(line, option+",nosuid,nodev,noexec") || !strings.HasPrefix(fs, "cgroup ") {
					t.Errorf("own %v: %s: %q %q", own, path, line, fs)
				}
			}
			first := "" // v2's is at the top
			if len(hierarchies) > 0 {
				first = strings.Join(hierarchies[0], ",")
			}
			b.spec.Process.Args = []string{"probe", "cat", filepath.Join("/sys/fs/cgroup", first, "cgroup.procs")}
			if text, _ := b.output(t); text != "1\n" { // its own group, not the host's root
				t.Errorf("own %v: processes %q", own, text)
			}
		}
	}
}

// TestCgroupLinks: controllers that share a hierarchy have a link each.
func TestCgroupLinks(t *testing.T) {
	b := newBundle(t, "stat", "/etc/cpu", "/etc/cpuacct")
	x := &builder{spec: b.spec}
	x.cgroupLinks("/etc", [][]string{{"memory"}, {"cpu", "cpuacct"}})
	var links []string
	for _, s := range x.plan.Steps {
		if s.Call == unix.SYS_SYMLINKAT {
			links = append(links, s.Name)
		}
	}
	if fmt.Sprint(links) != "[link cgroup cpu link cgroup cpuacct]" {
		t.Errorf("links %q", links)
	}
}
