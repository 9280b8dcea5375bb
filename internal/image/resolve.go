package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

type resolveKey struct {
	target   digest.Digest
	platform string
}

// Get resolves a reference, an ID or an unambiguous prefix of one for a platform (nil: the host's, or the only one). The
// embedded image comes back when it is asked for by its name.
func (s *Store) Get(ctx context.Context, refOrID string, platform *ocispec.Platform) (*Image, error) {
	target, err := s.findOrRestore(ctx, refOrID)
	if err != nil {
		return nil, err
	}
	return s.resolve(ctx, target, platform)
}

func (s *Store) findOrRestore(ctx context.Context, refOrID string) (ocispec.Descriptor, error) {
	target, err := s.find(refOrID)
	if !errdefs.IsNotFound(err) {
		return target, err
	}
	if restored, restoreErr := s.restoreEmbedded(ctx, refOrID); restoreErr != nil || !restored {
		return target, errors.Join(err, restoreErr)
	}
	return s.find(refOrID)
}

// ID is the ID of the image that Get would resolve, damaged or not.
func (s *Store) ID(refOrID string) (digest.Digest, error) {
	target, err := s.find(refOrID)
	return target.Digest, err
}

// find looks a target up: by ID, by name, by prefix of an ID, in this order.
func (s *Store) find(ref string) (ocispec.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) == 64 {
		if d, found := s.byID(hex); found {
			return d, nil
		}
	}
	named, err := normalize(ref)
	if err == nil {
		if i, found := s.index[named.String()]; found {
			return i.Target, nil
		}
		if d, found := s.byRepoDigest(named); found {
			return d, nil
		}
	}
	if len(hex) > 0 && strings.Trim(hex, "0123456789abcdef") == "" {
		return s.byPrefix(ref, hex)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("invalid reference format: %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	return ocispec.Descriptor{}, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
}

func (s *Store) byID(hex string) (ocispec.Descriptor, bool) {
	for _, i := range s.index {
		if i.Target.Digest.Encoded() == hex {
			return i.Target, true
		}
	}
	return ocispec.Descriptor{}, false
}

// byRepoDigest finds repository@digest among the targets that have a name in the repository.
func (s *Store) byRepoDigest(named reference.Named) (ocispec.Descriptor, bool) {
	digested, ok := named.(reference.Digested)
	if !ok {
		return ocispec.Descriptor{}, false
	}
	for name, i := range s.index {
		if known, err := reference.ParseNormalizedNamed(name); err == nil && known.Name() == named.Name() && i.Target.Digest == digested.Digest() {
			return i.Target, true
		}
	}
	return ocispec.Descriptor{}, false
}

func (s *Store) byPrefix(ref, hex string) (ocispec.Descriptor, error) {
	var found ocispec.Descriptor
	for _, i := range s.index {
		if !strings.HasPrefix(i.Target.Digest.Encoded(), hex) || i.Target.Digest == found.Digest {
			continue
		}
		if found.Digest != "" {
			return found, fmt.Errorf("image id %q stands for several images; give more of it: %w", ref, errdefs.ErrInvalidArgument)
		}
		found = i.Target
	}
	if found.Digest == "" {
		return found, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
	}
	return found, nil
}

// normalize gives a reference its full form: debian is docker.io/library/debian:latest.
func normalize(ref string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, err
	}
	return reference.TagNameOnly(named), nil
}

