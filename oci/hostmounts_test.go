package oci

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// withoutMountNamespace is a bundle for a container in this program's mount namespace. What it leaves there is unmounted.
func withoutMountNamespace(t *testing.T, args ...string) *bundle {
	b := newBundle(t, args...)
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace })
	b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = nil, nil
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(b.dir, "rootfs"), unix.MNT_DETACH) })
	return b
}

func TestContainerInHostsMountNamespace(t *testing.T) {
	before := strings.Count(mountTable(), "\n")
	b := withoutMountNamespace(t, "sleep")
	c, p, r := b.start(t, func(o *CreateOptions) { o.Rootfs = nil })
	defer r.Close()
	if !strings.Contains(mountTable(), b.dir+"/rootfs/proc ") {
		t.Error("its mounts are not in our mount namespace")
	}
	// Exec finds itself in the container's root, too.
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	process := *b.spec.Process
	process.Args = []string{"probe", "ls", "/"}
	e, err := c.Exec(t.Context(), &process, Stdio{Stdout: w, Stderr: w})
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	text, err := io.ReadAll(out)
	if err != nil || !strings.Contains(string(text), "bin") || strings.Contains(string(text), "boot") {
		t.Errorf("exec sees %q (%v)", text, err)
	}
	if _, err := spawn.Reap(e.Pidfd); err != nil {
		t.Error(err)
	}
	if err := c.Delete(t.Context(), true); err != nil {
		t.Error(err)
	}
	if _, err := spawn.Reap(p.Pidfd); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(filepath.Join(b.dir, "rootfs"), unix.MNT_DETACH); err != nil {
		t.Errorf("the root is not bound to its own place: %v", err)
	}
	if after := strings.Count(mountTable(), "\n"); after != before {
		t.Errorf("%d mounts, %d before: something else was mounted or unmounted", after, before)
	}
}

// A create that fails takes back what it has mounted, and nothing else; what would hide the host's files is refused.
func TestFailedContainerInHostsMountNamespace(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"late failure":    func(s *specs.Spec) { s.Process.Args = []string{"/no-such"} },
		"a mount":         func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "no-such"}) },
		"masked paths":    func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/proc/kcore"} },
		"read-only paths": func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/proc/sys"} },
	} {
		b := withoutMountNamespace(t, "sleep")
		change(b.spec)
		before := mountTable()
		if _, _, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec}); err == nil {
			t.Errorf("%s: it was created", name)
		}
		if after := mountTable(); after != before {
			t.Errorf("%s: the mounts are now\n%s", name, after)
		}
	}
}
