package image

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobs maps every blob that is here to its size.
func (s *Store) blobs(ctx context.Context) (map[digest.Digest]int64, error) {
	sizes := map[digest.Digest]int64{}
	err := s.content.Walk(ctx, func(info content.Info) error {
		sizes[info.Digest] = info.Size
		return nil
	})
	return sizes, err
}

// addLayers adds the diff ids of an image, of every platform whose configuration is here.
func (s *Store) addLayers(ctx context.Context, desc ocispec.Descriptor, ids map[digest.Digest]bool) error {
	if images.IsIndexType(desc.MediaType) {
		var index ocispec.Index
		if err := s.document(ctx, desc, maxManifest, &index); err != nil {
			return ignoreMissing(err)
		}
		for _, child := range slices.DeleteFunc(index.Manifests, isAttestation) {
			if err := s.addLayers(ctx, child, ids); err != nil {
				return err
			}
		}
		return nil
	}
	var manifest ocispec.Manifest
	var config ocispec.Image
	if err := s.document(ctx, desc, maxManifest, &manifest); err != nil {
		return ignoreMissing(err)
	}
	if err := s.document(ctx, manifest.Config, maxConfig, &config); err != nil {
		return ignoreMissing(err)
	}
	for _, id := range config.RootFS.DiffIDs {
		ids[id] = true
	}
	return nil
}

func ignoreMissing(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