// resolve reads an image's documents, once: what a digest names does not change.
func (s *Store) resolve(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (*Image, error) {
	key := resolveKey{target: target.Digest}
	if platform != nil {
		key.platform = platforms.FormatAll(platforms.Normalize(*platform))
	}
	s.mu.Lock()
	img, changes := s.resolved[key], s.changes
	s.mu.Unlock()
	if img != nil {
		return img, nil
	}
	img, err := s.read(inNamespace(ctx), target, platform)
	if errdefs.IsDataLoss(err) && s.namesOf(target.Digest) == 0 {
		return nil, fmt.Errorf("image %s was removed: %w", target.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nameImage(img)
	if s.changes == changes {
		s.resolved[key] = img
	}
	return img, nil
}

// nameImage adds an image's names; mu is held.
func (s *Store) nameImage(img *Image) {
	for name, i := range s.index {
		if i.Target.Digest != img.ID || strings.HasPrefix(name, namelessPrefix) {
			continue
		}
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		if _, byDigest := named.(reference.Digested); !byDigest {
			img.Names = append(img.Names, name)
		}
		if d := named.Name() + "@" + img.ID.String(); !slices.Contains(img.Digests, d) {
			img.Digests = append(img.Digests, d)
		}
		if i.UpdatedAt.After(img.LastTagged) {
			img.LastTagged = i.UpdatedAt
		}
	}
	slices.Sort(img.Names)
	slices.Sort(img.Digests)
}

func (s *Store) read(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (*Image, error) {
	desc, err := s.choose(ctx, target, platform)
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := s.document(ctx, desc, maxManifest, &manifest); err != nil {
		return nil, fmt.Errorf("read manifest: %w", lost(err))
	}
	img := &Image{ID: target.Digest, Manifest: desc}
	if err := s.document(ctx, manifest.Config, maxConfig, &img.Config); err != nil {
		return nil, fmt.Errorf("read image configuration: %w", lost(err))
	}
	img.Layers = img.Config.RootFS.DiffIDs
	if err := checkLayers(&manifest, img.Layers); err != nil {
		return nil, fmt.Errorf("image %s: %w", target.Digest, err)
	}
	img.Platform = platforms.Normalize(ocispec.Platform{
		OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant, OSVersion: img.Config.OSVersion,
	})
	if img.Config.Created != nil {
		img.Created = *img.Config.Created
	}
	img.Size = desc.Size + manifest.Config.Size
	for i, key := range s.layers.keys(img.Layers) {
		img.Size += manifest.Layers[i].Size + s.layers.size(key)
	}
	return img, nil
}

// choose picks the manifest of a platform, or for nil of the host's or the only one.
func (s *Store) choose(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Descriptor, error) {
	if images.IsManifestType(target.MediaType) {
		return target, s.checkPlatform(ctx, target, platform)
	}
	if !images.IsIndexType(target.MediaType) {
		return target, noImage(target)
	}
	var index ocispec.Index
	if err := s.document(ctx, target, maxManifest, &index); err != nil {
		return target, fmt.Errorf("read index: %w", lost(err))
	}
	present, err := s.whole(ctx, target, index.Manifests)
	if err != nil {
		return target, err
	}
	return best(target, slices.DeleteFunc(present, func(d ocispec.Descriptor) bool { return !images.IsManifestType(d.MediaType) }), platform)
}

// isAttestation tells BuildKit's statements about an image, which are no images.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] != "" || (d.Platform != nil && d.Platform.OS == "unknown")
}

// best is the manifest that fits the platform best.
func best(target ocispec.Descriptor, list []ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Descriptor, error) {
	matcher := platforms.Default()
	if platform != nil {
		matcher = platforms.Only(*platform)
	}
	var found *ocispec.Descriptor
	for i, d := range list {
		if d.Platform != nil && matcher.Match(*d.Platform) && (found == nil || matcher.Less(*d.Platform, *found.Platform)) {
			found = &list[i]
		}
	}
	switch {
	case found != nil:
		return *found, nil
	case platform == nil && len(list) == 1:
		return list[0], nil
	}
	wanted := platforms.DefaultString()
	if platform != nil {
		wanted = platforms.FormatAll(*platform)
	}
	return target, fmt.Errorf("no matching manifest for %s in the manifest list entries, which are for %s: %w", wanted, platformsOf(list), errdefs.ErrNotFound)
}

// platformsOf tells the platforms of an index, as far as one reads such a list.
func platformsOf(list []ocispec.Descriptor) string {
	const most = 20
	var names []string
	for _, d := range list {
		name := "a platform that is not named"
		if d.Platform != nil {
			name = platforms.FormatAll(*d.Platform)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch {
	case len(names) == 0:
		return "no platform"
	case len(names) > most:
		names = append(names[:most], fmt.Sprintf("%d more", len(names)-most))
	}
	return strings.Join(names, ", ")
}

// checkPlatform refuses an image without an index that is of another platform than the one asked for.
func (s *Store) checkPlatform(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) error {
	if platform == nil {
		return nil
	}
	var manifest ocispec.Manifest
	if err := s.document(ctx, target, maxManifest, &manifest); err != nil {
		return err
	}
	var config ocispec.Image
	if err := s.document(ctx, manifest.Config, maxConfig, &config); err != nil {
		return fmt.Errorf("read the image's platform: %w", err)
	}
	have := platforms.Normalize(config.Platform)
	if !platforms.Only(*platform).Match(have) {
		return fmt.Errorf("image with reference %s was found but does not provide the specified platform (%s): %w",
			target.Digest, platforms.FormatAll(*platform), errdefs.ErrNotFound)
	}
	return nil
}

// List returns every image, one value an ID: for the host's platform, or for another one that it was pulled for.
func (s *Store) List(ctx context.Context) ([]*Image, error) {
	s.mu.Lock()
	targets := map[digest.Digest]ocispec.Descriptor{}
	for _, i := range s.index {
		targets[i.Target.Digest] = i.Target
	}
	s.mu.Unlock()
	var list []*Image
	for _, target := range targets {
		img, err := s.resolveAny(ctx, target)
		if errdefs.IsNotFound(err) { // removed meanwhile
			continue
		}
		if isDamaged(err) { // the others are not
			s.warnOnce(target.Digest, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, img)
	}
	slices.SortFunc(list, func(a, b *Image) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return list, nil
}

// resolveAny is resolve for the host's platform, or for another one if the image was pulled for others only.
func (s *Store) resolveAny(ctx context.Context, target ocispec.Descriptor) (*Image, error) {
	img, err := s.resolve(ctx, target, nil)
	if !errdefs.IsNotFound(err) || !images.IsIndexType(target.MediaType) {
		return img, err
	}
	ctx = inNamespace(ctx)
	var index ocispec.Index
	if err := s.document(ctx, target, maxManifest, &index); err != nil {
		return nil, lost(err)
	}
	present, wholeErr := s.whole(ctx, target, index.Manifests)
	if wholeErr != nil {
		return nil, wholeErr
	}
	for _, d := range present {
		if d.Platform != nil {
			return s.resolve(ctx, target, d.Platform)
		}
	}
	return nil, err
}

// warnOnce logs what is wrong with an image, not every time that someone looks.
func (s *Store) warnOnce(target digest.Digest, err error) {
	if _, known := s.damaged.LoadOrStore(target, true); !known {
		slog.Warn("a damaged image is not listed: remove it and pull it again", "image", target, "error", err)
	}
}

// Tag makes a further name for an image; an existing name is moved.
func (s *Store) Tag(ctx context.Context, refOrID, name string) (*Image, error) {
	target, err := s.findOrRestore(ctx, refOrID)
	if err != nil {
		return nil, err
	}
	named, err := normalize(name)
	if err != nil {
		return nil, fmt.Errorf("invalid reference format: %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	if _, byDigest := named.(reference.Digested); byDigest {
		return nil, fmt.Errorf("refusing to create a tag with a digest reference: %q: %w", name, errdefs.ErrInvalidArgument)
	}
	if _, err := s.resolveAny(ctx, target); err != nil { // what cannot be used gets no further name
		return nil, err
	}
	if err := s.setName(inNamespace(ctx), named.String(), target); err != nil {
		return nil, err
	}
	return s.resolveAny(ctx, target)
}

// Rootfs returns the image's layer directories for overlay's lowerdir, topmost first. Their content must not be changed.
func (s *Store) Rootfs(_ context.Context, img *Image) ([]string, error) {
	dirs, missing := s.layers.stack(img.Layers)
	if missing != "" {
		return nil, fmt.Errorf("layer %s of image %s is not here: pull the image again: %w", missing, img.ID, errdefs.ErrNotFound)
	}
	if len(dirs) == 0 {
		return nil, errors.New("the image has no layers")
	}
	return dirs, nil
}
