package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"gantry/internal/image/toolbox"
)

// Store is the images of one engine. It is safe for concurrent use.
type Store struct {
	o       Options
	bolt    *bbolt.DB
	db      *metadata.DB
	content content.Store
	backend content.Store // what content keeps its blobs in
	names   images.Store
	leases  leases.Manager
	layers  *layers
	ingests ingests
	flights flights // one transfer a blob, however many pull it

	embeddedArchive func() ([]byte, error) // toolbox.Archive, but in tests

	// life is held by what decides by who needs what: naming, removing, holding, collecting. It is taken before mu.
	life sync.Mutex

	damaged sync.Map // targets whose damage was logged

	mu       sync.Mutex // guards what follows
	index    map[string]images.Image
	resolved map[resolveKey]*Image
	changes  int                   // how often resolved was cleared
	holds    map[string]*Image     // by container
	pins     map[digest.Digest]int // layers that a pull or load under way counts on
}

// namespace is containerd's for its metadata; there is one.
const namespace = "gantry"

func inNamespace(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// Open opens the store, removing what an interrupted pull or removal left behind. What containers need is not known
// yet: the caller tells by Hold, and calls Collect then.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	ctx = inNamespace(ctx)
	if o.MaxLayerBytes == 0 {
		o.MaxLayerBytes = 64 << 30
	}
	if o.MaxLayerEntries == 0 {
		o.MaxLayerEntries = 4 << 20
	}
	if err := os.MkdirAll(o.Root, 0o711); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	blobs, err := local.NewStore(filepath.Join(o.Root, "content"))
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s := &Store{o: o, backend: blobs, embeddedArchive: toolbox.Archive, index: map[string]images.Image{}, resolved: map[resolveKey]*Image{}, holds: map[string]*Image{}, pins: map[digest.Digest]int{}}
	if s.bolt, err = bbolt.Open(filepath.Join(o.Root, "metadata.db"), 0o600, &bbolt.Options{Timeout: time.Second}); err != nil {
		return nil, fmt.Errorf("open image metadata: %w (is another engine using this root?)", err)
	}
	// From here on this process is the only one: what is unfinished is nobody's.
	if s.layers, err = openLayers(filepath.Join(o.Root, "layers"), o); err != nil {
		return nil, errors.Join(err, s.bolt.Close())
	}
	s.db = metadata.NewDB(s.bolt, blobs, nil)
	if err := s.db.Init(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open image metadata: %w", err), s.bolt.Close())
	}
	s.ingests.dir = filepath.Join(o.Root, "content", "ingest")
	s.content, s.names, s.leases = s.db.ContentStore(), metadata.NewImageStore(s.db), metadata.NewLeaseManager(s.db)
	if err := s.recover(ctx); err != nil {
		return nil, errors.Join(err, s.bolt.Close())
	}
	return s, nil
}

// recover reads the names and drops leases and half-written blobs of an earlier process.
func (s *Store) recover(ctx context.Context) error {
	list, err := s.names.List(ctx)
	if err != nil {
		return fmt.Errorf("read image names: %w", err)
	}
	for _, i := range list {
		s.index[i.Name] = i
	}
	stale, err := s.leases.List(ctx)
	if err != nil {
		return fmt.Errorf("read image leases: %w", err)
	}
	for _, l := range stale {
		if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("drop image lease %s: %w", l.ID, err)
		}
	}
	open, err := s.content.ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("read unfinished transfers: %w", err)
	}
	for _, status := range open {
		if err := s.content.Abort(ctx, status.Ref); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("drop unfinished transfer %s: %w", status.Ref, err)
		}
	}
	s.ingests.sweep()
	if err := os.Remove(s.markPath() + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("drop an unfinished mark: %w", err)
	}
	return s.dropUnknown(ctx)
}

