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

// Loaded is an image of an archive, with the names that the archive gave it: the image may have others.
type Loaded struct {
	*Image
	Loaded []string // full names, in the archive's order
}

// Load imports a docker or OCI archive, optionally compressed, and returns the images in it. No image gets a name before
// all images of the archive are verified and unpacked.
func (s *Store) Load(ctx context.Context, r io.Reader, progress func(Progress)) ([]Loaded, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	plain, err := decompress(r)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load: %w", badArchive(ctx, err)), s.Collect(context.WithoutCancel(ctx)))
	}
	defer plain.Close()
	var list []Loaded
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
			unpin, err := s.adopt(ctx, target, progress)
			if err != nil {
				return fmt.Errorf("image %s: %w", target.Digest, err)
			}
			defer unpin() // after the images have their names
		}
		list, err = s.nameAll(ctx, index.Manifests)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load: %w", badArchive(ctx, err)), s.Collect(context.WithoutCancel(ctx)))
	}
	return list, nil
}

// nameAll gives images the names that the archive says, and resolves each image once: an archive has an entry for each
// name of an image.
func (s *Store) nameAll(ctx context.Context, targets []ocispec.Descriptor) ([]Loaded, error) {
	var order []ocispec.Descriptor
	names := map[digest.Digest][]string{}
	for _, target := range targets {
		if _, seen := names[target.Digest]; !seen {
			order = append(order, withoutContext(target))
		}
		names[target.Digest] = append(names[target.Digest], archiveNames(target)...)
	}
	for _, target := range order {
		list := names[target.Digest]
		if len(list) == 0 && s.namesOf(target.Digest) == 0 {
			list = []string{nameless(target.Digest)}
		}
		for _, name := range list {
			if err := s.setName(ctx, name, target); err != nil {
				return nil, err
			}
		}
	}
	var list []Loaded
	for _, target := range order {
		img, err := s.resolve(ctx, target, nil)
		if err != nil {
			return nil, err
		}
		list = append(list, Loaded{img, names[target.Digest]})
	}
	return list, nil
}

// withoutContext is a descriptor without what only its index says: annotations are the archive's, and embedded data is
// not what is stored.
func withoutContext(d ocispec.Descriptor) ocispec.Descriptor {
	d.Annotations, d.Data, d.URLs = nil, nil, nil
	return d
}

// adopt verifies an image whose blobs are in the content store, and unpacks it. Its layers stay until unpin is called.
func (s *Store) adopt(ctx context.Context, target ocispec.Descriptor, progress func(Progress)) (unpin func(), err error) {
	if err := checkDescriptor(target, maxManifest); err != nil {
		return nil, err
	}
	if !images.IsIndexType(target.MediaType) && !images.IsManifestType(target.MediaType) {
		return nil, noImage(target)
	}
	if err := s.labelTree(ctx, target, maxNesting); err != nil {
		return nil, err
	}
	img, err := s.read(ctx, target, nil)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := s.document(ctx, img.Manifest, maxManifest, &m); err != nil {
		return nil, err
	}
	unpin = s.pin(img.Layers)
	if err := s.unpackStored(ctx, &m, img.Layers, progress); err != nil {
		unpin()
		return nil, err
	}
	return unpin, nil
}

// noImage rejects a document that is neither a manifest nor an index.
func noImage(desc ocispec.Descriptor) error {
	return fmt.Errorf("%s is no image: media type %q: %w", desc.Digest, desc.MediaType, errdefs.ErrInvalidArgument)
}

// maxNesting is how deep indexes may refer to indexes.
const maxNesting = 4

// labelTree tells the garbage collector what each document refers to, of what is here: an archive may leave out
// platforms. Every descriptor on the way must have the size of its blob.
func (s *Store) labelTree(ctx context.Context, desc ocispec.Descriptor, deep int) error {
	if deep == 0 {
		return fmt.Errorf("%s: indexes within indexes, more than %d: %w", desc.Digest, maxNesting, errdefs.ErrInvalidArgument)
	}
	children, err := s.children(ctx, desc)
	if err != nil {
		return err
	}
	var present []ocispec.Descriptor
	for _, child := range children {
		if checkDigest(child.Digest) != nil { // it cannot be here
			continue
		}
		here, err := s.keep(ctx, child.Digest)
		if err != nil {
			return err
		}
		if !here {
			continue
		}
		if err := s.checkSize(ctx, child); err != nil {
			return fmt.Errorf("%s: %w", child.Digest, err)
		}
		if err := s.labelTree(ctx, child, deep-1); err != nil {
			return err
		}
		present = append(present, child)
	}
	return s.label(ctx, desc, present...)
}

// children are the descriptors in a manifest or index; other documents have none that concern us.
func (s *Store) children(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	switch {
	case images.IsIndexType(desc.MediaType):
		var index ocispec.Index
		err := s.document(ctx, desc, maxManifest, &index)
		return index.Manifests, err
	case images.IsManifestType(desc.MediaType):
		var m ocispec.Manifest
		err := s.document(ctx, desc, maxManifest, &m)
		return append([]ocispec.Descriptor{m.Config}, m.Layers...), err
	}
	return nil, nil
}

// unpackStored unpacks layers from the content store.
func (s *Store) unpackStored(ctx context.Context, m *ocispec.Manifest, ids []digest.Digest, progress func(Progress)) error {
	for i, desc := range m.Layers {
		if err := s.unpackOne(ctx, desc, ids[:i+1], progress); err != nil {
			return fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
	}
	return nil
}

// unpackOne unpacks the topmost of some layers; those below it are unpacked.
func (s *Store) unpackOne(ctx context.Context, desc ocispec.Descriptor, ids []digest.Digest, progress func(Progress)) error {
	leave, err := s.flights.board(ctx, desc.Digest.String(), nil)
	if err != nil {
		return err
	}
	defer leave()
	if s.layers.key(ids) != "" {
		return lost(s.checkSize(ctx, desc)) // the image has to have the blob, too
	}
	meter := &meter{id: short(desc.Digest), status: "Loading layer", total: desc.Size, report: progress}
	var whole *unpacked
	if err := s.stored(ctx, desc, func(r io.Reader) (err error) {
		meter.r = r
		whole, err = s.layers.unpack(ctx, ids[len(ids)-1], meter, nil)
		return err
	}); err != nil {
		if whole != nil {
			err = errors.Join(err, whole.discard())
		}
		return err
	}
	return s.finish(ctx, whole, desc, ids)
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
