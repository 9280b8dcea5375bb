package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// TestCreateAndDeleteOfOneID: many make and delete containers of one id. Who got one has it until it is deleted, and a
// handle on one that is gone never touches its successor.
func TestCreateAndDeleteOfOneID(t *testing.T) {
	root := filepath.Join(t.TempDir(), "state")
	var all sync.WaitGroup
	for range 4 {
		b := newBundle(t)
		b.lib.Root = root
		all.Go(func() {
			var stale *Container
			for made := 0; made < 8; {
				if err := os.RemoveAll(filepath.Join(b.dir, "work/work")); err != nil {
					t.Error(err)
					return
				}
				c, p, err := b.lib.Create(t.Context(), "one", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
				if stale != nil {
					if err := errors.Join(stale.Delete(t.Context(), true), ignoreGone(stale.Kill(unix.SIGKILL, true))); err != nil {
						t.Errorf("a handle on one that is gone: %v", err)
					}
				}
				if errors.Is(err, os.ErrExist) {
					continue
				}
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				made++
				if s, err := c.State(); err != nil || s.Status != specs.StateCreated || s.Pid != p.Pid {
					t.Errorf("ours is %+v (%v)", s, err)
				}
				if again, err := b.lib.Load("one"); err != nil {
					t.Errorf("ours is not there: %v", err)
				} else if s, err := again.State(); err != nil || s.Pid != p.Pid {
					t.Errorf("there is %+v, ours is of pid %d (%v)", s, p.Pid, err)
				}
				b.end(t, c, p)
				stale = c
			}
		})
	}
	all.Wait()
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left: %v (%v)", left, err)
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, ErrNotRunning) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// TestDeleteWhileCreating: what is being made is not deleted under its maker's hands, and its state says so.
func TestDeleteWhileCreating(t *testing.T) {
	b := newBundle(t)
	begun, goOn := filepath.Join(t.TempDir(), "begun"), filepath.Join(t.TempDir(), "go")
	if err := errors.Join(unix.Mkfifo(begun, 0o600), unix.Mkfifo(goOn, 0o600)); err != nil {
		t.Fatal(err)
	}
	b.setHook("createRuntime", specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "echo >" + begun + "; read x <" + goOn}})
	type result struct {
		c   *Container
		p   *Process
		err error
	}
	made := make(chan result)
	go func() {
		c, p, err := b.lib.Create(t.Context(), "slow", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
		made <- result{c, p, err}
	}()
	if _, err := os.ReadFile(begun); err != nil {
		t.Fatal(err)
	}
	c, err := b.lib.Load("slow")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.State(); err != nil || s.Status != specs.StateCreating {
		t.Errorf("state %+v (%v)", s, err)
	}
	if err := c.Delete(t.Context(), true); err == nil || !strings.Contains(err.Error(), "being created") {
		t.Errorf("delete: %v", err)
	}
	if err := os.WriteFile(goOn, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	b.end(t, c, r.p)
}

// TestExecWhileExecuting: a program whose threads call execve is another thread's for a moment, and its namespaces are
// those of none; exec works all the same.
func TestExecWhileExecuting(t *testing.T) {
	b := newBundle(t, "again", "1000000")
	c, p, r := b.start(t)
	defer r.Close()
	defer b.end(t, c, p)
	for range 100 {
		if text, status, err := b.exec(t, c, func(p *specs.Process) { p.Args = []string{"probe", "say", "x", "0"} }); err != nil || status != 0 || text != "x\n" {
			t.Fatalf("%q, status %v: %v", text, status, err)
		}
	}
}

// TestExecBesideTheFirstThread: while a thread calls execve, the first one has ended and the others have not, on a slow
// machine for long. Here it stays so: exec works, and a container joins the namespaces by the process's number.
func TestExecBesideTheFirstThread(t *testing.T) {
	for name, change := range map[string]func(*bundle){
		"host's users": func(*bundle) {},
		"own users":    mapped(t),
		"host's mounts": func(b *bundle) {
			b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace })
			b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths, b.spec.Mounts = nil, nil, b.spec.Mounts[:1]
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, "hollow")
			change(b)
			if b.spec.Linux.MaskedPaths == nil {
				defer unmountAll(t, filepath.Join(b.dir, "rootfs"))
			}
			c, p, r := b.start(t)
			defer r.Close()
			defer b.end(t, c, p)
			if _, err := r.Read(make([]byte, len("ready\n"))); err != nil {
				t.Fatal(err)
			}
			for { // until the first thread has ended
				if _, state, err := processStat(p.Pid); err != nil {
					t.Fatal(err)
				} else if state == 'Z' {
					break
				}
			}
			text, status, err := b.exec(t, c, func(*specs.Process) {})
			var got report
			if err = errors.Join(err, json.Unmarshal([]byte(text), &got)); err != nil || status != 0 {
				t.Fatalf("status %v: %v: %s", status, err, text)
			}
			if got.Pid == 1 || !slices.Contains(got.Env, "HOME=/root") || got.Hostname != "probe" {
				t.Errorf("pid %d, host name %s, environment %q", got.Pid, got.Hostname, got.Env)
			}
			for _, n := range b.spec.Linux.Namespaces {
				kind := nsNames[n.Type]
				if own, err := os.Readlink(filepath.Join(threadOf(p.Pid), "ns", kind)); err != nil || own != got.NS[kind] {
					t.Errorf("%s namespace %s, the container's is %s (%v)", kind, got.NS[kind], own, err)
				}
			}
			second := sharing(t, p, change, specs.NetworkNamespace, specs.PIDNamespace)
			if b.spec.Linux.MaskedPaths == nil {
				defer unmountAll(t, filepath.Join(second.dir, "rootfs"))
			}
			second.spec.Process.Args = []string{"probe"}
			if seen := second.report(t); seen.NS["net"] != got.NS["net"] || seen.NS["pid"] != got.NS["pid"] {
				t.Errorf("a second container's namespaces are %v, want %v", seen.NS, got.NS)
			}
		})
	}
}

