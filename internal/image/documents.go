package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Documents are small; a bigger one is refused before it is read.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
)

// maxLayers is how many layers overlay takes (OVL_MAX_STACK), but for one of them, the container's.
const maxLayers = 499

// document reads a JSON blob of bounded size, verified: what is damaged on disk is not taken for another document.
func (s *Store) document(ctx context.Context, desc ocispec.Descriptor, limit int64, v any) error {
	if err := checkDescriptor(desc, limit); err != nil {
		return err
	}
	if err := s.checkSize(ctx, desc); err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	desc.Data = nil // what a descriptor carries along is not what is stored
	text, err := content.ReadBlob(ctx, s.content, desc)
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	if got := desc.Digest.Algorithm().FromBytes(text); got != desc.Digest {
		return fmt.Errorf("%s is damaged: its digest is %s: %w", desc.Digest, got, errdefs.ErrDataLoss)
	}
	if err := checkKind(desc, text); err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkSize rejects a descriptor that gives another size than the blob had when it was stored. Such a descriptor is
// wrong whatever happened to the blob since, and a small size must not hide a big blob from a bound.
func (s *Store) checkSize(ctx context.Context, desc ocispec.Descriptor) error {
	info, err := s.content.Info(ctx, desc.Digest)
	if err != nil {
		return err
	}
	if info.Size != desc.Size {
		return fmt.Errorf("the descriptor gives a size of %d bytes, but the blob has %d: %w", desc.Size, info.Size, errdefs.ErrInvalidArgument)
	}
	return nil
}

// diffIDs are the layers of a manifest as its configuration names them, checked.
func (s *Store) diffIDs(ctx context.Context, m *ocispec.Manifest) ([]digest.Digest, error) {
	var config ocispec.Image
	if err := s.document(ctx, m.Config, maxConfig, &config); err != nil {
		return nil, fmt.Errorf("read image configuration: %w", err)
	}
	return config.RootFS.DiffIDs, checkLayers(m, config.RootFS.DiffIDs)
}

// stored gives a consumer a blob that is here, verified. One that is not what it was is errdefs.ErrDataLoss.
func (s *Store) stored(ctx context.Context, desc ocispec.Descriptor, consume func(io.Reader) error) error {
	if err := s.checkSize(ctx, desc); err != nil {
		return lost(err)
	}
	ra, err := s.content.ReaderAt(ctx, desc)
	if err != nil {
		return lost(err)
	}
	blob := &verified{r: content.NewReader(ra), desc: desc, hash: desc.Digest.Algorithm().Digester()}
	err = blob.blame(ctx, consume(blob))
	if blob.err != nil {
		err = fmt.Errorf("the blob is damaged here: %w: %w", err, errdefs.ErrDataLoss)
	}
	return errors.Join(err, ra.Close())
}

// drop removes a damaged blob, of which the metadata alone would say that it is here.
func (s *Store) drop(ctx context.Context, d digest.Digest) error {
	if err := s.content.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("drop damaged blob %s: %w", d, err)
	}
	if err := s.backend.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("drop damaged blob %s: %w", d, err)
	}
	return nil
}

// keep makes a blob safe from collection while the lease of ctx lasts, and tells whether it is here.
func (s *Store) keep(ctx context.Context, d digest.Digest) (here bool, err error) {
	if lease, found := leases.FromContext(ctx); found {
		err := s.leases.AddResource(ctx, leases.Lease{ID: lease}, leases.Resource{ID: d.String(), Type: "content"})
		if err != nil {
			return false, fmt.Errorf("lease %s: %w", d, err)
		}
	}
	_, err = s.content.Info(ctx, d)
	return err == nil, ignoreMissing(err)
}

