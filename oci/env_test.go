package oci

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestHomeOfMountedUsers: HOME comes from the passwd file that the process sees, mounts included.
func TestHomeOfMountedUsers(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte("svc:x:5563:5563::/home/svc:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tmpfs := specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs"}
	file := specs.Mount{Destination: "/etc/passwd", Type: "bind", Source: filepath.Join(dir, "passwd"), Options: []string{"bind", "ro"}}
	directory := specs.Mount{Destination: "/etc", Type: "bind", Source: dir, Options: []string{"rbind"}}
	for _, test := range []struct {
		name   string
		mounts []specs.Mount
		home   string
	}{
		{"the image's", nil, "/of/the/image"},
		{"a file", []specs.Mount{file}, "/home/svc"},
		{"a directory", []specs.Mount{directory}, "/home/svc"},
		{"an empty file system", []specs.Mount{tmpfs}, "/"},
		{"a file in it", []specs.Mount{tmpfs, file}, "/home/svc"},
		{"a file, and then nothing", []specs.Mount{file, tmpfs}, "/"},
		{"elsewhere", []specs.Mount{{Destination: "/srv", Type: "bind", Source: dir, Options: []string{"bind"}}}, "/of/the/image"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBundle(t)
			if err := os.WriteFile(filepath.Join(b.dir, "rootfs/etc/passwd"), []byte("svc:x:5563:5563::/of/the/image:/bin/sh\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			b.spec.Process.User.UID = 5563
			b.spec.Mounts = append(b.spec.Mounts, test.mounts...)
			if env := b.report(t).Env; !slices.Contains(env, "HOME="+test.home) {
				t.Errorf("%v, want HOME=%s", env, test.home)
			}
		})
	}
}
