package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// parallelLayers are fetched and unpacked at a time.
const parallelLayers = 4

// pull is one pull under way.
type pull struct {
	store    *Store
	ref      string
	fetcher  remotes.Fetcher
	progress func(Progress)
}

// Pull fetches the image that ref ("debian", "registry:5000/app@sha256:…") names and stores it under that name.
// Errors name the reference and the layer; errdefs.ErrNotFound, ErrUnauthenticated, ErrUnavailable classify them.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	named, err := normalize(ref)
	if err != nil {
		return nil, fmt.Errorf("invalid reference format: %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if img, err := s.pullEmbedded(ctx, named.String(), o.Platform); err != nil || img != nil {
		return img, err
	}
	faults := &faults{}
	resolver := s.resolver(named, o.Auth, faults)
	full := named.String()
	_, target, err := resolver.Resolve(ctx, full)
	if err = faults.or(err); err != nil {
		if errdefs.IsNotFound(err) {
			err = fmt.Errorf("manifest unknown: %w", err)
		}
		return nil, fmt.Errorf("pull %s: %w", reference.FamiliarString(named), badAnswer(ctx, classify(ctx, err)))
	}
	fetcher, err := resolver.Fetcher(ctx, full)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", reference.FamiliarString(named), badAnswer(ctx, classify(ctx, err)))
	}
	p := &pull{store: s, ref: full, fetcher: fetcher, progress: o.Progress}
	var img *Image
	err = s.leased(ctx, func(ctx context.Context) error {
		desc, manifest, err := p.manifests(ctx, target, o.Platform)
		if err != nil {
			return err
		}
		ids, err := s.diffIDs(ctx, manifest)
		if err != nil {
			return err
		}
		defer s.pin(ids)() // until the image has its name
		if err := p.layers(ctx, manifest, ids); err != nil {
			return err
		}
		if desc.Digest != target.Digest { // an index has what was pulled whole
			if err := s.label(ctx, target, desc); err != nil {
				return err
			}
		}
		// Nothing is named that could not be used.
		if _, err := s.read(ctx, target, o.Platform); err != nil {
			return err
		}
		if err := s.setName(ctx, full, target); err != nil {
			return err
		}
		img, err = s.resolve(ctx, target, o.Platform)
		return err
	})
	if err != nil {
		err = fmt.Errorf("pull %s: %w", reference.FamiliarString(named), classify(ctx, faults.or(err)))
		return nil, errors.Join(err, s.Collect(context.WithoutCancel(ctx)))
	}
	return img, nil
}

// manifests fetches the target's documents down to the platform's manifest and its configuration, and labels each
// with what it refers to, for the garbage collector.
func (p *pull) manifests(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (desc ocispec.Descriptor, m *ocispec.Manifest, err error) {
	s := p.store
	if err := p.document(ctx, target, maxManifest); err != nil {
		return desc, nil, err
	}
	desc = target
	if images.IsIndexType(target.MediaType) {
		var index ocispec.Index
		if err := s.document(ctx, target, maxManifest, &index); err != nil {
			return desc, nil, err
		}
		offered := withoutAttestations(index.Manifests)
		if platform == nil && slices.ContainsFunc(offered, func(d ocispec.Descriptor) bool { return d.Platform != nil }) {
			host := platforms.DefaultSpec() // what is for another one has to be asked for
			platform = &host
		}
		if desc, err = best(target, offered, platform); err != nil {
			return desc, nil, err
		}
		if err := p.document(ctx, desc, maxManifest); err != nil {
			return desc, nil, err
		}
	}
	if !images.IsManifestType(desc.MediaType) {
		return desc, nil, noImage(desc)
	}
	var manifest ocispec.Manifest
	if err := s.document(ctx, desc, maxManifest, &manifest); err != nil {
		return desc, nil, err
	}
	if n := len(manifest.Layers); n > maxLayers {
		return desc, nil, fmt.Errorf("%s has %d layers, more than %d: %w", desc.Digest, n, maxLayers, errdefs.ErrInvalidArgument)
	}
	for _, l := range manifest.Layers {
		if l.MediaType != "" && !images.IsLayerType(l.MediaType) {
			return desc, nil, fmt.Errorf("%s has a layer of unknown media type %q: %w", desc.Digest, l.MediaType, errdefs.ErrInvalidArgument)
		}
	}
	if err := p.document(ctx, manifest.Config, maxConfig); err != nil {
		return desc, nil, err
	}
	if desc.Digest == target.Digest {
		if err := s.checkPlatform(ctx, desc, platform); err != nil {
			return desc, nil, err
		}
	}
	return desc, &manifest, s.label(ctx, desc, append(manifest.Layers[:len(manifest.Layers):len(manifest.Layers)], manifest.Config)...)
}

func withoutAttestations(list []ocispec.Descriptor) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, d := range list {
		if !isAttestation(d) {
			out = append(out, d)
		}
	}
	return out
}

