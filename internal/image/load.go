package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Load imports a docker or OCI archive, optionally compressed, and returns the images in it.
func (s *Store) Load(ctx context.Context, r io.Reader, progress func(Progress)) ([]*Image, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	plain, err := decompress(r)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load: %w", badArchive(ctx, err)), s.Collect(context.WithoutCancel(ctx)))
	}
	defer plain.Close()
	var list []*Image
	err = s.leased(ctx, func(ctx context.Context) error {
		top, err := s.importArchive(ctx, plain)
		if err != nil {
			return err
		}
		var index ocispec.Index
		if err := s.document(ctx, top, maxManifest, &index); err != nil {
			return err
		}
		if len(index.Manifests) == 0 {
			return fmt.Errorf("the archive has no images: %w", errdefs.ErrInvalidArgument)
		}
		for _, target := range index.Manifests {
			if err := s.adopt(ctx, target, progress); err != nil {
				return fmt.Errorf("image %s: %w", target.Digest, err)
			}
		}
		list, err = s.resolveAll(ctx, index.Manifests)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load: %w", badArchive(ctx, err)), s.Collect(context.WithoutCancel(ctx)))
	}
	return list, nil
}

// resolveAll resolves targets, each once, in order: an archive has an entry for each name of an image.
func (s *Store) resolveAll(ctx context.Context, targets []ocispec.Descriptor) ([]*Image, error) {
	var list []*Image
	seen := map[digest.Digest]bool{}
	for _, target := range targets {
		if seen[target.Digest] {
			continue
		}
		seen[target.Digest] = true
		target.Annotations = nil
		img, err := s.resolve(ctx, target, nil)
		if err != nil {
			return nil, err
		}
		list = append(list, img)
	}
	return list, nil
}

// adopt unpacks an image whose blobs are in the content store and gives it the names that the archive says.
func (s *Store) adopt(ctx context.Context, target ocispec.Descriptor, progress func(Progress)) error {
	if err := checkDescriptor(target, maxManifest); err != nil {
		return err
	}
	if err := s.labelTree(ctx, target, maxNesting); err != nil {
		return err
	}
	manifest := target
	if images.IsIndexType(target.MediaType) {
		var err error
		if manifest, err = s.choose(ctx, target, nil); err != nil {
			return err
		}
	}
	var m ocispec.Manifest
	if err := s.document(ctx, manifest, maxManifest, &m); err != nil {
		return err
	}
	ids, err := s.diffIDs(ctx, &m)
	if err != nil {
		return err
	}
	defer s.pin(ids)() // until the image has its name
	if err := s.unpackStored(ctx, &m, ids, progress); err != nil {
		return err
	}
	names := archiveNames(target)
	if len(names) == 0 && s.namesOf(target.Digest) == 0 {
		names = []string{nameless(target.Digest)}
	}
	target.Annotations = nil // they were the archive's
	for _, name := range names {
		if err := s.setName(ctx, name, target); err != nil {
			return err
		}
	}
	return nil
}

// maxNesting is how deep indexes may refer to indexes.
const maxNesting = 4

// labelTree tells the garbage collector what each document refers to, of what is here: an archive may leave out
// platforms.
func (s *Store) labelTree(ctx context.Context, desc ocispec.Descriptor, deep int) error {
	if deep == 0 {
		return fmt.Errorf("%s: indexes within indexes, more than %d: %w", desc.Digest, maxNesting, errdefs.ErrInvalidArgument)
	}
	if !images.IsIndexType(desc.MediaType) && !images.IsManifestType(desc.MediaType) {
		return nil
	}
	children, err := images.Children(ctx, s.content, desc)
	if err != nil {
		return err
	}
	var present []ocispec.Descriptor
	for _, child := range children {
		here, err := s.keep(ctx, child.Digest)
		if err != nil {
			return err
		}
		if !here {
			continue
		}
		if err := s.labelTree(ctx, child, deep-1); err != nil {
			return err
		}
		present = append(present, child)
	}
	return s.label(ctx, desc, present...)
}

// unpackStored unpacks layers from the content store.
func (s *Store) unpackStored(ctx context.Context, m *ocispec.Manifest, ids []digest.Digest, progress func(Progress)) error {
	for i, desc := range m.Layers {
		if err := s.unpackOne(ctx, desc, ids[i], progress); err != nil {
			return fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
	}
	return nil
}

func (s *Store) unpackOne(ctx context.Context, desc ocispec.Descriptor, id digest.Digest, progress func(Progress)) error {
	leave, err := s.flights.board(ctx, desc.Digest.String(), nil)
	if err != nil {
		return err
	}
	defer leave()
	if s.layers.has(id) {
		return nil
	}
	meter := &meter{id: short(desc.Digest), status: "Loading layer", total: desc.Size, report: progress}
	var whole *unpacked
	if err := s.stored(ctx, desc, func(r io.Reader) (err error) {
		meter.r = r
		whole, err = s.layers.unpack(ctx, id, meter)
		return err
	}); err != nil {
		if whole != nil {
			err = errors.Join(err, whole.discard())
		}
		return err
	}
	return whole.commit()
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
