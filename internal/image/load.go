package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Load imports a docker or OCI archive, optionally compressed, and returns the images in it.
func (s *Store) Load(ctx context.Context, r io.Reader, progress func(Progress)) ([]*Image, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	plain, err := decompress(r)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	defer plain.Close()
	var list []*Image
	err = s.leased(ctx, func(ctx context.Context) error {
		top, err := archive.ImportIndex(ctx, s.content, plain)
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		var index ocispec.Index
		if err := s.document(ctx, top, maxManifest, &index); err != nil {
			return err
		}
		if len(index.Manifests) == 0 {
			return fmt.Errorf("the archive has no images: %w", errdefs.ErrInvalidArgument)
		}
		for _, target := range index.Manifests {
			img, err := s.adopt(ctx, target, progress)
			if err != nil {
				return fmt.Errorf("image %s: %w", target.Digest, err)
			}
			if !slices.Contains(list, img) {
				list = append(list, img)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return list, nil
}

// adopt unpacks an image whose blobs are in the content store and gives it the names that the archive says.
func (s *Store) adopt(ctx context.Context, target ocispec.Descriptor, progress func(Progress)) (*Image, error) {
	if err := s.labelTree(ctx, target); err != nil {
		return nil, err
	}
	manifest := target
	if images.IsIndexType(target.MediaType) {
		var err error
		if manifest, err = s.choose(ctx, target, nil); err != nil {
			return nil, err
		}
	}
	var m ocispec.Manifest
	if err := s.document(ctx, manifest, maxManifest, &m); err != nil {
		return nil, err
	}
	if err := s.unpackStored(ctx, &m, progress); err != nil {
		return nil, err
	}
	names := archiveNames(target)
	if len(names) == 0 && s.namesOf(target.Digest) == 0 {
		names = []string{nameless(target.Digest)}
	}
	target.Annotations = nil // they were the archive's
	for _, name := range names {
		if err := s.setName(ctx, name, target); err != nil {
			return nil, err
		}
	}
	return s.resolve(ctx, target, nil)
}

// labelTree tells the garbage collector what each document refers to.
func (s *Store) labelTree(ctx context.Context, desc ocispec.Descriptor) error {
	if !images.IsIndexType(desc.MediaType) && !images.IsManifestType(desc.MediaType) {
		return nil
	}
	children, err := images.Children(ctx, s.content, desc)
	if errdefs.IsNotFound(err) { // of a platform that the archive left out
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.label(ctx, desc, children); err != nil {
		return err
	}
	for _, child := range children {
		if err := s.labelTree(ctx, child); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// unpackStored unpacks layers from the content store.
func (s *Store) unpackStored(ctx context.Context, m *ocispec.Manifest, progress func(Progress)) error {
	var config ocispec.Image
	if err := s.document(ctx, m.Config, maxConfig, &config); err != nil {
		return err
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(m.Layers) {
		return fmt.Errorf("the manifest has %d layers, its configuration %d: %w", len(m.Layers), len(ids), errdefs.ErrInvalidArgument)
	}
	defer s.pin(ids)()
	for i, desc := range m.Layers {
		if s.layers.has(ids[i]) {
			continue
		}
		ra, err := s.content.ReaderAt(ctx, desc)
		if err != nil {
			return fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
		meter := &meter{r: content.NewReader(ra), id: short(desc.Digest), total: desc.Size, report: func(p Progress) {
			p.Status = "Loading layer"
			progress(p)
		}}
		_, err, _ = s.layers.flights.Do(desc.Digest.String()+ids[i].String(), func() (any, error) {
			whole, err := s.layers.unpack(ctx, ids[i], meter)
			if err != nil {
				return nil, err
			}
			return nil, whole.commit()
		})
		if err = errors.Join(err, ra.Close()); err != nil {
			return fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
	}
	return nil
}

// archiveNames are the references that an archive gives an image.
func archiveNames(target ocispec.Descriptor) []string {
	for _, key := range []string{images.AnnotationImageName, ocispec.AnnotationRefName} {
		name := target.Annotations[key]
		if named, err := normalize(name); err == nil {
			// A bare tag, as OCI layouts have it, names nothing.
			if key == ocispec.AnnotationRefName && !hasRepository(name) {
				continue
			}
			return []string{named.String()}
		}
	}
	return nil
}

func hasRepository(name string) bool {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	_, tagged := named.(reference.Tagged)
	return tagged
}
