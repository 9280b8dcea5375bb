package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/cgroup"
)

// configure changes a configuration, which stays the user's.
func configure(u under, dir string, f func(*specs.Spec)) {
	u.t.Helper()
	change(u.t, dir, f)
	if err := os.Chown(filepath.Join(dir, "config.json"), gamesUID, gamesGID); err != nil {
		u.t.Fatal(err)
	}
}

// A user's created container is within reach: exec and startContainer hooks enter it before its program begins.
func TestRootlessCreated(t *testing.T) {
	rootless(t, "cat /hook; exec sleep 1000", func(u under, id, dir string) {
		configure(u, dir, func(s *specs.Spec) {
			s.Root.Readonly = false
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "id >/hook"}}}}
		})
		u.want(0, "create", "-b", dir, id)
		if out, _ := u.want(4, "exec", id, "/bin/sh", "-c", "id; exit 4"); out != "uid=0 gid=0 groups=0\n" {
			u.t.Errorf("exec: %q", out)
		}
		u.state(id, specs.StateCreated)
		u.want(0, "start", id)
		u.state(id, specs.StateRunning)
		if text, err := os.ReadFile(filepath.Join(dir, "rootfs", "hook")); err != nil || string(text) != "uid=0 gid=0 groups=0\n" {
			u.t.Errorf("the hook: %q, %v", text, err)
		}
	})
}

// The link to the container's own ptmx is not covered by the host's, also if that is asked for.
func TestRootlessPtmx(t *testing.T) {
	rootless(t, "[ -h /dev/ptmx ] && echo link", func(u under, id, dir string) {
		configure(u, dir, func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/ptmx", Type: "c", Major: 5, Minor: 2}}
		})
		if out, errs := u.want(0, "run", "-b", dir, id); out != "link\n" {
			u.t.Errorf("output %q: %s", out, errs)
		}
	})
}

// The error of a program that cannot be executed stands alone, also where no cgroup shows that its process has ended.
func TestRootlessNotExecuted(t *testing.T) {
	rootless(t, "", func(u under, id, dir string) {
		if err := os.WriteFile(filepath.Join(dir, "rootfs", "script"), []byte("#!/no/interpreter\n"), 0o755); err != nil {
			u.t.Fatal(err)
		}
		configure(u, dir, func(s *specs.Spec) { s.Process.Args = []string{"/script"} })
		if _, errs := u.want(1, "run", "-b", dir, id); errs != "exec /script: no such file or directory\n" {
			u.t.Errorf("said %q", errs)
		}
	})
}

// The listener of a filter reaches the agent, of the container's process and of its hooks.
func TestRootlessNotify(t *testing.T) {
	rootless(t, "true", func(u under, id, dir string) {
		socket := filepath.Join(dir, "agent")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err == nil {
			err = errors.Join(os.Chmod(socket, 0o777), listener.SetDeadline(time.Now().Add(20*time.Second)))
		}
		if err != nil {
			u.t.Fatal(err)
		}
		defer listener.Close()
		listeners := 2
		if filepath.Base(u.program) == "runc" {
			listeners = 1 // its hooks are below the process that has the filter
		}
		got := make(chan string, listeners)
		go func() {
			for range cap(got) {
				f, err := receiveFile(listener)
				if err != nil {
					got <- err.Error()
					continue
				}
				what, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
				_ = f.Close()
				got <- what
			}
		}()
		configure(u, dir, func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/true"}}}
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64}, ListenerPath: socket,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"settimeofday"}, Action: specs.ActNotify}},
			}
		})
		u.want(0, "run", "-b", dir, id)
		for range cap(got) {
			if what := <-got; !strings.Contains(what, "seccomp notify") {
				u.t.Errorf("the agent got %s", what)
			}
		}
	})
}

