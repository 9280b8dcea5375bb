package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What a user may not, or cannot mean, is refused in words that name the field and what was attempted, and leaves nothing.
func TestRootlessRefused(t *testing.T) {
	more := func(list *[]specs.LinuxIDMapping, container, host, size uint32) {
		*list = append(*list, specs.LinuxIDMapping{ContainerID: container, HostID: host, Size: size})
	}
	who := func(grants string) string { // the helpers' package may be missing
		if _, err := exec.LookPath("newuidmap"); err != nil {
			return "not installed"
		}
		return grants
	}
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   []string
	}{
		"ids overlap inside":  {func(s *specs.Spec) { more(&s.Linux.UIDMappings, 0, 300000, 10) }, []string{"linux.uidMappings[0] and [1] overlap", "containerID 0"}},
		"ids overlap outside": {func(s *specs.Spec) { more(&s.Linux.GIDMappings, 1, gamesGID, 1) }, []string{"linux.gidMappings[0] and [1] overlap", "hostID 60"}},
		"a range of none":     {func(s *specs.Spec) { more(&s.Linux.UIDMappings, 1, 300000, 0) }, []string{"linux.uidMappings[1].size"}},
		"beyond the last id":  {func(s *specs.Spec) { more(&s.Linux.GIDMappings, 1, 4294967290, 10) }, []string{"linux.gidMappings[1]", "beyond the last id"}},
		"another's users":     {func(s *specs.Spec) { s.Linux.UIDMappings[0].HostID = 0 }, []string{"linux.uidMappings", "newuidmap", who("/etc/subuid")}},
		"another's groups":    {func(s *specs.Spec) { s.Linux.GIDMappings[0].HostID = 0 }, []string{"linux.gidMappings", "newgidmap", who("/etc/subgid")}},
		"no root":             {func(s *specs.Spec) { s.Linux.UIDMappings[0].ContainerID = 1 }, []string{"linux.uidMappings", "containerID 0"}},
		"no user namespace": {func(s *specs.Spec) {
			s.Linux.UIDMappings, s.Linux.GIDMappings, s.Hostname = nil, nil, ""
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
		}, []string{"linux.namespaces", "user namespace"}},
		"a user without a map":  {func(s *specs.Spec) { s.Process.User.UID = 7 }, []string{"process.user.uid 7", "linux.uidMappings"}},
		"a group without a map": {func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{7} }, []string{"process.user.additionalGids", "7", "linux.gidMappings"}},
		"a cgroup of root's":    {func(s *specs.Spec) { s.Linux.CgroupsPath = "/gantry-elsewhere/x" }, []string{"linux.cgroupsPath", "/gantry-elsewhere/x", "not delegated", "permission denied"}},
		"a device that is not there": {func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/gantry", Type: "c", Major: 10, Minor: 229}}
		}, []string{"linux.devices", "/dev/gantry", "no such file"}},
		"another device": {func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 5}}
		}, []string{"linux.devices", "/dev/null", "1:5"}},
		"the host's sysctl": {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.pid_max": "1000"} }, []string{"linux.sysctl", "kernel.pid_max"}},
		"a disk's file system": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Type: "ext4", Source: "/dev/null"})
		}, []string{"mounts[", "mount ext4 on /m", "operation not permitted"}},
		"a closed source": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Type: "bind", Source: "/root/gantry", Options: []string{"bind"}})
		}, []string{"mounts[", "/root/gantry", "permission denied"}},
		"a lower score": {func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(-500) }, []string{"process.oomScoreAdj", "-500", "permission denied"}},
		"a higher limit": {func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: 1 << 40, Soft: 1 << 40}, {Type: "RLIMIT_NOFILE", Hard: 1 << 29, Soft: 1 << 29}}
		}, []string{"process.rlimits", "RLIMIT_NOFILE", "operation not permitted"}},
		"real time":     {func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 10} }, []string{"process.scheduler", "SCHED_FIFO", "operation not permitted"}},
		"a closed root": {func(s *specs.Spec) { s.Root.Path = "/root/gantry" }, []string{"root.path", "/root/gantry", "permission denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			ofUser(t, func(u under, id, dir string) {
				configure(u, dir, c.change)
				refused(u, id, c.want, "run", "-b", dir, id)
			})
		})
	}
}

// Directories that are not the user's.
func TestRootlessRefusedDirectories(t *testing.T) {
	ofUser(t, func(u under, id, dir string) {
		closed := filepath.Join(dir, "closed")
		if err := os.Mkdir(closed, 0o700); err != nil { // root's
			u.t.Fatal(err)
		}
		refused(u, id, []string{"read bundle", closed, "permission denied"}, "run", "-b", closed, id)
		configure(u, dir, func(s *specs.Spec) { s.Root.Path = filepath.Join(closed, "rootfs") })
		refused(u, id, []string{"root.path", closed, "permission denied"}, "run", "-b", dir, id)
		for _, root := range []string{filepath.Join(closed, "state"), "/proc/gantry"} {
			w := u
			w.root = root
			if code, _, errs := w.do("run", "-b", dir, id); code != 1 || !strings.Contains(errs, "make the state directory: mkdir "+filepath.Dir(root)) {
				u.t.Errorf("--root %s: exit code %d: %s", root, code, errs)
			}
		}
		for _, runtimeDir := range []string{filepath.Join(closed, "run"), filepath.Join(dir, "config.json")} {
			cmd := exec.Command(u.program, "run", "-b", dir, id)
			u.as(cmd)
			cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+runtimeDir)
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "make the state directory: mkdir "+filepath.Dir(runtimeDir)) {
				u.t.Errorf("XDG_RUNTIME_DIR=%s: %v: %s", runtimeDir, err, out)
			}
		}
		nothingOf(u, id)
	})
}

// ofUser is rootless for this runtime alone: its words are looked at.
func ofUser(t *testing.T, f func(u under, id, dir string)) {
	rootless(t, "true", func(u under, id, dir string) {
		if filepath.Base(u.program) != "runc" {
			f(u, id, dir)
		}
	})
}

func refused(u under, id string, want []string, args ...string) {
	u.t.Helper()
	code, out, errs := u.do(args...)
	if code != 1 || out != "" {
		u.t.Errorf("exit code %d, printed %q", code, out)
	}
	for _, words := range want {
		if !strings.Contains(errs, words) {
			u.t.Errorf("no %q in: %s", words, errs)
		}
	}
	nothingOf(u, id)
}

// nothingOf checks that no state, cgroup, mount or process of a container is left.
func nothingOf(u under, id string) {
	u.t.Helper()
	if left, err := os.ReadDir(u.root); err == nil && len(left) > 0 {
		u.t.Errorf("left in the state directory: %v", left)
	}
	if left := cgroupsOf(u.t, id); len(left) > 0 {
		u.t.Errorf("left of cgroups: %v", left)
	}
	if dirs, err := filepath.Glob("/sys/fs/cgroup/*/gantry-elsewhere"); err != nil || len(dirs) > 0 {
		u.t.Errorf("left of cgroups: %v, %v", dirs, err)
	}
	if dir := filepath.Dir(u.root); strings.Contains(mountsOf(u.t), dir) {
		u.t.Errorf("mounts in %s are left", dir)
	}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		u.t.Fatal(err)
	}
	for _, file := range all {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), id) {
			u.t.Errorf("left: %s: %q", file, text)
		}
	}
}
