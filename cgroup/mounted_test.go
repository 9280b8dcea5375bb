package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountHierarchy mounts a v1 hierarchy without controllers; unmount takes it away, and looks that the kernel has forgotten
// it: one that is left behind, without a mount, would be a puzzle to other programs.
func mountHierarchy(t *testing.T) (h hierarchy, unmount func()) {
	t.Helper()
	name := fmt.Sprintf("name=gantrytest%d", time.Now().UnixNano())
	dir := filepath.Join(t.TempDir(), "later")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mountNew(dir, "none,"+name); err != nil {
		t.Fatal(err)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
					t.Error(err)
				}
			}
		}
		// The kernel forgets it a moment after the unmounting, but never if groups that were removed were not gone yet.
		for end := time.Now().Add(dying); ; {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
			for range 50 {
				text, err := os.ReadFile("/proc/self/cgroup")
				if err == nil && !strings.Contains(string(text), name) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			if time.Now().After(end) {
				t.Fatalf("hierarchy %s is left", name)
			}
			if err := mountNew(dir, "none,"+name); err != nil {
				t.Fatalf("hierarchy %s is left: %v", name, err)
			}
		}
	}
	t.Cleanup(unmount)
	return hierarchy{mount: dir, controllers: []string{name}}, unmount
}

// mountNew mounts a hierarchy that the kernel may not have. Only the machine's own cgroup namespace may do that; make test runs
// the tests in another one, and says where the machine's is.
func mountNew(dir, data string) error {
	mounted := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		mounted <- func() error {
			if path := os.Getenv("GANTRY_ISOLATE_CGROUP_NS"); path != "" {
				ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return &os.PathError{Op: "open", Path: path, Err: err}
				}
				defer unix.Close(ns)
				if err := unix.Setns(ns, unix.CLONE_NEWCGROUP); err != nil {
					return fmt.Errorf("enter the machine's cgroup namespace: %w", err)
				}
			}
			if err := unix.Mount("cgroup", dir, "cgroup", 0, data); err != nil {
				return fmt.Errorf("mount a hierarchy: %w", err)
			}
			return nil
		}()
	}()
	return <-mounted
}

// TestHierarchyComesAndGoes: a group lives on in the hierarchies that it has when another one is mounted or unmounted.
func TestHierarchyComesAndGoes(t *testing.T) {
	before, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	if before.mode() == V2 {
		t.Skip("a v1 hierarchy beside v2 alone would make the host a hybrid one")
	}
	old := testGroup(t, nil)
	tree, unmount := mountHierarchy(t)
	later := &host{v1: append(before.v1[:len(before.v1):len(before.v1)], tree), unified: before.unified}
	remember := func(h *host) {
		found.Lock()
		found.host = h
		found.Unlock()
	}
	t.Cleanup(func() { remember(before) })
	remember(later)

	reopened, err := Open(old.Path())
	if err != nil {
		t.Fatal(err)
	}
	usable(t, "mounted since", reopened, len(before.v1))
	path := fmt.Sprintf("/gantry-later-test-%d", os.Getpid())
	newer, err := Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // whatever has failed
		if err := (&Group{path: path, host: before}).Delete(); err != nil {
			t.Error(err)
		}
	})
	usable(t, "made with it", newer, len(before.v1)+1)
	unmount()
	usable(t, "unmounted since", newer, len(before.v1))
	if reopened, err = Open(path); err != nil {
		t.Fatal(err)
	}
	usable(t, "opened since", reopened, len(before.v1))
	if err := newer.Delete(); err != nil {
		t.Error(err)
	}

	for _, mountPoint := range []string{"left", "removed"} {
		if mountPoint == "removed" {
			if err := os.Remove(tree.mount); err != nil { // not empty if somebody took it for a hierarchy
				t.Error(err)
			}
		}
		remember(later)
		again, err := Create(path, nil)
		if err != nil {
			t.Fatalf("mount point %s: %v", mountPoint, err)
		}
		usable(t, "mount point "+mountPoint, again, len(before.v1))
		if err := again.Delete(); err != nil {
			t.Error(err)
		}
	}
}

// usable checks that a group lets processes in by so many hierarchies, and that it can be limited, listed and ended.
func usable(t *testing.T, when string, g *Group, hierarchies int) {
	t.Helper()
	for name, open := range map[string]func() (*Entry, error){
		"Entry":      g.Entry,
		"EntryBelow": func() (*Entry, error) { return g.EntryBelow(map[string]string{"": "/"}) },
	} {
		e, err := open()
		if err != nil {
			t.Errorf("%s: %s: %v", when, name, err)
			continue
		}
		if len(e.Tasks) != hierarchies {
			t.Errorf("%s: %s leads to %d hierarchies, want %d", when, name, len(e.Tasks), hierarchies)
		}
		e.Close()
	}
	if err := g.Set(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(9))}}); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if _, err := g.Procs(true); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if err := g.Kill(); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	cmd := outside(t)
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