func unmountAll(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Errorf("unmount %s: %v", dir, err)
	}
}

// TestThreads: what is looked for in which thread's directory.
func TestThreads(t *testing.T) {
	own := fmt.Sprintf("/proc/%d", os.Getpid())
	for path, want := range map[string]string{
		own + "/ns/net": own + "/ns/net", "/proc/self/ns/net": "/proc/self/ns/net", own + "/task/1/ns/net": own + "/task/1/ns/net", "/run/ns/x": "/run/ns/x",
		"/proc/0123/ns/net": "/proc/0123/ns/net", "/proc/4194305/ns/net": "/proc/4194305/ns/net", "/proc/": "/proc/", "": "",
	} {
		if got := inThread(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

// TestExecInOneThatEnds says so, whatever it meets.
func TestExecInOneThatEnds(t *testing.T) {
	for range 4 {
		b := newBundle(t, "sleep")
		c, p, r := b.start(t)
		killed := make(chan error)
		go func() { killed <- c.Kill(unix.SIGKILL, false) }()
		for {
			if _, _, err := b.exec(t, c, func(p *specs.Process) { p.Args = []string{"probe", "exit", "0"} }); err != nil {
				if !errors.Is(err, ErrNotRunning) {
					t.Errorf("exec: %v", err)
				}
				break
			}
		}
		if err := errors.Join(<-killed, r.Close()); err != nil {
			t.Error(err)
		}
		b.end(t, c, p)
	}
}

// TestNobodyLooksIn: a container's root looks for processes that are on their way into its namespaces, by exec and by
// sharing the pid namespace: it reaches neither their program nor their files (CVE-2016-9962).
func TestNobodyLooksIn(t *testing.T) {
	for name, change := range map[string]func(*bundle){
		"same user namespace": func(*bundle) {},
		"user namespace": func(b *bundle) {
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			b.spec.Linux.GIDMappings = b.spec.Linux.UIDMappings
			b.ownedBy(t, 100000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t, "spy")
			change(b)
			caps := Capabilities()
			b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
			if name == "same user namespace" { // with CAP_SYS_PTRACE over the host's it may
				caps = []string{"CAP_CHOWN", "CAP_KILL"}
				b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
			}
			c, p, r := b.start(t)
			t.Cleanup(func() {
				if err := errors.Join(c.Delete(context.Background(), true), r.Close()); err != nil {
					t.Error(err)
				}
			})
			var sharing sync.WaitGroup
			sharing.Go(func() {
				for range 20 {
					second := newBundle(t)
					change(second)
					second.spec.Process.Capabilities = b.spec.Process.Capabilities
					second.spec.Linux.CgroupsPath += "-second"
					for i := range second.spec.Linux.Namespaces {
						if n := &second.spec.Linux.Namespaces[i]; n.Type == specs.PIDNamespace || n.Type == specs.UserNamespace {
							n.Path = fmt.Sprintf("/proc/%d/ns/%s", p.Pid, n.Type)
						}
					}
					second.spec.Linux.UIDMappings, second.spec.Linux.GIDMappings = nil, nil
					x, xp, err := second.lib.Create(t.Context(), "second", CreateOptions{Bundle: second.dir, Spec: second.spec, Rootfs: second.overlay()})
					if err != nil {
						t.Error(err)
						return
					}
					second.end(t, x, xp)
				}
			})
			for range 150 {
				if text, status, err := b.exec(t, c, func(p *specs.Process) { p.Args = []string{"/nothing"} }); err == nil {
					t.Fatalf("%q, status %v", text, status)
				}
			}
			sharing.Wait()
			if err := c.Kill(unix.SIGTERM, false); err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if _, err := text.ReadFrom(r); err != nil {
				t.Fatal(err)
			}
			if _, err := spawn.Reap(p.Pidfd); err != nil {
				t.Error(err)
			}
			if !strings.Contains(text.String(), "looked at others: ") || strings.Contains(text.String(), "looked at others: 0\n") || strings.Contains(text.String(), "REACHED") {
				t.Errorf("the spy says %.2000q", text.String())
			}
		})
	}
}

// ownedBy gives the root file system to a user.
func (b *bundle) ownedBy(t testing.TB, uid int) {
	t.Helper()
	if err := filepath.WalkDir(b.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/state") || strings.HasSuffix(path, "/bin/probe") {
			return err
		}
		return os.Lchown(path, uid, uid)
	}); err != nil {
		t.Fatal(err)
	}
}
