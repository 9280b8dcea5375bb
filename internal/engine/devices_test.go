package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func mapping(source, inside, access string) container.DeviceMapping {
	return container.DeviceMapping{PathOnHost: source, PathInContainer: inside, CgroupPermissions: access}
}

func TestDevices(t *testing.T) {
	dir := t.TempDir()
	for name, minor := range map[string]uint32{"null": 3, "sub/zero": 5} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(file, unix.S_IFCHR|0o640, int(unix.Mkdev(1, minor))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "null"), 7, 8); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("null", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	host := &container.HostConfig{}
	host.Devices = []container.DeviceMapping{mapping(dir+"/link", "/dev/linked", "r"), mapping(dir, "/dev/all", ""), mapping("/dev/full", "", "rw")}
	list, rules, err := devices(host)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i, d := range list {
		names = append(names, d.Path+" "+rules[i].Access)
		if !rules[i].Allow || *rules[i].Major != d.Major || *rules[i].Minor != d.Minor || rules[i].Type != "c" {
			t.Errorf("%s: rule %+v", d.Path, rules[i])
		}
	}
	slices.Sort(names)
	if want := []string{"/dev/all/null rwm", "/dev/all/sub/zero rwm", "/dev/full rw", "/dev/linked r"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	linked := list[0]
	if linked.Minor != 3 || *linked.UID != 7 || *linked.GID != 8 || *linked.FileMode != 0o640 {
		t.Errorf("through a link: %+v", linked)
	}
}

func TestDevicesPrivileged(t *testing.T) {
	host := &container.HostConfig{Privileged: true}
	host.Devices = []container.DeviceMapping{mapping("/dev/zero", "/dev/null", "rwm")}
	list, _, err := devices(host)
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) int {
		return slices.IndexFunc(list, func(d specs.LinuxDevice) bool { return d.Path == name })
	}
	if find("/dev/full") < 0 || find("/dev/console") >= 0 || find("/dev/pts/0") >= 0 {
		t.Errorf("full %d, console %d, pts/0 %d", find("/dev/full"), find("/dev/console"), find("/dev/pts/0"))
	}
	if i := find("/dev/null"); i < 0 || list[i].Minor != 5 {
		t.Error("--device does not win over the host's device of that name")
	}
}

func TestDevicesRefused(t *testing.T) {
	for name, c := range map[string]struct {
		device container.DeviceMapping
		text   string
	}{
		"missing":           {mapping("/dev/no-such", "", ""), `custom device "/dev/no-such": no such file or directory`},
		"a file":            {mapping("/etc/passwd", "", ""), "not a device node"},
		"an empty folder":   {mapping(t.TempDir(), "", ""), "no device nodes"},
		"relative":          {mapping("dev/null", "", ""), "not absolute"},
		"relative inside":   {mapping("/dev/null", "null", ""), "not absolute"},
		"the root":          {mapping("/dev/null", "/", ""), "must not be /"},
		"mode":              {mapping("/dev/null", "/dev/x", "rx"), `"rx"`},
		"root by two steps": {mapping("/dev/null", "/dev/..", ""), "must not be /"},
	} {
		host := &container.HostConfig{}
		host.Devices = []container.DeviceMapping{c.device}
		err := checkDevices(host.Devices)
		if err == nil {
			_, _, err = devices(host)
		}
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
