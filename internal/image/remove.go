package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Remove removes a name, or by ID all names if there is one or force is set, and collects what nothing holds.
// An image that a container holds loses its name only with force, and stays nameless; errdefs.ErrFailedPrecondition otherwise.
func (s *Store) Remove(ctx context.Context, refOrID string, force bool) ([]Removed, error) {
	ctx = inNamespace(ctx)
	target, err := s.find(refOrID)
	if err != nil {
		return nil, err
	}
	names := s.visibleNames(target.Digest)
	held := s.held(target.Digest)
	gone := names
	if named, err := normalize(refOrID); err == nil && slices.Contains(names, named.String()) {
		gone = []string{named.String()}
	} else if len(names) > 1 && !force {
		return nil, fmt.Errorf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories: %w", short(target.Digest), errdefs.ErrConflict)
	}
	last := len(gone) == len(names)
	if last && held && !force {
		return nil, fmt.Errorf("conflict: unable to delete %s (must be forced) - image is being used by a container: %w", short(target.Digest), errdefs.ErrFailedPrecondition)
	}
	if last && held {
		if err := s.putName(ctx, nameless(target.Digest), target); err != nil {
			return nil, err
		}
	}
	var removed []Removed
	for _, name := range gone {
		if err := s.dropName(ctx, name); err != nil {
			return removed, err
		}
		removed = append(removed, Removed{Untagged: name})
	}
	if !last || held {
		return removed, nil
	}
	if err := s.dropName(ctx, nameless(target.Digest)); err != nil {
		return removed, err
	}
	removed = append(removed, Removed{Deleted: target.Digest.String()})
	_, err = s.collect(ctx)
	return removed, err
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
	ctx = inNamespace(ctx)
	list, err := s.List(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, img := range list {
		names := s.visibleNames(img.ID)
		if s.held(img.ID) || (len(names) > 0 && !all) || (keep != nil && keep(img)) {
			continue
		}
		for _, name := range append(names, nameless(img.ID)) {
			if err := s.dropName(ctx, name); err != nil {
				return removed, 0, err
			}
			if !strings.HasPrefix(name, namelessPrefix) {
				removed = append(removed, Removed{Untagged: name})
			}
		}
		removed = append(removed, Removed{Deleted: img.ID.String()})
	}
	reclaimed, err = s.collect(ctx)
	return removed, reclaimed, err
}

// Collect removes blobs and layers that no name, hold or transfer needs. The caller has told its holds before.
func (s *Store) Collect(ctx context.Context) error {
	_, err := s.collect(inNamespace(ctx))
	return err
}

func (s *Store) collect(ctx context.Context) (reclaimed int64, err error) {
	before := s.blobBytes(ctx)
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return 0, fmt.Errorf("collect image garbage: %w", err)
	}
	reclaimed = before - s.blobBytes(ctx)
	needed, err := s.neededLayers(ctx)
	if err != nil {
		return reclaimed, err
	}
	var gone []string
	s.mu.Lock()
	for _, id := range s.layers.ids() {
		if needed[id] || s.pins[id] > 0 {
			continue
		}
		dir, size, takeErr := s.layers.take(id)
		if takeErr != nil {
			err = errors.Join(err, takeErr)
			continue
		}
		gone = append(gone, dir)
		reclaimed += size
	}
	s.mu.Unlock()
	for _, dir := range gone {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return reclaimed, err
}

func (s *Store) blobBytes(ctx context.Context) (sum int64) {
	infos, _ := s.blobs(ctx)
	for _, size := range infos {
		sum += size
	}
	return sum
}

// neededLayers are the layers of every image of every platform that is here, and of what containers hold.
func (s *Store) neededLayers(ctx context.Context) (map[digest.Digest]bool, error) {
	needed := map[digest.Digest]bool{}
	s.mu.Lock()
	targets := map[digest.Digest]ocispec.Descriptor{}
	for _, i := range s.index {
		targets[i.Target.Digest] = i.Target
	}
	for _, img := range s.holds {
		for _, l := range img.Layers {
			needed[l] = true
		}
	}
	s.mu.Unlock()
	for _, target := range targets {
		if err := s.addLayers(ctx, target, needed); err != nil {
			return nil, err
		}
	}
	return needed, nil
}

// Hold keeps an image's blobs and layers while the container (its id) exists. Holds are in memory only: whoever opens
// the store tells them again. Idempotent.
func (s *Store) Hold(_ context.Context, container string, img *Image) error {
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
