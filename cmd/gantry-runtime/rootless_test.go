package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/cgroup"
)

// An ordinary user that every Debian has, and so newuidmap(1) knows.
const gamesUID, gamesGID = 5, 60

// rootless runs a test with this runtime and with runc as a user without privileges, with a directory of the user's. The
// container runs a script, by the configuration that spec --rootless writes.
func rootless(t *testing.T, script string, f func(u under, id, dir string)) {
	rootlessAs(t, gamesUID, gamesGID, "", script, f)
}

// rootlessAs is rootless for a certain user; without a runtime directory of the user's it is the test's.
func rootlessAs(t *testing.T, uid, gid int, runtimeDir, script string, f func(u under, id, dir string)) {
	each(t, func(u under, id string) {
		dir, err := os.MkdirTemp("", "gantry-rootless-")
		if err != nil {
			u.t.Fatal(err)
		}
		u.t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if out, err := exec.Command("cp", "-a", bundle(u.t, script)+"/.", dir).CombinedOutput(); err != nil {
			u.t.Fatalf("%v: %s", err, out)
		}
		program := filepath.Join(dir, filepath.Base(u.program)) // where the user may go
		if out, err := exec.Command("cp", u.program, program).CombinedOutput(); err != nil {
			u.t.Fatalf("%v: %s", err, out)
		}
		if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%d", uid, gid), dir).CombinedOutput(); err != nil {
			u.t.Fatalf("%v: %s", err, out)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			u.t.Fatal(err)
		}
		u.program, u.root = program, filepath.Join(dir, "state")
		u.as = func(cmd *exec.Cmd) {
			cmd.Dir = dir
			cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR=" + cmp.Or(runtimeDir, dir), "HOME=" + dir}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		}
		u.t.Cleanup(func() { u.do("delete", "--force", id) })
		change(u.t, dir, func(s *specs.Spec) {
			toRootless(s)
			s.Linux.UIDMappings[0].HostID, s.Linux.GIDMappings[0].HostID = uint32(uid), uint32(gid)
		})
		f(u, id, dir)
	})
}

// settle waits until a container takes execs: runc gives up while its program executes another.
func settle(u under, id string) {
	u.t.Helper()
	var errs string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		var code int
		if code, _, errs = u.do("exec", id, "/bin/true"); code == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	u.t.Fatal("exec: ", errs)
}

// A user's container: its root is the user, it has the devices and mounts of any, and it ends with its code.
func TestRootlessRun(t *testing.T) {
	rootless(t, `id; cat /proc/self/setgroups; echo x >/dev/null; [ -c /dev/zero ] && [ -d /dev/pts ] && [ -e /sys/kernel ] && echo mounted; exit 7`, func(u under, id, dir string) {
		out, errs := u.want(7, "run", "-b", dir, id)
		if want := "uid=0 gid=0 groups=0\ndeny\nmounted\n"; out != want {
			u.t.Errorf("output %q, want %q: %s", out, want, errs)
		}
		if left, err := os.ReadDir(u.root); err == nil && len(left) > 0 {
			u.t.Errorf("left: %v", left)
		}
	})
}

func TestRootlessLifeCycle(t *testing.T) {
	rootless(t, "exec sleep 1000", func(u under, id, dir string) {
		u.want(0, "create", "-b", dir, id)
		u.state(id, specs.StateCreated)
		u.want(0, "start", id)
		settle(u, id)
		u.state(id, specs.StateRunning)
		if out, _ := u.want(3, "exec", id, "/bin/sh", "-c", "id; cat /proc/self/uid_map; cat /proc/1/cmdline; exit 3"); !strings.HasPrefix(out, "uid=0 gid=0 groups=0\n         0          5          1\n") || !strings.Contains(out, "sleep") {
			u.t.Errorf("exec: %q", out)
		}
		u.want(255, "exec", "--user", "7", id, "/bin/true")
		u.want(1, "pause", id) // there is no cgroup
		u.state(id, specs.StateRunning)
		u.want(1, "ps", id)
		u.want(1, "delete", id)
		u.want(0, "kill", id, "KILL")
		awaitState(u, id, specs.StateStopped)
		u.want(0, "delete", id)
		u.want(1, "state", id)

		u.want(0, "run", "-d", "-b", dir, id)
		pid := u.state(id, specs.StateRunning).Pid
		u.want(0, "delete", "--force", id)
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(text), "sleep") {
			u.t.Errorf("process %d goes on: %q", pid, text)
		}
	})
}

