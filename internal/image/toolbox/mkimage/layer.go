package main

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
)

const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
user:x:1000:1000:user:/home/user:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`
	group = `root:x:0:
daemon:x:1:
tty:x:5:
users:x:100:
user:x:1000:
nobody:x:65534:
`
	release = `NAME="Gantry toolbox"
ID=toolbox
PRETTY_NAME="Gantry toolbox"
`
)

// layer returns the uncompressed tar of the image's files.
func layer(program []byte, applets []string) ([]byte, error) {
	t := &tree{}
	t.dir("bin", 0o755)
	t.file("bin/toolbox", 0o755, program)
	names := slices.Clone(applets)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name == "toolbox" || name == "." || name == ".." || strings.Contains(name, "/") {
			return nil, fmt.Errorf("%q cannot be the name of an applet", name)
		}
		t.link("bin/"+name, "toolbox")
	}
	for _, d := range []struct {
		name string
		mode int64
	}{
		{"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"mnt", 0o755}, {"proc", 0o555}, {"root", 0o700}, {"run", 0o755},
		{"sys", 0o555}, {"tmp", 0o1777}, {"usr", 0o755}, {"var", 0o755}, {"var/tmp", 0o1777},
	} {
		t.dir(d.name, d.mode)
	}
	t.add(tar.Header{Typeflag: tar.TypeDir, Name: "home/user/", Mode: 0o755, Uid: 1000, Gid: 1000}, nil)
	t.file("etc/group", 0o644, []byte(group))
	t.file("etc/os-release", 0o644, []byte(release))
	t.file("etc/passwd", 0o644, []byte(passwd))
	t.link("sbin", "bin")
	t.link("usr/bin", "../bin")
	return t.bytes()
}