// document fetches a manifest, index or configuration, of bounded size and verified, unless it is here.
func (p *pull) document(ctx context.Context, desc ocispec.Descriptor, limit int64) error {
	if err := checkDescriptor(desc, limit); err != nil {
		return err
	}
	leave, err := p.store.flights.board(ctx, desc.Digest.String(), nil)
	if err != nil {
		return err
	}
	defer leave()
	if err := p.transfer(ctx, desc, func(r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}); err != nil {
		return fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	return nil
}

// transfer fetches a blob into the content store, verified, while consume reads it. A blob that is here is read from
// there; if it is damaged, it is fetched again, and consume called again.
func (p *pull) transfer(ctx context.Context, desc ocispec.Descriptor, consume func(io.Reader) error) error {
	err := p.fetch(ctx, desc, consume)
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	err = p.store.stored(ctx, desc, consume)
	if !errdefs.IsDataLoss(err) {
		return err
	}
	slog.Warn("a damaged blob is fetched again", "blob", desc.Digest, "error", err)
	if err := p.store.drop(ctx, desc.Digest); err != nil {
		return err
	}
	return p.fetch(ctx, desc, consume)
}

// fetch is transfer for a blob that is not here: errdefs.ErrAlreadyExists if it is.
func (p *pull) fetch(ctx context.Context, desc ocispec.Descriptor, consume func(io.Reader) error) error {
	store := p.store.content
	w, err := content.OpenWriter(ctx, store, content.WithRef("fetch-"+desc.Digest.String()), content.WithDescriptor(desc))
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }() // committed below, or of no use
	if err := w.Truncate(0); err != nil {
		return err
	}
	desc.URLs = nil // the registry's own blob: an image must not make us ask other hosts
	rc, err := p.fetcher.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	blob := &verified{r: rc, desc: desc, hash: desc.Digest.Algorithm().Digester()}
	err = blob.blame(ctx, consume(io.TeeReader(blob, w)))
	if err = errors.Join(err, rc.Close()); err != nil {
		return errors.Join(err, store.Abort(context.WithoutCancel(ctx), "fetch-"+desc.Digest.String()))
	}
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return errors.Join(err, store.Abort(context.WithoutCancel(ctx), "fetch-"+desc.Digest.String()))
	}
	return nil
}

// layers fetches and unpacks, several at a time, each in one pass.
func (p *pull) layers(ctx context.Context, manifest *ocispec.Manifest, ids []digest.Digest) error {
	for _, l := range manifest.Layers {
		p.progress(Progress{ID: short(l.Digest), Status: "Pulling fs layer"})
	}
	waiting := make([]*unpacked, len(ids)) // for the layers below
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for i, layer := range manifest.Layers {
		group.Go(func() (err error) {
			if waiting[i], err = p.layer(groupCtx, layer, ids[:i+1]); err != nil {
				return fmt.Errorf("layer %s: %w", layer.Digest, err)
			}
			return nil
		})
	}
	err := group.Wait()
	for i, layer := range waiting {
		switch {
		case layer == nil:
		case err != nil:
			err = errors.Join(err, layer.discard())
		default:
			if err = p.store.finish(ctx, layer, manifest.Layers[i], ids[:i+1]); err != nil {
				err = fmt.Errorf("layer %s: %w", manifest.Layers[i].Digest, err)
				continue
			}
			p.progress(Progress{ID: short(manifest.Layers[i].Digest), Status: "Pull complete"})
		}
	}
	return err
}

func short(d digest.Digest) string { return d.Encoded()[:min(12, len(d.Encoded()))] }

// layer fetches and unpacks the topmost of some layers. It returns a layer that depends on those below, to be finished
// once these are in their places.
func (p *pull) layer(ctx context.Context, desc ocispec.Descriptor, ids []digest.Digest) (waiting *unpacked, err error) {
	s := p.store
	tell := func(status string) { p.progress(Progress{ID: short(desc.Digest), Status: status}) }
	leave, err := s.flights.board(ctx, desc.Digest.String(), func() { tell("Waiting") })
	if err != nil {
		return nil, err
	}
	defer leave()
	here, err := s.keep(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	if here {
		if err := s.checkSize(ctx, desc); err != nil {
			return nil, err
		}
	}
	if here && s.layers.key(ids) != "" {
		tell("Already exists")
		return nil, nil
	}
	whole, err := p.unpack(ctx, desc, ids[len(ids)-1], here)
	if err != nil || whole.dependent {
		return whole, err
	}
	if err := whole.commit(); err != nil {
		return nil, err
	}
	tell("Pull complete")
	return nil, nil
}

// unpack fetches a layer, or reads it if it is here, and unpacks it meanwhile.
func (p *pull) unpack(ctx context.Context, desc ocispec.Descriptor, id digest.Digest, here bool) (whole *unpacked, err error) {
	meter := &meter{id: short(desc.Digest), status: "Downloading", total: desc.Size, report: p.progress}
	if here {
		meter.status = "Extracting"
	}
	err = p.transfer(ctx, desc, func(r io.Reader) (err error) {
		meter.r = r
		if whole, err = p.store.layers.unpack(ctx, id, meter, nil); err == nil && !here {
			// What was one pass has two names: the rest of it is to put the layer in its place.
			p.progress(Progress{ID: meter.id, Status: "Download complete"})
			p.progress(Progress{ID: meter.id, Status: "Extracting", Current: desc.Size, Total: desc.Size})
		}
		return err
	})
	if err != nil && whole != nil {
		return nil, errors.Join(err, whole.discard())
	}
	return whole, err
}