// checkDescriptor refuses what cannot be stored: a digest that is none, or of another algorithm than the content store
// has, and a size out of bounds.
func checkDescriptor(desc ocispec.Descriptor, limit int64) error {
	if err := checkDigest(desc.Digest); err != nil {
		return err
	}
	if desc.Size < 0 || desc.Size > limit {
		return fmt.Errorf("%s has %d bytes, more than %d: %w", desc.Digest, desc.Size, limit, errdefs.ErrInvalidArgument)
	}
	return nil
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: %q: %w", err, d, errdefs.ErrInvalidArgument)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%s: only sha256 digests are supported: %w", d, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkKind refuses a document that can be read as two things, or as another than its descriptor says; see
// GHSA-qq97-vm5h-rrhg.
func checkKind(desc ocispec.Descriptor, text []byte) error {
	index, manifest := images.IsIndexType(desc.MediaType), images.IsManifestType(desc.MediaType)
	if !index && !manifest {
		return nil
	}
	var kind struct {
		MediaType                           string
		Config, Layers, Manifests, FSLayers json.RawMessage
	}
	if err := json.Unmarshal(text, &kind); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	switch {
	case kind.MediaType != "" && kind.MediaType != desc.MediaType:
		return fmt.Errorf("media type %q inside, but %q outside: %w", kind.MediaType, desc.MediaType, errdefs.ErrInvalidArgument)
	case manifest && (kind.Manifests != nil || kind.FSLayers != nil):
		return fmt.Errorf("a manifest with the fields of an index: %w", errdefs.ErrInvalidArgument)
	case index && (kind.Config != nil || kind.Layers != nil || kind.FSLayers != nil):
		return fmt.Errorf("an index with the fields of a manifest: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkLayers refuses a manifest whose layers are not those of its configuration, or cannot be stored or mounted.
func checkLayers(m *ocispec.Manifest, ids []digest.Digest) error {
	if len(ids) != len(m.Layers) {
		return fmt.Errorf("the manifest has %d layers, its configuration %d: %w", len(m.Layers), len(ids), errdefs.ErrInvalidArgument)
	}
	if len(ids) > maxLayers {
		return fmt.Errorf("%d layers, more than %d: %w", len(ids), maxLayers, errdefs.ErrInvalidArgument)
	}
	for i, id := range ids {
		if err := checkDigest(id); err != nil {
			return fmt.Errorf("diff id: %w", err)
		}
		if err := checkDescriptor(m.Layers[i], math.MaxInt64); err != nil {
			return fmt.Errorf("layer: %w", err)
		}
	}
	return nil
}

// blobs maps every blob that is here to its size.
func (s *Store) blobs(ctx context.Context) (map[digest.Digest]int64, error) {
	sizes := map[digest.Digest]int64{}
	err := s.content.Walk(ctx, func(info content.Info) error {
		sizes[info.Digest] = info.Size
		return nil
	})
	return sizes, err
}

// addLayers adds the diff ids of an image, of every platform that was pulled whole. errdefs.ErrDataLoss tells that they
// cannot be known.
func (s *Store) addLayers(ctx context.Context, desc ocispec.Descriptor, needed neededLayers) error {
	if images.IsIndexType(desc.MediaType) {
		var index ocispec.Index
		if err := s.document(ctx, desc, maxManifest, &index); err != nil {
			return lost(err)
		}
		whole, err := s.whole(ctx, desc, index.Manifests)
		if err != nil {
			return err
		}
		for _, child := range whole {
			if err := s.addLayers(ctx, child, needed); err != nil {
				return err
			}
		}
		return nil
	}
	if !images.IsManifestType(desc.MediaType) {
		return nil
	}
	var manifest ocispec.Manifest
	if err := s.document(ctx, desc, maxManifest, &manifest); err != nil {
		return lost(err)
	}
	ids, err := s.diffIDs(ctx, &manifest)
	needed.add(ids)
	return lost(err)
}

// whole are the images of an index that were pulled whole: it refers to no others.
func (s *Store) whole(ctx context.Context, index ocispec.Descriptor, list []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	info, err := s.content.Info(ctx, index.Digest)
	if err != nil {
		return nil, lost(err)
	}
	known := map[string]bool{}
	for key, value := range info.Labels {
		known[value] = known[value] || strings.HasPrefix(key, refPrefix)
	}
	return slices.DeleteFunc(withoutAttestations(list), func(d ocispec.Descriptor) bool { return !known[d.Digest.String()] }), nil
}

// lost tells that what is not there should be.
func lost(err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	return err
}

func ignoreMissing(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

const refPrefix = "containerd.io/gc.ref.content."

// refLabel is the label by which a document refers to a blob, for the garbage collector.
func refLabel(d digest.Digest) string {
	return refPrefix + strings.ReplaceAll(d.String(), ":", ".")
}

// label tells the garbage collector that a document refers to these blobs, beside those of which it was told before:
// another platform of the same index may have come with another pull.
func (s *Store) label(ctx context.Context, parent ocispec.Descriptor, children ...ocispec.Descriptor) error {
	info := content.Info{Digest: parent.Digest, Labels: map[string]string{}}
	var paths []string
	for _, child := range children {
		if checkDigest(child.Digest) != nil { // it cannot be here
			continue
		}
		key := refLabel(child.Digest)
		info.Labels[key] = child.Digest.String()
		paths = append(paths, "labels."+key)
	}
	if len(paths) == 0 {
		return nil
	}
	if _, err := s.content.Update(ctx, info, paths...); err != nil {
		return fmt.Errorf("label %s: %w", parent.Digest, err)
	}
	return nil
}
