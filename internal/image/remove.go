package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Removal is what Remove would do with a reference or an ID.
type Removal struct {
	ID    digest.Digest
	Names []string // that are removed
	ByID  bool     // an ID, or a prefix of one, was given: all names are removed
	Last  bool     // no name is left then, and the image goes with the last one
	More  bool     // of several names, all are removed, without being told so by a reference
}

// Removal finds what Remove would do. It works for damaged images, and for those that cannot run here.
func (s *Store) Removal(refOrID string) (Removal, error) {
	_, plan, err := s.removal(refOrID)
	return plan, err
}

func (s *Store) removal(refOrID string) (ocispec.Descriptor, Removal, error) {
	target, err := s.find(refOrID)
	if err != nil {
		return target, Removal{}, err
	}
	names := s.visibleNames(target.Digest)
	plan := Removal{ID: target.Digest, Names: sameReferences(refOrID, names)}
	if len(plan.Names) == 0 {
		plan.ByID, plan.Names, plan.More = true, names, len(names) > 1
	}
	plan.Last = len(plan.Names) == len(names)
	return target, plan, nil
}

// sameReferences are the names that a reference stands for. As docker has it: name@digest stands for all names in that
// repository; and the last tag of a repository stands for the repository's digests, too.
func sameReferences(ref string, names []string) []string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil
	}
	_, digested := named.(reference.Digested)
	tagged, hasTag := reference.TagNameOnly(named).(reference.Tagged)
	var same, digests []string
	found, otherTags := false, false
	for _, name := range names {
		known, err := reference.ParseNormalizedNamed(name)
		if err != nil || known.Name() != named.Name() {
			continue
		}
		knownTag, isTag := known.(reference.Tagged)
		switch {
		case digested && !hasTag, hasTag && isTag && knownTag.Tag() == tagged.Tag():
			same, found = append(same, name), true
		case isTag:
			otherTags = true
		default:
			digests = append(digests, name)
		}
	}
	if found && !otherTags {
		same = append(same, digests...)
	}
	return same
}

// Remove removes a name, or by ID all names if there is one or force is set, and collects what nothing holds.
// An image that a container holds loses its name only with force, and stays nameless; errdefs.ErrFailedPrecondition otherwise.
func (s *Store) Remove(ctx context.Context, refOrID string, force bool) ([]Removed, error) {
	s.life.Lock()
	removed, gone, err := s.remove(inNamespace(ctx), refOrID, force)
	s.life.Unlock()
	return removed, errors.Join(err, gone.remove())
}

func (s *Store) remove(ctx context.Context, refOrID string, force bool) ([]Removed, garbage, error) {
	target, plan, err := s.removal(refOrID)
	if err != nil {
		return nil, garbage{}, err
	}
	if plan.More && !force {
		return nil, garbage{}, fmt.Errorf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories: %w", short(target.Digest), errdefs.ErrConflict)
	}
	held := s.held(target.Digest)
	if plan.Last && held && !force {
		return nil, garbage{}, fmt.Errorf("conflict: unable to delete %s (must be forced) - image is being used by a container: %w", short(target.Digest), errdefs.ErrFailedPrecondition)
	}
	if plan.Last && held {
		if err := s.putName(ctx, nameless(target.Digest), target); err != nil {
			return nil, garbage{}, err
		}
	}
	var removed []Removed
	for _, name := range plan.Names {
		if err := s.dropName(ctx, name); err != nil {
			return removed, garbage{}, err
		}
		removed = append(removed, Removed{Untagged: name})
	}
	if !plan.Last || held {
		return removed, garbage{}, nil
	}
	if err := s.dropName(ctx, nameless(target.Digest)); err != nil {
		return removed, garbage{}, err
	}
	removed = append(removed, Removed{Deleted: target.Digest.String()})
	gone, err := s.collect(ctx)
	return removed, gone, err
}

