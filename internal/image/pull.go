package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
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
	resolver := s.resolver(named, o.Auth)
	full := named.String()
	_, target, err := resolver.Resolve(ctx, full)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", reference.FamiliarString(named), classify(err))
	}
	fetcher, err := resolver.Fetcher(ctx, full)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", reference.FamiliarString(named), classify(err))
	}
	p := &pull{store: s, ref: full, fetcher: fetcher, progress: o.Progress}
	var img *Image
	err = s.leased(ctx, func(ctx context.Context) error {
		manifest, err := p.manifests(ctx, target, o.Platform)
		if err != nil {
			return err
		}
		if err := p.layers(ctx, manifest); err != nil {
			return err
		}
		if err := s.setName(ctx, full, target); err != nil {
			return err
		}
		img, err = s.resolve(ctx, target, o.Platform)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", reference.FamiliarString(named), classify(err))
	}
	return img, nil
}

// manifests fetches the target's documents down to the platform's manifest and its configuration, and labels each
// with what it refers to, for the garbage collector.
func (p *pull) manifests(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform) (*ocispec.Manifest, error) {
	s := p.store
	if err := p.document(ctx, target, maxManifest); err != nil {
		return nil, err
	}
	desc := target
	if images.IsIndexType(target.MediaType) {
		var index ocispec.Index
		if err := s.document(ctx, target, maxManifest, &index); err != nil {
			return nil, err
		}
		var err error
		if desc, err = best(target, withoutAttestations(index.Manifests), platform); err != nil {
			return nil, err
		}
		if err := p.document(ctx, desc, maxManifest); err != nil {
			return nil, err
		}
		if err := s.label(ctx, target, []ocispec.Descriptor{desc}); err != nil {
			return nil, err
		}
	}
	if !images.IsManifestType(desc.MediaType) {
		return nil, fmt.Errorf("%s is no image: media type %q: %w", desc.Digest, desc.MediaType, errdefs.ErrInvalidArgument)
	}
	var manifest ocispec.Manifest
	if err := s.document(ctx, desc, maxManifest, &manifest); err != nil {
		return nil, err
	}
	if err := p.document(ctx, manifest.Config, maxConfig); err != nil {
		return nil, err
	}
	return &manifest, s.label(ctx, desc, append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...))
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

// label tells the garbage collector what a document refers to.
func (s *Store) label(ctx context.Context, parent ocispec.Descriptor, children []ocispec.Descriptor) error {
	info := content.Info{Digest: parent.Digest, Labels: map[string]string{}}
	for i, child := range children {
		info.Labels[fmt.Sprintf("containerd.io/gc.ref.content.%d", i)] = child.Digest.String()
	}
	if _, err := s.content.Update(ctx, info, "labels"); err != nil {
		return fmt.Errorf("label %s: %w", parent.Digest, err)
	}
	return nil
}

