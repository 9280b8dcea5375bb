package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
)

// TestWorkingDirectoryOfAReadOnlyRoot: it is made before the root, and what is mounted, become read-only.
func TestWorkingDirectoryOfAReadOnlyRoot(t *testing.T) {
	for cwd, change := range map[string]func(*specs.Spec){
		"/made/for/me": func(*specs.Spec) {},
		"/ro/in/tmpfs": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/ro", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro"}})
		},
		"/protected/x": func(s *specs.Spec) { s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/protected") },
	} {
		each(t, func(u under, id string) {
			dir := bundle(u.t, `pwd; : >file && echo written`)
			edit(u.t, dir, func(s *specs.Spec) {
				s.Root.Readonly, s.Process.Cwd = true, cwd
				change(s)
			})
			if out, _ := u.want(1, "run", "-b", dir, id); out != cwd+"\n" {
				u.t.Errorf("%s: %q", cwd, out)
			}
		})
	}
}

// TestNoStateWhileCreating: for the hooks of create, and for everybody else meanwhile, the container does not exist yet.
func TestNoStateWhileCreating(t *testing.T) {
	each(t, func(u under, id string) {
		dir := bundle(u.t, "exec sleep 1000")
		for _, command := range []string{"state", "kill", "start", "ps", "pause", "events --stats"} {
			said := filepath.Join(u.t.TempDir(), "said")
			edit(u.t, dir, func(s *specs.Spec) {
				runtime := u.program + " --root " + u.root
				script := fmt.Sprintf("{ %s %s %s; echo exit $?; %[1]s list -q; } >%[4]s 2>&1", runtime, command, id, said)
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}}
			})
			u.want(0, "create", "-b", dir, id)
			u.state(id, specs.StateCreated)
			u.want(0, "delete", "--force", id)
			text, err := os.ReadFile(said)
			if err != nil || !strings.Contains(string(text), "does not exist") || !strings.Contains(string(text), "exit 1\n") || strings.Contains(string(text), "\n"+id+"\n") {
				u.t.Errorf("%s: %q, %v", command, text, err)
			}
		}
	})
}

// closesOnExec reports whether a process has a descriptor that goes with its execve.
func closesOnExec(t *testing.T, pid, fd int) bool {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return false
	}
	_, flags, _ := strings.Cut(string(text), "flags:")
	value, err := strconv.ParseUint(strings.Fields(flags)[0], 8, 64)
	if err != nil {
		t.Fatal(err)
	}
	return value&unix.O_CLOEXEC != 0
}

// TestPreservedGaps: a number that the caller has left out is left out in the container. (runc passes on what it has
// opened itself in between.)
func TestPreservedGaps(t *testing.T) {
	var files []*os.File
	for _, name := range []string{"a", "b"} {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	u, id := own(t)
	with := u
	with.as = func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{nil, files[0], nil, files[1]} } // 4 and 6
	with.want(0, "create", "--preserve-fds", "4", "-b", bundle(t, "exec sleep 1000"), id)
	check := func(pid int) {
		t.Helper()
		for fd, want := range map[int]string{3: "", 4: files[0].Name(), 5: "", 6: files[1].Name()} {
			if want == "" && closesOnExec(t, pid, fd) {
				continue // one of the runtime's own steps has it until then
			}
			if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); got != want {
				t.Errorf("descriptor %d is %q, want %q", fd, got, want)
			}
		}
	}
	check(u.state(id, specs.StateCreated).Pid)
	u.want(0, "start", id)

	script := `test -e /proc/$$/fd/6 && read line </proc/$$/fd/4; echo "$line"`
	if _, err := files[0].WriteString("from the caller\n"); err != nil {
		t.Fatal(err)
	}
	if out, _ := with.want(0, "exec", "--preserve-fds", "4", id, "/bin/sh", "-c", script); out != "from the caller\n" {
		t.Errorf("exec: %q", out)
	}
	with.want(255, "exec", "--preserve-fds", "5", id, "/bin/true")
	with.want(255, "exec", "--preserve-fds", "1000000000", id, "/bin/true")
}

// TestRealtimeWithoutAPath: v1 gives a group no more realtime than its parent has, and only the root has any at first.
func TestRealtimeWithoutAPath(t *testing.T) {
	paths, err := cgroup.Paths("/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(paths["cpu"], "cpu.rt_runtime_us")); paths["cpu"] == "" || err != nil {
		t.Skipf("this kernel limits no realtime scheduling by cgroup v1: %v", err)
	}
	each(t, func(u under, id string) {
		dir := bundle(u.t, "exec sleep 1000")
		edit(u.t, dir, func(s *specs.Spec) {
			runtime, period := int64(10000), uint64(1000000)
			s.Linux.CgroupsPath, s.Linux.Resources.CPU = "", &specs.LinuxCPU{RealtimeRuntime: &runtime, RealtimePeriod: &period}
		})
		u.want(0, "run", "-d", "-b", dir, id)
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", u.state(id, specs.StateRunning).Pid))
		for line := range strings.Lines(string(text)) {
			parts := strings.Split(strings.TrimSpace(line), ":")
			if len(parts) != 3 || parts[1] != "cpu" {
				continue
			}
			text, err = os.ReadFile(filepath.Join(paths["cpu"], parts[2], "cpu.rt_runtime_us"))
			if strings.TrimSpace(string(text)) != "10000" {
				u.t.Errorf("%s: realtime %q, %v", parts[2], text, err)
			}
			return
		}
		u.t.Errorf("the container is in no cpu cgroup: %q, %v", text, err)
	})
}