// console listens for one terminal at a socket that the user may write to.
func console(u under, dir string) (socket string, terminals <-chan *os.File) {
	u.t.Helper()
	socket = filepath.Join(dir, "console")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err == nil {
		err = os.Chmod(socket, 0o777)
	}
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { _ = listener.Close() })
	received := make(chan *os.File, 1)
	go func() {
		f, err := receiveFile(listener)
		if err != nil {
			u.t.Error(err)
		}
		received <- f
	}()
	return socket, received
}

// onTerminal is the program that talk talks to.
const onTerminal = "read line; echo heard $line; [ -t 0 ] && echo on a terminal; read line"

func talk(u under, terminal *os.File) {
	u.t.Helper()
	if terminal == nil {
		return
	}
	defer terminal.Close()
	if _, err := terminal.WriteString("words\n"); err != nil {
		u.t.Fatal(err)
	}
	if err := terminal.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		u.t.Fatal(err)
	}
	var out string
	for buf := make([]byte, 1024); !strings.Contains(out, "on a terminal"); {
		n, err := terminal.Read(buf)
		out += string(buf[:n])
		if err != nil {
			u.t.Fatalf("%q: %v", out, err)
		}
	}
	if !strings.Contains(out, "heard words") {
		u.t.Errorf("terminal: %q", out)
	}
}

func TestRootlessTerminal(t *testing.T) {
	rootless(t, "exec sleep 1000", func(u under, id, dir string) {
		socket, terminals := console(u, dir)
		u.want(0, "run", "-d", "-b", dir, id)
		settle(u, id)
		u.want(0, "exec", "-d", "--tty", "--console-socket", socket, id, "/bin/sh", "-c", onTerminal)
		talk(u, <-terminals)
	})
}

// Hooks run as the user.
func TestRootlessHooks(t *testing.T) {
	rootless(t, "true", func(u under, id, dir string) {
		log := filepath.Join(dir, "log")
		hook := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "id -u >>" + log}, Env: []string{"PATH=/bin:/usr/bin"}}}
		change(u.t, dir, func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: hook, Poststart: hook, Poststop: hook} })
		u.want(0, "run", "-b", dir, id)
		if text, err := os.ReadFile(log); err != nil || string(text) != "5\n5\n5\n" {
			u.t.Errorf("hooks: %q, %v", text, err)
		}
	})
}

// Ids that subuid(5) grants are mapped by newuidmap(1); others, and where it is not installed, are refused in words.
func TestRootlessIDs(t *testing.T) {
	const first, granted = 300000, 1000
	_, err := exec.LookPath("newuidmap")
	installed := err == nil
	rootless(t, "id", func(u under, id, dir string) {
		plain := u.as
		u.as = func(cmd *exec.Cmd) { // in a mount namespace with files of its own
			plain(cmd)
			cmd.SysProcAttr.Credential = nil
			script := fmt.Sprintf(`echo games:%d:%d >%s/sub; mount --bind %[3]s/sub /etc/subuid; mount --bind %[3]s/sub /etc/subgid
				exec setpriv --reuid %d --regid %d --clear-groups "$@"`, first, granted, dir, gamesUID, gamesGID)
			shell := exec.Command("unshare", append([]string{"-m", "sh", "-ec", script, "sh"}, cmd.Args...)...)
			cmd.Path, cmd.Args, cmd.Err = shell.Path, shell.Args, shell.Err
		}
		if !installed {
			u.as = plain
		}
		run := func(size uint32) (int, string, string) {
			change(u.t, dir, func(s *specs.Spec) {
				more := specs.LinuxIDMapping{ContainerID: 1, HostID: first, Size: size}
				s.Linux.UIDMappings, s.Linux.GIDMappings = append(s.Linux.UIDMappings[:1], more), append(s.Linux.GIDMappings[:1], more)
				s.Process.User = specs.User{UID: 100, GID: 200}
			})
			if out, err := exec.Command("chown", fmt.Sprintf("%d:%d", gamesUID, gamesGID), filepath.Join(dir, "config.json")).CombinedOutput(); err != nil {
				u.t.Fatalf("%v: %s", err, out)
			}
			return u.do("run", "-b", dir, id)
		}
		code, out, errs := run(granted)
		if !installed {
			if code == 0 || !strings.Contains(errs, "newuidmap") {
				u.t.Errorf("without newuidmap: exit code %d: %s", code, errs)
			}
			return
		}
		if code != 0 || out != "uid=100 gid=200 groups=200\n" {
			u.t.Errorf("exit code %d, output %q: %s", code, out, errs)
		}
		if code, _, errs := run(granted + 1); code == 0 || !strings.Contains(errs, "not allowed") {
			u.t.Errorf("more than is granted: exit code %d: %s", code, errs)
		}
		if left, err := os.ReadDir(u.root); err == nil && len(left) > 0 {
			u.t.Errorf("left: %v", left)
		}
	})
}