// document fetches a manifest, index or configuration, of bounded size and verified, unless it is here.
func (p *pull) document(ctx context.Context, desc ocispec.Descriptor, limit int64) error {
	if desc.Size > limit {
		return fmt.Errorf("%s has %d bytes, more than %d: %w", desc.Digest, desc.Size, limit, errdefs.ErrInvalidArgument)
	}
	_, err, _ := p.store.flights.Do(desc.Digest.String(), func() (any, error) {
		return nil, p.transfer(ctx, desc, func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	return nil
}

// transfer fetches a blob into the content store, verified, while consume reads it. A blob that is here is read from there.
func (p *pull) transfer(ctx context.Context, desc ocispec.Descriptor, consume func(io.Reader) error) error {
	store := p.store.content
	w, err := content.OpenWriter(ctx, store, content.WithRef("fetch-"+desc.Digest.String()), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		ra, err := store.ReaderAt(ctx, desc)
		if err != nil {
			return err
		}
		return errors.Join(consume(content.NewReader(ra)), ra.Close())
	}
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }() // committed below, or of no use
	if err := w.Truncate(0); err != nil {
		return err
	}
	rc, err := p.fetcher.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	counted := &verified{r: rc, desc: desc, hash: digest.SHA256.Digester()}
	err = consume(io.TeeReader(counted, w))
	if err = errors.Join(err, rc.Close()); err != nil {
		return errors.Join(err, store.Abort(context.WithoutCancel(ctx), "fetch-"+desc.Digest.String()))
	}
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return errors.Join(err, store.Abort(context.WithoutCancel(ctx), "fetch-"+desc.Digest.String()))
	}
	return nil
}

// verified is a blob as it comes: at its end, it is what the descriptor says or an error.
type verified struct {
	r    io.Reader
	desc ocispec.Descriptor
	hash digest.Digester
	n    int64
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.n += int64(n)
	_, _ = v.hash.Hash().Write(p[:n]) // never fails: hash.Hash
	switch {
	case v.n > v.desc.Size:
		return n, fmt.Errorf("more than the %d bytes that its descriptor says: %w", v.desc.Size, errdefs.ErrInvalidArgument)
	case err == io.EOF && v.n < v.desc.Size:
		return n, fmt.Errorf("truncated: got %d of %d bytes: %w", v.n, v.desc.Size, io.ErrUnexpectedEOF)
	case err == io.EOF && v.hash.Digest() != v.desc.Digest:
		return n, fmt.Errorf("digest mismatch: got %s: %w", v.hash.Digest(), errdefs.ErrInvalidArgument)
	}
	return n, err
}

// layers fetches and unpacks, several at a time, each in one pass.
func (p *pull) layers(ctx context.Context, manifest *ocispec.Manifest) error {
	var config ocispec.Image
	if err := p.store.document(ctx, manifest.Config, maxConfig, &config); err != nil {
		return err
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(manifest.Layers) {
		return fmt.Errorf("the manifest has %d layers, its configuration %d: %w", len(manifest.Layers), len(ids), errdefs.ErrInvalidArgument)
	}
	defer p.store.pin(ids)()
	for _, l := range manifest.Layers {
		p.progress(Progress{ID: short(l.Digest), Status: "Pulling fs layer"})
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for i, layer := range manifest.Layers {
		group.Go(func() error {
			if err := p.layer(ctx, layer, ids[i]); err != nil {
				return fmt.Errorf("layer %s: %w", layer.Digest, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func short(d digest.Digest) string { return d.Encoded()[:min(12, len(d.Encoded()))] }

func (p *pull) layer(ctx context.Context, desc ocispec.Descriptor, id digest.Digest) error {
	if desc.Digest.Validate() != nil {
		return fmt.Errorf("invalid digest %q: %w", desc.Digest, errdefs.ErrInvalidArgument)
	}
	s := p.store
	_, err := s.content.Info(ctx, desc.Digest)
	if err == nil && s.layers.has(id) {
		p.progress(Progress{ID: short(desc.Digest), Status: "Already exists"})
		return nil
	}
	meter := &meter{id: short(desc.Digest), total: desc.Size, report: p.progress}
	_, err, _ = s.layers.flights.Do(desc.Digest.String()+id.String(), func() (any, error) {
		var whole *unpacked
		err := p.transfer(ctx, desc, func(r io.Reader) (err error) {
			meter.r = r
			whole, err = s.layers.unpack(ctx, id, meter)
			return err
		})
		if err != nil {
			if whole != nil {
				err = errors.Join(err, whole.discard())
			}
			return nil, err
		}
		return nil, whole.commit()
	})
	if err == nil {
		p.progress(Progress{ID: short(desc.Digest), Status: "Pull complete"})
	}
	return err
}

// meter reports how much has been read, ten times a second at most.
type meter struct {
	r      io.Reader
	id     string
	n      int64
	total  int64
	last   time.Time
	report func(Progress)
	mu     sync.Mutex // guards n and last: readers may change goroutines
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n += int64(n)
	if now := time.Now(); now.Sub(m.last) > 100*time.Millisecond {
		m.last = now
		m.report(Progress{ID: m.id, Status: "Downloading", Current: m.n, Total: m.total})
	}
	return n, err
}