// TestStandardStreamsBelongToTheUser: they get its uid and keep their group. The null device stays root's.
func TestStandardStreamsBelongToTheUser(t *testing.T) {
	for _, uid := range []uint32{0, 12} {
		each(t, func(u under, id string) {
			dir := bundle(u.t, "exec sleep 1000")
			edit(u.t, dir, func(s *specs.Spec) { s.Process.User = specs.User{UID: uid, GID: 34} })
			var files [3]*os.File
			for i := range files {
				f, err := os.Create(filepath.Join(u.t.TempDir(), "stream"))
				if err == nil {
					err = f.Chown(7, 8)
				}
				if err != nil {
					u.t.Fatal(err)
				}
				defer f.Close()
				files[i] = f
			}
			cmd := exec.Command(u.program, "--root", u.root, "create", "-b", dir, id)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
			if err := cmd.Run(); err != nil {
				u.t.Fatal(err)
			}
			for i, f := range files {
				var is unix.Stat_t
				if err := unix.Fstat(int(f.Fd()), &is); err != nil || is.Uid != uid || is.Gid != 8 {
					u.t.Errorf("user %d: stream %d is %d:%d's, %v", uid, i, is.Uid, is.Gid, err)
				}
			}
		})
	}
}

// TestListenerWithoutNotify: an agent is asked only where a rule has SCMP_ACT_NOTIFY, as the specification says. This
// runtime warns of the path that is not used.
func TestListenerWithoutNotify(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, path := range []string{socket, "/nonexistent/agent"} {
		each(t, func(u under, id string) {
			dir := bundle(u.t, "exit 0")
			edit(u.t, dir, func(s *specs.Spec) {
				s.Linux.Seccomp = &specs.LinuxSeccomp{
					DefaultAction: specs.ActAllow, ListenerPath: path,
					Syscalls: []specs.LinuxSyscall{{Names: []string{"personality"}, Action: specs.ActErrno}},
				}
			})
			_, errs := u.want(0, "run", "-b", dir, id)
			if filepath.Base(u.program) == "gantry-runtime" && !strings.Contains(errs, "listenerPath is not used") {
				u.t.Errorf("it says %q", errs)
			}
		})
	}
	if err := listener.SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if conn, err := listener.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the agent was asked: %v, %v", conn, err)
	}
}

// TestDevicesThatTheHostLacks: a user namespace gets the host's device of the same name; where that is missing, or another
// one, the host's root makes it. (runc fails.)
func TestDevicesThatTheHostLacks(t *testing.T) {
	script := `for d in null own other owned; do test -c /dev/$d || echo $d is missing; done
		: </dev/own && echo opened; cat /proc/self/status >/dev/other 2>/dev/null || echo not written; read line </dev/owned; echo "$?"; id -u; cat /proc/self/mountinfo >&2`
	dir := bundle(t, script)
	edit(t, dir, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
		mode, uid := os.FileMode(0o600), uint32(12)
		device := func(path string, minor int64) specs.LinuxDevice {
			return specs.LinuxDevice{Path: path, Type: "c", Major: 1, Minor: minor}
		}
		owned := device("/dev/owned", 3)
		owned.FileMode, owned.UID = &mode, &uid
		s.Linux.Devices = []specs.LinuxDevice{device("/dev/own", 3), device("/dev/other", 7), owned}
		s.Process.User = specs.User{UID: uid}
		s.Root.Readonly = false
	})
	if err := os.Chown(filepath.Join(dir, "rootfs"), 100000, 100000); err != nil { // for mount points
		t.Fatal(err)
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	u, id := own(t)
	out, errs := u.want(0, "run", "-b", dir, id)
	if want := "opened\nnot written\n1\n12\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	for _, path := range []string{"/dev/own", "/dev/other", "/dev/owned"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("the host has got %s", path)
		}
		if !strings.Contains(errs, " "+path+" ") {
			t.Errorf("%s is no mount of the container", path)
		}
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if n := strings.Count(string(before), " /device "); err != nil || strings.Count(string(after), " /device ") != n {
		t.Errorf("the host's mounts have changed from %s to %s", strconv.Quote(string(before)), strconv.Quote(string(after)))
	}
}
