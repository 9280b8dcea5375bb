package engine

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

func TestMountPoints(t *testing.T) {
	host := &container.HostConfig{
		Binds:  []string{"/src:/data/src:ro", "cache:/data", "/x/../y:/y:rslave"},
		Tmpfs:  map[string]string{"/run": "size=1m,exec"},
		Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/etc", Target: "/host/etc", ReadOnly: true}},
	}
	got, err := mountPoints(host, map[string]struct{}{"/data": {}, "/var/lib": {}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"volume cache /data rw [rbind rprivate] create=false",
		"bind /src /data/src ro [rbind rprivate] create=true",
		"bind /etc /host/etc ro [rbind rprivate] create=false",
		"tmpfs  /run rw [noexec nosuid nodev size=1m exec] create=false",
		"volume  /var/lib rw [rbind rprivate] create=false",
		"bind /y /y rw [rbind rslave] create=true",
	}
	if len(got) != len(want) {
		t.Fatalf("got %d mounts: %+v", len(got), got)
	}
	for i, m := range got {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		if line := fmt.Sprintf("%s %s %s %s %v create=%v", m.Kind, m.Source, m.Destination, mode, m.Options, m.Create); line != want[i] {
			t.Errorf("got  %s\nwant %s", line, want[i])
		}
	}
}

func TestMountPointsRefuse(t *testing.T) {
	for name, host := range map[string]container.HostConfig{
		"empty":              {Binds: []string{""}},
		"relative dest.":     {Binds: []string{"/a:b"}},
		"relative source":    {Binds: []string{"./a:/b"}},
		"traversal":          {Binds: []string{"../a:/b"}},
		"root":               {Binds: []string{"/a:/x/.."}},
		"empty source":       {Binds: []string{":/b"}},
		"too many parts":     {Binds: []string{"/a:/b:ro:z"}},
		"unknown option":     {Binds: []string{"/a:/b:rx"}},
		"twice":              {Binds: []string{"/a:/b", "/c:/b/"}},
		"bind and tmpfs":     {Binds: []string{"/a:/b"}, Tmpfs: map[string]string{"/b": ""}},
		"tmpfs option":       {Tmpfs: map[string]string{"/b": "lowerdir=/"}},
		"mount type":         {Mounts: []mount.Mount{{Type: "floppy", Target: "/b"}}},
		"mount bind source":  {Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "a", Target: "/b"}}},
		"mount volume name":  {Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "../../etc", Target: "/b"}}},
		"mount tmpfs source": {Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Source: "x", Target: "/b"}}},
		"mount no target":    {Mounts: []mount.Mount{{Type: mount.TypeTmpfs}}},
	} {
		if _, err := mountPoints(&host, nil, nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v, want an invalid argument", name, err)
		}
	}
}

func FuzzParseBind(f *testing.F) {
	for _, seed := range []string{"/a:/b", "v:/b:ro,z", "/b", "::", "a:b:c:d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseBind(text)
		if err == nil && (m.Destination == "" || m.Destination[0] != '/' || m.Destination == "/") {
			t.Errorf("%q gave destination %q", text, m.Destination)
		}
		if err == nil && m.Kind == mount.TypeVolume && m.Source != "" && !volumeName.MatchString(m.Source) {
			t.Errorf("%q gave volume name %q", text, m.Source)
		}
	})
}
