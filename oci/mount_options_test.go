package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestLockedFlags: in a user namespace, flags of mounts from outside stay, and an option that says they shall go is an error.
func TestLockedFlags(t *testing.T) {
	const inside = "GANTRY_TEST_LOCKED"
	if dir := os.Getenv(inside); dir != "" {
		lockedFlags(t, dir)
		return
	}
	dir := mountTmpfs(t, filepath.Join(t.TempDir(), "locked"), unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV)
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockedFlags$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+dir)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestLockedFlags") {
		t.Errorf("%v\n%s", err, out)
	}
}

func lockedFlags(t *testing.T, dir string) {
	for _, c := range []struct {
		options string
		want    int64 // ST_… flags
		refused string
	}{
		{"rbind", unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV, ""},
		{"rbind,noexec", unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC, ""},
		{"rbind,ro", unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV, ""},
		{"rbind,rw", 0, "ro of the source is locked"},
		{"rbind,ro,suid", 0, "nosuid of the source is locked"},
		{"rbind,rrw", 0, "set flags recursively"},
	} {
		o, err := parseMountOptions(specs.Mount{Type: "bind", Options: strings.Split(c.options, ",")})
		if err != nil {
			t.Fatal(err)
		}
		fd, err := (&builder{}).cloneTree(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		b := &builder{spec: &specs.Spec{Linux: &specs.Linux{}}}
		err = b.bindAttributes(fd, specs.Mount{}, o)
		var fs unix.Statfs_t
		statErr := unix.Fstatfs(fd, &fs)
		_ = unix.Close(fd)
		if c.refused != "" {
			if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v, want %q", c.options, err, c.refused)
			}
			continue
		}
		const looked = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
		if err = errors.Join(err, statErr); err != nil || fs.Flags&looked != c.want {
			t.Errorf("%s: %v, flags %#x, want %#x", c.options, err, fs.Flags&looked, c.want)
		}
	}
}

// FuzzMountOptions: any options are sorted out without contradiction.
func FuzzMountOptions(f *testing.F) {
	f.Add("bind", "ro,rw,rro,rrw,ratime,rstrictatime,noatime,atime")
	f.Add("tmpfs", "size=1m,tmpcopyup,nosuid,suid,rprivate,shared,idmap")
	f.Fuzz(func(t *testing.T, kind, options string) {
		o, err := parseMountOptions(specs.Mount{Type: kind, Options: strings.Split(options, ",")})
		if err != nil {
			return
		}
		attr := o.attributes()
		if o.flags&o.cleared != 0 || attr.Attr_set&attr.Attr_clr&^unix.MOUNT_ATTR__ATIME != 0 || o.deep.Attr_set&o.deep.Attr_clr&^unix.MOUNT_ATTR__ATIME != 0 {
			t.Errorf("set and cleared: %#x %#x, %+v, %+v", o.flags, o.cleared, attr, o.deep)
		}
	})
}
