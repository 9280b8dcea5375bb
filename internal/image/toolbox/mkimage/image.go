package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // registers the hash that go-digest uses
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const imageName = "docker.io/library/toolbox:latest"

// created is the time of everything in the image.
var created = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
user:x:1000:1000:user:/home/user:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`

const group = `root:x:0:
daemon:x:1:
tty:x:5:
user:x:1000:
nogroup:x:65534:
`

const release = `NAME="Gantry toolbox"
ID=toolbox
PRETTY_NAME="Gantry toolbox"
`

// file is an entry of the layer; the kind follows from the fields: a link has a target, a directory no content.
type file struct {
	name    string
	mode    int64
	content []byte
	target  string
	owner   int
}

// files are the image's: an applet is a link to the last of the programs that has it, the smallest.
func files(programs ...program) []file {
	list := []file{
		{name: "bin/", mode: 0o755},
		{name: "dev/", mode: 0o755},
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, content: []byte(group)},
		{name: "etc/hostname", mode: 0o644, content: []byte{}},
		{name: "etc/os-release", mode: 0o644, content: []byte(release)},
		{name: "etc/passwd", mode: 0o644, content: []byte(passwd)},
		{name: "home/", mode: 0o755},
		{name: "home/user/", mode: 0o755, owner: 1000},
		{name: "proc/", mode: 0o555},
		{name: "root/", mode: 0o700},
		{name: "run/", mode: 0o755},
		{name: "sbin", target: "bin"},
		{name: "sys/", mode: 0o555},
		{name: "tmp/", mode: 0o1777},
		{name: "usr/", mode: 0o755},
		{name: "usr/bin", target: "../bin"},
		{name: "usr/sbin", target: "../bin"},
		{name: "var/", mode: 0o755},
		{name: "var/tmp/", mode: 0o1777},
	}
	target := map[string]string{}
	for _, p := range programs {
		list = append(list, file{name: "bin/" + p.name, mode: 0o755, content: p.content})
		for _, name := range p.applets {
			target[name] = p.name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(target)) {
		list = append(list, file{name: "bin/" + name, target: target[name]})
	}
	return list
}

func (f file) header() *tar.Header {
	h := &tar.Header{
		Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, ModTime: created, Typeflag: tar.TypeDir, Format: tar.FormatPAX,
	}
	switch {
	case f.target != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.target, 0o777
	case f.content != nil:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(f.content))
	}
	return h
}

func tarOf(list []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range list {
		if err := w.WriteHeader(f.header()); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// layout collects the blobs of an image-layout directory.
type layout struct{ list []file }

func (l *layout) add(mediaType string, content []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	l.list = append(l.list, file{name: "blobs/sha256/" + d.Digest.Encoded(), mode: 0o644, content: content})
	return d
}

func (l *layout) addJSON(mediaType string, value any) (v1.Descriptor, error) {
	content, err := json.Marshal(value)
	return l.add(mediaType, content), err
}

// archive returns the image in the form that the image specification calls image-layout, as a tar archive.
func archive(arch string, programs ...program) ([]byte, error) {
	uncompressed, err := tarOf(files(programs...))
	if err != nil {
		return nil, err
	}
	compressed, err := compress(uncompressed)
	if err != nil {
		return nil, err
	}
	l := &layout{list: []file{{name: "blobs/", mode: 0o755}, {name: "blobs/sha256/", mode: 0o755}}}
	layer := l.add(v1.MediaTypeImageLayerGzip, compressed)
	platform := v1.Platform{Architecture: arch, OS: "linux"}
	config, err := l.addJSON(v1.MediaTypeImageConfig, v1.Image{
		Created: &created, Platform: platform,
		Config: v1.ImageConfig{
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd:        []string{"sh"},
			WorkingDir: "/",
			Labels:     map[string]string{v1.AnnotationTitle: "toolbox", v1.AnnotationLicenses: "Apache-2.0"},
		},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(uncompressed)}},
		History: []v1.History{{Created: &created, CreatedBy: "mkimage", Comment: "toolbox"}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := l.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []v1.Descriptor{layer},
	})
	if err != nil {
		return nil, err
	}
	manifest.Platform = &platform
	manifest.Annotations = map[string]string{"io.containerd.image.name": imageName, v1.AnnotationRefName: "latest"}
	return l.finish(manifest, config, layer)
}

// finish adds the files that lead to the blobs: the specification's, and manifest.json for engines older than it.
func (l *layout) finish(manifest, config, layer v1.Descriptor) ([]byte, error) {
	for name, value := range map[string]any{
		v1.ImageLayoutFile: v1.ImageLayout{Version: v1.ImageLayoutVersion},
		v1.ImageIndexFile: v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{manifest},
		},
		"manifest.json": []map[string]any{{
			"Config":   "blobs/sha256/" + config.Digest.Encoded(),
			"RepoTags": []string{"toolbox:latest"},
			"Layers":   []string{"blobs/sha256/" + layer.Digest.Encoded()},
		}},
	} {
		content, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		l.list = append(l.list, file{name: name, mode: 0o644, content: content})
	}
	slices.SortFunc(l.list, func(a, b file) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	return tarOf(l.list)
}