func (s *Store) visibleNames(target digest.Digest) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, i := range s.index {
		if i.Target.Digest == target && !strings.HasPrefix(name, namelessPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *Store) held(target digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, img := range s.holds {
		if img.ID == target {
			return true
		}
	}
	return false
}

// Prune removes every image without a name and, with all, every one that no container holds, but for those that keep
// wants to keep; and collects garbage. Reclaimed is in bytes.
func (s *Store) Prune(ctx context.Context, all bool, keep func(*Image) bool) (removed []Removed, reclaimed int64, err error) {
	s.life.Lock()
	removed, gone, err := s.prune(inNamespace(ctx), all, keep)
	s.life.Unlock()
	return removed, gone.bytes, errors.Join(err, gone.remove())
}

func (s *Store) prune(ctx context.Context, all bool, keep func(*Image) bool) (removed []Removed, gone garbage, err error) {
	list, err := s.List(ctx)
	if err != nil {
		return nil, gone, err
	}
	for _, img := range list {
		names := s.visibleNames(img.ID)
		if s.held(img.ID) || (len(names) > 0 && !all) || (keep != nil && keep(img)) {
			continue
		}
		for _, name := range append(names, nameless(img.ID)) {
			if err := s.dropName(ctx, name); err != nil {
				return removed, gone, err
			}
			if !strings.HasPrefix(name, namelessPrefix) {
				removed = append(removed, Removed{Untagged: name})
			}
		}
		removed = append(removed, Removed{Deleted: img.ID.String()})
	}
	gone, err = s.collect(ctx)
	return removed, gone, err
}

// Collect removes blobs and layers that no name, hold or transfer needs. The caller has told its holds before.
func (s *Store) Collect(ctx context.Context) error {
	s.life.Lock()
	gone, err := s.collect(inNamespace(ctx))
	s.life.Unlock()
	return errors.Join(err, gone.remove())
}

// garbage is layers that were taken from their places, and the bytes of all that was collected. Its removal may take
// long, and nobody has to wait for it: what a crash leaves of it, Open removes.
type garbage struct {
	dirs  []string
	bytes int64
}

func (g garbage) remove() error {
	var errs []error
	for _, dir := range g.dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// collect is Collect; life is held. Pulls and loads go on meanwhile: leases keep their blobs, pins their layers.
func (s *Store) collect(ctx context.Context) (gone garbage, err error) {
	before := s.blobBytes(ctx)
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return gone, fmt.Errorf("collect image garbage: %w", err)
	}
	gone.bytes = before - s.blobBytes(ctx)
	needed, err := s.neededLayers(ctx)
	if isDamaged(err) {
		// Its layers are not known, so none is known to be garbage: a container may be running on them.
		slog.Warn("layers are not collected while there is a damaged image", "error", err)
		return gone, nil
	}
	if err != nil {
		return gone, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.layers.ids() {
		if needed.has(id, s.layers.dependent(id)) || s.pins[id] > 0 {
			continue
		}
		dir, size, takeErr := s.layers.take(id)
		if takeErr != nil {
			err = errors.Join(err, takeErr)
			continue
		}
		gone.dirs = append(gone.dirs, dir)
		gone.bytes += size
	}
	return gone, err
}

// isDamaged tells that documents of an image are not what they were.
func isDamaged(err error) bool {
	return errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err) || errors.Is(err, io.ErrUnexpectedEOF)
}

func (s *Store) blobBytes(ctx context.Context) (sum int64) {
	infos, _ := s.blobs(ctx)
	for _, size := range infos {
		sum += size
	}
	return sum
}

// neededLayers are the layers of every image of every platform that is here, and of what containers hold.
func (s *Store) neededLayers(ctx context.Context) (neededLayers, error) {
	needed := neededLayers{map[digest.Digest]bool{}, map[digest.Digest]bool{}}
	s.mu.Lock()
	targets := map[digest.Digest]ocispec.Descriptor{}
	for _, i := range s.index {
		targets[i.Target.Digest] = i.Target
	}
	for _, img := range s.holds {
		needed.add(img.Layers)
	}
	s.mu.Unlock()
	for _, target := range targets {
		if err := s.addLayers(ctx, target, needed); err != nil {
			return needed, fmt.Errorf("image %s: %w", target.Digest, err)
		}
	}
	return needed, nil
}

// neededLayers are layers that images need, by what their keys may be.
type neededLayers struct{ ids, chains map[digest.Digest]bool }

// add adds the layers of an image, given by their diff ids from the lowest.
func (n neededLayers) add(ids []digest.Digest) {
	for i, chain := range chainsOf(ids) {
		n.ids[ids[i]], n.chains[chain] = true, true
	}
}

func (n neededLayers) has(key digest.Digest, dependent bool) bool {
	if dependent {
		return n.chains[key]
	}
	return n.ids[key]
}

// Hold keeps an image's blobs and layers while the container (its id) exists. Holds are in memory only: whoever opens
// the store tells them again. Idempotent. An image that was removed since it was resolved is errdefs.ErrNotFound.
func (s *Store) Hold(_ context.Context, container string, img *Image) error {
	s.life.Lock() // not while it is being removed
	defer s.life.Unlock()
	if s.namesOf(img.ID) == 0 {
		return fmt.Errorf("image %s was removed: %w", img.ID, errdefs.ErrNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[container] = img
	return nil
}

// Release ends a hold. Idempotent.
func (s *Store) Release(_ context.Context, container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holds, container)
	return nil
}

// Holders returns the containers that hold an image, by its ID.
func (s *Store) Holders(context.Context) (map[digest.Digest][]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	holders := map[digest.Digest][]string{}
	for container, img := range s.holds {
		holders[img.ID] = append(holders[img.ID], container)
	}
	return holders, nil
}
