package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// TestProgramIsNotExecuted: who starts the container learns why, and, when its creator has gone, its standard error does.
func TestProgramIsNotExecuted(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"#!/no/such\n", "exec /bin/script: no such file or directory\n"},
		{"garbage", "exec /bin/script: exec format error\n"},
	} {
		for _, pid := range []specs.LinuxNamespaceType{specs.PIDNamespace, ""} {
			b := newBundle(t)
			b.spec.Process.Args = []string{"script"}
			if pid == "" {
				b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[1:]
			}
			if err := os.WriteFile(filepath.Join(b.dir, "rootfs/bin/script"), []byte(c.text), 0o755); err != nil {
				t.Fatal(err)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			container, p, err := b.lib.Create(t.Context(), "script", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay(), Stdio: Stdio{Stderr: w}})
			if err = errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			other, err := b.lib.Load("script")
			if err = errors.Join(err, container.child.CloseStatus()); err != nil {
				t.Fatal(err)
			}
			if err := other.Start(t.Context()); err != nil {
				t.Error(err)
			}
			text, err := io.ReadAll(r)
			ws, reapErr := spawn.Reap(p.Pidfd)
			if err = errors.Join(err, reapErr, r.Close()); err != nil || string(text) != c.want || ws.ExitStatus() != 1 {
				t.Errorf("%q, status %v, %v; want %q", text, ws, err, c.want)
			}
			if err := container.Delete(t.Context(), false); err != nil {
				t.Error(err)
			}
		}
	}
}

// oldKernel tells a kernel before 6.2.
func oldKernel(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major < 6 || major == 6 && minor < 2
}