// dropUnknown removes blobs that the metadata does not know: a process that was killed had put them in their places, and
// not recorded them yet.
func (s *Store) dropUnknown(ctx context.Context) error {
	known, err := s.blobs(ctx)
	if err != nil {
		return fmt.Errorf("read blobs: %w", err)
	}
	var unknown []digest.Digest
	if err := s.backend.Walk(ctx, func(info content.Info) error {
		if _, found := known[info.Digest]; !found {
			unknown = append(unknown, info.Digest)
		}
		return nil
	}); err != nil && !errors.Is(err, os.ErrNotExist) { // there never was one
		return fmt.Errorf("read blobs: %w", err)
	}
	for _, d := range unknown {
		if err := s.backend.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("drop unknown blob %s: %w", d, err)
		}
	}
	return nil
}

// Close closes the store's files.
func (s *Store) Close() error { return s.bolt.Close() }

// leased makes everything that f stores safe from collection until it has returned.
func (s *Store) leased(ctx context.Context, f func(ctx context.Context) error) (err error) {
	ctx = inNamespace(ctx)
	defer s.ingests.begin()(&err)
	lease, err := s.leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(24*time.Hour))
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	defer func() {
		err = errors.Join(err, s.leases.Delete(context.WithoutCancel(ctx), lease))
	}()
	return f(leases.WithLease(ctx, lease.ID))
}

func leaseOf(ctx context.Context) string {
	lease, _ := leases.FromContext(ctx)
	return lease
}

// pin keeps the layers of an image, present or to come, from collection until unpin.
func (s *Store) pin(ids []digest.Digest) (unpin func()) {
	layers := append(chainsOf(ids), ids...) // whichever will be their keys
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range layers {
		s.pins[l]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range layers {
			if s.pins[l]--; s.pins[l] == 0 {
				delete(s.pins, l)
			}
		}
	}
}

// setName gives a target a name, durably. An image that loses its last name by that stays as a nameless one.
func (s *Store) setName(ctx context.Context, name string, target ocispec.Descriptor) error {
	s.life.Lock()
	defer s.life.Unlock()
	s.mu.Lock()
	old, had := s.index[name]
	s.forget() // another platform of it may have come
	s.mu.Unlock()
	if had && old.Target.Digest == target.Digest {
		return nil
	}
	if had && s.namesOf(old.Target.Digest) == 1 {
		if err := s.putName(ctx, nameless(old.Target.Digest), old.Target); err != nil {
			return err
		}
	}
	if err := s.putName(ctx, name, target); err != nil {
		return err
	}
	if hidden := nameless(target.Digest); name != hidden && s.hasName(hidden) {
		return s.dropName(ctx, hidden)
	}
	return nil
}

func (s *Store) putName(ctx context.Context, name string, target ocispec.Descriptor) error {
	i := images.Image{Name: name, Target: target}
	stored, err := s.names.Create(ctx, i)
	if errdefs.IsAlreadyExists(err) {
		stored, err = s.names.Update(ctx, i)
	}
	if err != nil {
		return fmt.Errorf("name image %s: %w", name, err)
	}
	s.mu.Lock()
	s.index[name] = stored
	s.forget()
	s.mu.Unlock()
	return nil
}

func (s *Store) dropName(ctx context.Context, name string) error {
	if err := s.names.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image name %s: %w", name, err)
	}
	s.mu.Lock()
	delete(s.index, name)
	s.forget()
	s.mu.Unlock()
	return nil
}

// forget drops what was resolved, by those too that are resolving now; mu is held.
func (s *Store) forget() {
	clear(s.resolved)
	s.changes++
}

func (s *Store) hasName(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, found := s.index[name]
	return found
}

// namesOf counts the names, hidden ones too, of a target.
func (s *Store) namesOf(target digest.Digest) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, i := range s.index {
		if i.Target.Digest == target {
			n++
		}
	}
	return n
}

// namelessPrefix marks, in the database, images whose names were all taken.
const namelessPrefix = "nameless@"

func nameless(target digest.Digest) string { return namelessPrefix + target.String() }
