package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// hookReport is what a hook saw.
type hookReport struct {
	report
	Stdin string
}

func readHook(t *testing.T, file string) (hookReport, specs.State) {
	t.Helper()
	var r hookReport
	var s specs.State
	text, err := os.ReadFile(file)
	if err = errors.Join(err, json.Unmarshal(text, &r), json.Unmarshal([]byte(r.Stdin), &s)); err != nil {
		t.Fatalf("%s: %v: %s", file, err, text)
	}
	return r, s
}

// setHook puts a hook of a kind into the configuration.
func (b *bundle) setHook(kind string, list ...specs.Hook) {
	if b.spec.Hooks == nil {
		b.spec.Hooks = &specs.Hooks{}
	}
	h := b.spec.Hooks
	*map[string]*[]specs.Hook{
		//lint:ignore SA1019 deprecated is not gone
		"prestart": &h.Prestart, "createRuntime": &h.CreateRuntime, "createContainer": &h.CreateContainer,
		"startContainer": &h.StartContainer, "poststart": &h.Poststart, "poststop": &h.Poststop,
	}[kind] = list
}

var hookKinds = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// TestHooksSeeTheirNamespaces runs a hook of each kind: where it runs, what it gets.
func TestHooksSeeTheirNamespaces(t *testing.T) {
	b := newBundle(t, "exit", "0")
	dir := t.TempDir()
	b.spec.Annotations = map[string]string{"a": strings.Repeat("long ", 20000)} // more than a pipe holds
	b.spec.Process.User = specs.User{UID: 12, GID: 34}
	if err := os.Chmod(filepath.Join(b.dir, "rootfs/tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, kind := range hookKinds {
		path, file := probe, filepath.Join(dir, kind)
		if kind == "startContainer" {
			path, file = "/bin/probe", "/tmp/startContainer"
		}
		b.setHook(kind, specs.Hook{Path: path, Args: []string{"called " + kind, "hook", file}, Env: []string{"X=" + kind}})
	}
	b.output(t)
	for kind, want := range map[string]struct {
		inside bool
		status specs.ContainerState
		pid    string // none, host's or inside
		uid    int
	}{
		"prestart":        {false, specs.StateCreating, "host", 0},
		"createRuntime":   {false, specs.StateCreating, "host", 0},
		"createContainer": {true, specs.StateCreating, "inside", 0},
		"startContainer":  {true, specs.StateCreated, "inside", 12},
		"poststart":       {false, specs.StateRunning, "host", 0},
		"poststop":        {false, specs.StateStopped, "none", 0},
	} {
		file := filepath.Join(dir, kind)
		if kind == "startContainer" {
			file = filepath.Join(b.dir, "upper/tmp", kind)
		}
		r, s := readHook(t, file)
		if s.ID != "probe" || s.Bundle != b.dir || s.Version != specs.Version || s.Status != want.status || s.Annotations["a"] != b.spec.Annotations["a"] {
			t.Errorf("%s: state %+.80v", kind, s)
		}
		if pid := map[bool]string{s.Pid == 0: "none", s.Pid == 1: "inside", s.Pid > 1: "host"}[true]; pid != want.pid {
			t.Errorf("%s: the state's pid is %d, want %s", kind, s.Pid, want.pid)
		}
		for _, ns := range []string{"mnt", "net", "pid", "uts", "ipc"} {
			if own, err := os.Readlink("/proc/self/ns/" + ns); err != nil || (r.NS[ns] != own && r.NS[ns] != "") != want.inside && r.NS[ns] != "" {
				t.Errorf("%s: %s namespace %s, the host's is %s (%v)", kind, ns, r.NS[ns], own, err)
			}
		}
		if !slices.Equal(r.Args, []string{"called " + kind, "hook", r.Args[2]}) || !slices.Equal(r.Env, []string{"X=" + kind}) {
			t.Errorf("%s: arguments %q, environment %q", kind, r.Args, r.Env)
		}
		if r.UID != want.uid {
			t.Errorf("%s: uid %d, want %d", kind, r.UID, want.uid)
		}
		if kind == "createContainer" && (!strings.HasSuffix(r.Cwd, "/rootfs") || !strings.Contains(r.Mountinfo, r.Cwd+"/dev/shm ")) {
			t.Errorf("createContainer: in %s, mounts:\n%s", r.Cwd, r.Mountinfo)
		}
	}
}

// TestHooksInheritNothing: no host's hook gets the image's environment (CVE-2025-23266), none in the container's namespaces
// gets the runtime's. A hook without env has the runtime's, the container's, or none; one with an empty env has none.
// Another process than the creator starts and deletes the container: it has read the hooks from the state.
func TestHooksInheritNothing(t *testing.T) {
	t.Setenv("LD_PRELOAD", "/host.so")
	for _, kind := range hookKinds {
		b := newBundle(t, "exit", "0")
		b.spec.Process.Env = []string{"PATH=/bin", "LD_PRELOAD=/image.so", "HOME=/root"}
		path, file, missing := probe, filepath.Join(t.TempDir(), kind), os.Environ()
		switch kind {
		case "createContainer":
			missing = nil
		case "startContainer":
			path, file, missing = "/bin/probe", "/tmp/hook", b.spec.Process.Env
		}
		hook := func(file string, env []string) specs.Hook {
			return specs.Hook{Path: path, Args: []string{"hook", "hook", file}, Env: env}
		}
		b.setHook(kind, hook(file, nil), hook(file+"-empty", []string{}), hook(file+"-own", []string{"A=b"}))
		b.outputByOthers(t)
		if kind == "startContainer" {
			file = filepath.Join(b.dir, "upper/tmp/hook")
		}
		for suffix, want := range map[string][]string{"": missing, "-empty": nil, "-own": {"A=b"}} {
			r, _ := readHook(t, file+suffix)
			slices.Sort(r.Env)
			slices.Sort(want)
			if !slices.Equal(r.Env, want) {
				t.Errorf("%s%s: environment %q, want %q", kind, suffix, r.Env, want)
			}
		}
	}
}

// outputByOthers runs the container to its end as the command line does: start and delete know it by its state alone.
func (b *bundle) outputByOthers(t *testing.T) {
	t.Helper()
	_, p, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(*Container) error{
		func(c *Container) error { return c.Start(t.Context()) },
		func(c *Container) error {
			_, err := spawn.Reap(p.Pidfd)
			return errors.Join(err, p.Pidfd.Close(), c.Delete(t.Context(), false))
		},
	} {
		c, err := b.lib.Load("probe")
		if err == nil {
			err = step(c)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestHooksRunInTheBundle: those outside of the container do, by whomever they are run; and those of poststop run in the
// caller's directory if the bundle has gone.
func TestHooksRunInTheBundle(t *testing.T) {
	caller := t.TempDir()
	t.Chdir(caller)
	b := newBundle(t, "exit", "0")
	b.spec.Process.Cwd = "/tmp"
	dir := t.TempDir()
	for _, kind := range hookKinds {
		path, file := probe, filepath.Join(dir, kind)
		if kind == "startContainer" {
			path, file = "/bin/probe", "/tmp/startContainer"
		}
		b.setHook(kind, specs.Hook{Path: path, Args: []string{"probe", "hook", file}})
	}
	b.outputByOthers(t)
	for kind, want := range map[string]string{
		"prestart": b.dir, "createRuntime": b.dir, "createContainer": b.dir + "/rootfs", "startContainer": "/tmp", "poststart": b.dir, "poststop": b.dir,
	} {
		file := filepath.Join(dir, kind)
		if kind == "startContainer" {
			file = filepath.Join(b.dir, "upper/tmp", kind)
		}
		if r, _ := readHook(t, file); r.Cwd != want {
			t.Errorf("%s: in %s, want %s", kind, r.Cwd, want)
		}
	}

	c, p, r := b.start(t)
	defer r.Close()
	_, err := spawn.Reap(p.Pidfd)
	if err = errors.Join(err, p.Pidfd.Close(), os.Rename(b.dir+"/state", caller+"/state"), os.RemoveAll(b.dir)); err != nil {
		t.Fatal(err)
	}
	c, err = (&Runtime{Root: caller + "/state"}).Load(c.ID)
	if err == nil {
		err = c.Delete(t.Context(), false)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := readHook(t, filepath.Join(dir, "poststop")); r.Cwd != caller {
		t.Errorf("poststop without the bundle: in %s, want %s", r.Cwd, caller)
	}
}

// TestHooksMountForTheContainer: what a hook of create mounts in the bundle's root, the container has.
func TestHooksMountForTheContainer(t *testing.T) {
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("from the hook"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, rootfs := range []bool{false, true} {
		b := newBundle(t, "cat", "/tmp/file")
		b.setHook("createContainer", specs.Hook{
			Path: "/bin/mount", Args: []string{"mount", "--bind", source, filepath.Join(b.dir, "rootfs/tmp")},
		})
		if text, _ := b.output(t, func(o *CreateOptions) {
			if !rootfs {
				o.Rootfs = nil
			}
		}); text != "from the hook" {
			t.Errorf("overlay %v: %q", rootfs, text)
		}
	}
}

// TestFailingHooks: which operation fails, what it says, that poststop runs once the container has been made, and that
// nothing of the container is left then.
func TestFailingHooks(t *testing.T) {
	second := 1
	for _, c := range []struct {
		name string
		hook specs.Hook
		want string
	}{
		{"exit", specs.Hook{Path: "PROBE", Args: []string{"probe", "say", "because of this", "3"}}, "exit status 3: because of this"},
		{"timeout", specs.Hook{Path: "PROBE", Args: []string{"probe", "sleep"}, Timeout: &second}, "hook ran past its timeout of 1 s"},
		{"missing", specs.Hook{Path: "/no/such/hook"}, "no such file or directory"},
	} {
		for _, kind := range hookKinds[:5] {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				b := newBundle(t, "sleep")
				after := filepath.Join(t.TempDir(), "poststop")
				b.setHook("poststop", specs.Hook{Path: probe, Args: []string{"probe", "hook", after}})
				hook := c.hook
				if hook.Path == "PROBE" {
					hook.Path = probe
					if kind == "startContainer" {
						hook.Path = "/bin/probe"
					}
				}
				fine := hook
				fine.Args, fine.Path = []string{"probe", "exit", "0"}, map[bool]string{true: "/bin/probe", false: probe}[kind == "startContainer"]
				b.setHook(kind, fine, hook)
				want := "error running " + kind + " hook #1: "
				container, p, err := b.lib.Create(t.Context(), "bad", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
				if ofCreate := slices.Index(hookKinds, kind) < 3; ofCreate != (err != nil) {
					t.Fatalf("create: %v", err)
				}
				if err == nil {
					err = container.Start(t.Context())
					if ws, reapErr := spawn.Reap(p.Pidfd); reapErr != nil || ws.Signal() != unix.SIGKILL {
						t.Errorf("the process ended by %v (%v)", ws, reapErr)
					}
				}
				if _, loadErr := b.lib.Load("bad"); !errors.Is(loadErr, os.ErrNotExist) {
					t.Errorf("the container is left: %v", loadErr)
				}
				if _, openErr := cgroup.Open(b.spec.Linux.CgroupsPath); !errors.Is(openErr, os.ErrNotExist) {
					t.Errorf("its cgroup is left: %v", openErr)
				}
				if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v; want %q and %q", err, want, c.want)
				}
				if _, s := readHook(t, after); s.Status != specs.StateStopped || s.ID != "bad" {
					t.Errorf("poststop got %+v", s)
				}
			})
		}
	}
}

// TestFailingPoststopGoesOn: the container is deleted, and the remaining hooks run.
func TestFailingPoststopGoesOn(t *testing.T) {
	b := newBundle(t, "exit", "0")
	after := filepath.Join(t.TempDir(), "poststop")
	b.setHook("poststop", specs.Hook{Path: "/bin/false"}, specs.Hook{Path: probe, Args: []string{"probe", "hook", after}})
	b.output(t)
	readHook(t, after)
}

// TestHooksAreValidated names the field at fault.
func TestHooksAreValidated(t *testing.T) {
	for _, kind := range hookKinds {
		for field, hook := range map[string]specs.Hook{"path": {Path: "bin/true"}, "timeout": {Path: "/bin/true", Timeout: new(int)}} {
			b := newBundle(t)
			b.setHook(kind, specs.Hook{Path: "/bin/true"}, hook)
			want := fmt.Sprintf("hooks.%s[1].%s", kind, field)
			if _, _, err := b.lib.Create(t.Context(), "bad", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
	}
}

// TestHookLeavesAChild: what a hook leaves running, with its output open, holds nobody up.
func TestHookLeavesAChild(t *testing.T) {
	b := newBundle(t, "exit", "0")
	pidFile := filepath.Join(t.TempDir(), "pid")
	b.setHook("createRuntime", specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "/bin/sleep 60 & echo $! > " + pidFile}})
	b.output(t)
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}
