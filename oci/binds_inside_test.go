package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A bind whose source is what earlier mounts have put into the container takes it with those mounts, in their order; paths
// of the host that lead into the root stand for what is inside.
func TestBindsOfEarlierMounts(t *testing.T) {
	for _, c := range []struct{ user, ids bool }{{}, {user: true}, {ids: true}, {user: true, ids: true}} {
		b := newBundle(t, "cat", "/final/x/y/z/z/x/y/z/x/file", "/final/x/y/z/z/single")
		host := filepath.Join(b.dir, "sources")
		writeTree(t, host, map[string]string{"a/x/file": "a/x", "b/y/file": "b/y", "c/z/file": "c/z", "a/single": "one"})
		writeTree(t, host, map[string]string{"sym-a": "->a", "sym-b": "->b"})
		root := filepath.Join(b.dir, "rootfs")
		writeTree(t, root, map[string]string{"mnt/": "", "final/": ""})
		options := []string{"rbind", "rprivate"}
		add := func(source, destination string, inside bool) {
			m := specs.Mount{Source: source, Destination: destination, Type: "bind", Options: options}
			if inside && c.ids {
				m.UIDMappings, m.GIDMappings = oneMap, oneMap
				m.Options = append([]string{"idmap"}, options...)
			}
			b.spec.Mounts = append(b.spec.Mounts, m)
		}
		add(host+"/a", "/mnt", false)
		add(host+"/sym-b", "/mnt/x", false)
		add(host+"/c", "/mnt/x/y", false)
		add(host+"/sym-a", "/mnt/x/y/z", false)
		add(root+"/mnt/x", root+"/mnt/x/y/z/x", true)
		add(root+"/mnt/x/y", root+"/mnt/x/y/z", true)
		add(root+"/mnt", root+"/final", true)
		add(root+"/mnt/x/y/z/z/single", "/new/file", true) // a file, to where there is none
		b.spec.Process.Args = append(b.spec.Process.Args, "/new/file")
		if c.user {
			b.inUserNamespace(t)
		}
		if c.ids && !mapsIDs(t, root) { // a tmpfs before Linux 6.3
			if _, _, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec}); err == nil || !strings.Contains(err.Error(), "map ids: the kernel does not do it") {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		text, code := b.output(t, func(o *CreateOptions) { o.Rootfs = nil })
		if strings.Join(strings.Fields(text), "") != "a/xoneone" || code != 0 {
			t.Errorf("%+v: exit %d, %q", c, code, text)
		}
	}
}

// mapsIDs reports whether the file system of a directory can be mounted with mapped ids.
func mapsIDs(t *testing.T, dir string) bool {
	t.Helper()
	fd, err := (&builder{}).cloneTree(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ns, err := makeUserNamespace(oneMap, oneMap)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ns)
	return (&builder{}).setAttributes(fd, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)}, false) == nil
}

// A source inside the root that no mount has touched is the bundle's own file, and a missing one an error that names it.
func TestBindOfTheRootsOwnFile(t *testing.T) {
	b := newBundle(t, "cat", "/copy")
	writeTree(t, b.dir, map[string]string{"rootfs/etc/own": "mine"})
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Source: b.dir + "/rootfs/etc/own", Destination: "/copy", Type: "bind", Options: []string{"bind"}})
	if text, _ := b.output(t, func(o *CreateOptions) { o.Rootfs = nil }); strings.TrimSpace(text) != "mine" {
		t.Errorf("%q", text)
	}
	at := len(b.spec.Mounts)
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Source: "tmpfs", Destination: "/tmp", Type: "tmpfs"},
		specs.Mount{Source: b.dir + "/rootfs/tmp/missing", Destination: "/x", Type: "bind", Options: []string{"bind"}})
	_, _, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec})
	if want := fmt.Sprintf("mounts[%d]: open /tmp/missing: %v", at+1, "no such file or directory"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if _, err := os.Stat(b.dir + "/rootfs/x"); err == nil {
		t.Error("a mount point was made for nothing")
	}
}