// A cgroup that is the user's limits the container; one that is not is refused, and so are limits without any.
func TestRootlessCgroup(t *testing.T) {
	mode, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	const limit = int64(64 << 20)
	rootless(t, "exec sleep 1000", func(u under, id, dir string) {
		name := delegated(&u)
		with := func(path string) {
			change(u.t, dir, func(s *specs.Spec) {
				s.Linux.CgroupsPath = path
				s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(limit)}}
			})
			if err := os.Chown(filepath.Join(dir, "config.json"), gamesUID, gamesGID); err != nil {
				u.t.Fatal(err)
			}
		}
		with("/gantry-elsewhere/" + id)
		if code, _, errs := u.do("run", "-d", "-b", dir, id); code == 0 || !strings.Contains(errs, "permission denied") {
			u.t.Errorf("in a group of root's: exit code %d: %s", code, errs)
		}
		if mode != cgroup.V2 { // there, without a path, it would be a group beside
			with("")
			if code, _, errs := u.do("run", "-d", "-b", dir, id); code == 0 || !strings.Contains(errs, "cannot set memory limit: container could not join or create cgroup") {
				u.t.Errorf("a limit without a group: exit code %d: %s", code, errs)
			}
		}
		with(name + "/" + id)
		u.want(0, "run", "-d", "-b", dir, id)
		group, err := cgroup.Open(name + "/" + id)
		if err != nil {
			u.t.Fatal(err)
		}
		if stat, err := group.Stats(); err != nil || stat.Memory.Limit != uint64(limit) {
			u.t.Errorf("statistics: %+v, %v", stat, err)
		}
		settle(u, id)
		u.want(0, "ps", id)
		u.want(0, "pause", id)
		u.state(id, "paused")
		u.want(0, "resume", id)
		u.want(0, "update", "--memory", fmt.Sprint(limit/2), id)
		u.want(0, "kill", id, "KILL")
		awaitState(u, id, specs.StateStopped)
		u.want(0, "delete", id)
		if _, err := cgroup.Open(name + "/" + id); !errors.Is(err, os.ErrNotExist) {
			u.t.Errorf("its cgroup is still there: %v", err)
		}
	})
}

// delegated makes a cgroup that is the user's, and where v2 is alone one beside it, in which the runtime is from then on: a
// process moves only between groups below one that the user has.
func delegated(u *under) (name string) {
	u.t.Helper()
	mode, err := cgroup.Detect()
	if err != nil {
		u.t.Fatal(err)
	}
	name = fmt.Sprintf("/gantry-rootless-%d", os.Getpid())
	parent, err := cgroup.Create(name, nil)
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		if err := errors.Join(parent.Kill(), parent.Delete()); err != nil {
			u.t.Error(err)
		}
	})
	for _, path := range parent.Paths() {
		if err := delegateTo(path, gamesUID); err != nil {
			u.t.Fatal(err)
		}
	}
	if mode == cgroup.V2 {
		beside := filepath.Join(parent.Paths()[""], "beside")
		if err := errors.Join(os.Mkdir(beside, 0o755), delegateTo(beside, gamesUID)); err != nil {
			u.t.Fatal(err)
		}
		fd, err := os.Open(beside)
		if err != nil {
			u.t.Fatal(err)
		}
		u.t.Cleanup(func() { _ = fd.Close() })
		plain := u.as
		u.as = func(cmd *exec.Cmd) {
			plain(cmd)
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(fd.Fd())
		}
	}
	return name
}

// delegateTo gives a cgroup to a user, as cgroups(7) describes delegation.
func delegateTo(dir string, uid int) error {
	errs := []error{os.Chown(dir, uid, -1)}
	for _, file := range []string{"tasks", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
		if err := os.Chown(filepath.Join(dir, file), uid, -1); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
