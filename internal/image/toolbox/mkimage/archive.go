package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// epoch is the time of everything in the image.
var epoch = time.Unix(0, 0).UTC()

// archiver collects files of the outer tar, blobs by their digest.
type archiver struct {
	tree
	present map[digest.Digest]bool
}

// blob adds content once and describes it.
func (a *archiver) blob(mediaType string, content []byte) v1.Descriptor {
	id := digest.FromBytes(content)
	if !a.present[id] {
		a.present[id] = true
		a.file("blobs/sha256/"+id.Encoded(), 0o644, content)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: id, Size: int64(len(content))}
}

// document adds a JSON file or, without a name, a blob.
func (a *archiver) document(name, mediaType string, value any) (v1.Descriptor, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("encode %s%s: %w", name, mediaType, err)
	}
	if name != "" {
		a.file(name, 0o644, content)
		return v1.Descriptor{}, nil
	}
	return a.blob(mediaType, content), nil
}

// archive returns the image as the tar of an OCI layout (image-spec, image-layout.md) with the manifest.json that
// docker load has wanted since before that.
func archive(program []byte, applets []string, arch string) ([]byte, error) {
	content, err := layer(program, applets)
	if err != nil {
		return nil, err
	}
	packed, err := compress(content)
	if err != nil {
		return nil, err
	}
	a := &archiver{present: map[digest.Digest]bool{}}
	a.dir("blobs", 0o755)
	a.dir("blobs/sha256", 0o755)
	first := a.blob(v1.MediaTypeImageLayerGzip, packed)
	platform := v1.Platform{Architecture: arch, OS: "linux"}
	config, err := a.document("", v1.MediaTypeImageConfig, v1.Image{
		Created:  &epoch,
		Platform: platform,
		Config: v1.ImageConfig{
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd:        []string{"sh"},
			WorkingDir: "/",
		},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(content)}},
		History: []v1.History{{Created: &epoch, CreatedBy: "mkimage", Comment: "toolbox"}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := a.document("", v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: config, Layers: []v1.Descriptor{first},
	})
	if err != nil {
		return nil, err
	}
	manifest.Platform = &platform
	manifest.Annotations = map[string]string{
		"io.containerd.image.name": "docker.io/library/toolbox:latest",
		v1.AnnotationRefName:       "latest",
	}
	_, err = a.document(v1.ImageIndexFile, "", v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{manifest},
	})
	_, err2 := a.document("manifest.json", "", []map[string]any{{
		"Config":   "blobs/sha256/" + config.Digest.Encoded(),
		"RepoTags": []string{"toolbox:latest"},
		"Layers":   []string{"blobs/sha256/" + first.Digest.Encoded()},
	}})
	_, err3 := a.document(v1.ImageLayoutFile, "", v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	return a.bytes()
}

func compress(content []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(content)
	return out.Bytes(), errors.Join(err, w.Close())
}

// tree is a tar in the making. Its methods add entries, owned by root unless told otherwise; errors come from bytes.
type tree struct {
	entries []entry
}

type entry struct {
	tar.Header
	content []byte
}

func (t *tree) add(h tar.Header, content []byte) {
	h.ModTime, h.Size, h.Format = epoch, int64(len(content)), tar.FormatUSTAR
	t.entries = append(t.entries, entry{h, content})
}

func (t *tree) dir(name string, mode int64) {
	t.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (t *tree) file(name string, mode int64, content []byte) {
	t.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

func (t *tree) link(name, target string) {
	t.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (t *tree) bytes() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range t.entries {
		e := &t.entries[i]
		if err := w.WriteHeader(&e.Header); err != nil {
			return nil, fmt.Errorf("add %s: %w", e.Name, err)
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, fmt.Errorf("add %s: %w", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