// A limit of one process holds for the container's, not for those that make it.
func TestRootlessOneProcess(t *testing.T) {
	rootless(t, "exec sleep 1000", func(u under, id, dir string) {
		name := delegated(&u)
		configure(u, dir, func(s *specs.Spec) {
			s.Linux.CgroupsPath = name + "/" + id
			s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(1))}}
		})
		u.want(0, "run", "-d", "-b", dir, id)
		group, err := cgroup.Open(name + "/" + id)
		if err != nil {
			u.t.Fatal(err)
		}
		if stat, err := group.Stats(); err != nil || stat.Pids.Limit != 1 {
			u.t.Errorf("statistics: %+v, %v", stat, err)
		}
		u.want(0, "delete", "--force", id)
	})
}

// A container in the user namespace of another one, by its path.
func TestRootlessJoinsUserNamespace(t *testing.T) {
	rootless(t, "exec sleep 1000", func(u under, id, dir string) {
		if filepath.Base(u.program) == "runc" {
			return // wanted maps beside the path until 1.2
		}
		u.want(0, "run", "-d", "-b", dir, id)
		first := u.state(id, specs.StateRunning).Pid
		space := func(pid string) string {
			link, err := os.Readlink("/proc/" + pid + "/ns/user")
			if err != nil {
				u.t.Error(err)
			}
			return link
		}
		configure(u, dir, func(s *specs.Spec) {
			join(s, specs.UserNamespace, "/proc/"+strconv.Itoa(first)+"/ns/user")
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
		})
		u.t.Cleanup(func() { u.do("delete", "--force", id+"-2") })
		u.want(0, "run", "-d", "-b", dir, id+"-2")
		second := u.state(id+"-2", specs.StateRunning).Pid
		if a, b := space(strconv.Itoa(first)), space(strconv.Itoa(second)); a != b {
			u.t.Errorf("user namespaces %s and %s", a, b)
		}
		settle(u, id+"-2")
		if out, _ := u.want(0, "exec", id+"-2", "/bin/id"); out != "uid=0 gid=0 groups=0\n" {
			u.t.Errorf("exec: %q", out)
		}
		u.want(0, "delete", "--force", id+"-2")
	})
}

// A container in all namespaces of another one but its mounts, its processes among them: it sees them, is killed alone,
// and leaves the other one going on.
func TestRootlessJoinsPIDNamespace(t *testing.T) {
	rootless(t, "exec sleep 1000", func(u under, id, dir string) {
		u.want(0, "run", "-d", "-b", dir, id)
		first := u.state(id, specs.StateRunning).Pid
		configure(u, dir, func(s *specs.Spec) {
			for kind, file := range map[specs.LinuxNamespaceType]string{
				specs.UserNamespace: "user", specs.PIDNamespace: "pid", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
			} {
				join(s, kind, fmt.Sprintf("/proc/%d/ns/%s", first, file))
			}
			s.Hostname = ""
		})
		u.t.Cleanup(func() { u.do("delete", "--force", id+"-2") })
		u.want(0, "run", "-d", "-b", dir, id+"-2")
		second := u.state(id+"-2", specs.StateRunning).Pid
		a, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
		if err != nil {
			u.t.Fatal(err)
		}
		if b, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", second)); err != nil || a != b {
			u.t.Errorf("pid namespaces %s and %s, %v", a, b, err)
		}
		settle(u, id+"-2")
		if out, _ := u.want(0, "exec", id+"-2", "/bin/sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; id"); out != "sleep 1000 uid=0 gid=0 groups=0\n" {
			u.t.Errorf("exec: %q", out)
		}
		u.want(0, "kill", id+"-2", "KILL")
		awaitState(u, id+"-2", specs.StateStopped)
		u.want(0, "delete", id+"-2")

		configure(u, dir, func(s *specs.Spec) { s.Process.Terminal, s.Process.Args = true, []string{"/bin/sh", "-c", onTerminal} })
		socket, terminals := console(u, dir)
		u.want(0, "run", "-d", "-b", dir, "--console-socket", socket, id+"-2")
		talk(u, <-terminals)
		u.want(0, "delete", "--force", id+"-2")
		u.state(id, specs.StateRunning)
	})
}
