package engine

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	imageapi "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/image"
)

// PullImage fetches an image from its registry.
func (e *Engine) PullImage(ctx context.Context, ref string, platform *ocispec.Platform, auth *image.Auth, progress func(image.Progress)) (*image.Image, error) {
	img, err := e.images.Pull(ctx, ref, image.PullOptions{Platform: platform, Auth: auth, Progress: progress})
	if err == nil {
		e.imageEvent(events.ActionPull, familiarName(ref), bareName(ref))
	}
	return img, err
}

// LoadImages imports a docker or OCI archive.
func (e *Engine) LoadImages(ctx context.Context, r io.Reader, progress func(image.Progress)) ([]image.Loaded, error) {
	list, err := e.images.Load(ctx, r, progress)
	for _, img := range list {
		e.imageEvent(events.ActionLoad, img.ID.String(), img.ID.String())
	}
	return list, err
}

func (e *Engine) imageEvent(action events.Action, id, name string) {
	e.events.publish(events.ImageEventType, action, id, map[string]string{"name": name})
}

// image finds an image and says it in docker's words if there is none.
func (e *Engine) image(ctx context.Context, ref string, platform *ocispec.Platform) (*image.Image, error) {
	img, err := e.images.Get(ctx, ref, platform)
	return img, noSuchImage(ref, err)
}

// noSuchImage says in docker's words that there is no such image; other errors stay as they are.
func noSuchImage(ref string, err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("No such image: %s%w", familiarName(ref), noText{err})
	}
	return err
}

// familiarName is a name as docker shows it, with its tag: debian:latest.
func familiarName(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(reference.TagNameOnly(ref))
}

// bareName is familiarName without a tag or digest.
func bareName(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarName(ref)
}

// familiar shortens names as docker shows them: debian:12 for docker.io/library/debian:12.
func familiar(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		if ref, err := reference.ParseNormalizedNamed(n); err == nil {
			n = reference.FamiliarString(ref)
		}
		out = append(out, n)
	}
	return out
}

// ListImages lists the images that the filters (reference, dangling, label, before, since, until) select, newest first.
func (e *Engine) ListImages(ctx context.Context, _ bool, filters map[string]map[string]bool) ([]imageapi.Summary, error) {
	match, err := e.imageFilter(ctx, filters)
	if err != nil {
		return nil, err
	}
	list, err := e.images.List(ctx)
	if err != nil {
		return nil, err
	}
	holders, err := e.images.Holders(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b *image.Image) int { return b.Created.Compare(a.Created) })
	out := []imageapi.Summary{}
	for _, img := range list {
		if !match(img) {
			continue
		}
		names, digests := shownNames(img, filters["reference"])
		if len(filters["reference"]) > 0 && len(names)+len(digests) == 0 {
			continue
		}
		target := ocispec.Descriptor{MediaType: img.Manifest.MediaType, Digest: img.ID, Size: img.Manifest.Size}
		s := imageapi.Summary{
			ID: img.ID.String(), Created: img.Created.Unix(), Size: img.Size, SharedSize: -1, Containers: int64(len(holders[img.ID])),
			RepoTags: familiar(names), RepoDigests: familiar(digests), Labels: img.Config.Config.Labels, Descriptor: &target,
		}
		if s.Labels == nil {
			s.Labels = map[string]string{}
		}
		out = append(out, s)
	}
	return out, nil
}

func (e *Engine) imageFilter(ctx context.Context, filters map[string]map[string]bool) (func(*image.Image) bool, error) {
	if err := knownFilters(filters, "reference", "dangling", "label", "before", "since", "until"); err != nil {
		return nil, err
	}
	if err := boolFilters(filters, "dangling"); err != nil {
		return nil, err
	}
	for pattern := range filters["reference"] {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("the pattern %q of the filter reference: %w: %w", pattern, err, errdefs.ErrInvalidArgument)
		}
	}
	border := map[string]time.Time{}
	for _, key := range []string{"before", "since"} {
		for ref := range filters[key] {
			img, err := e.image(ctx, ref, nil)
			if err != nil {
				return nil, err
			}
			border[key] = img.Created
		}
	}
	for text := range filters["until"] {
		t, err := parseTime(text)
		if err != nil {
			return nil, err
		}
		border["until"] = t
	}
	return func(img *image.Image) bool {
		before, since, until := border["before"], border["since"], border["until"]
		return anyMatch(filters["dangling"], func(s string) bool { return isTrue(s) == (len(img.Names) == 0) }) &&
			labelsMatch(filters["label"], img.Config.Config.Labels) &&
			(before.IsZero() || img.Created.Before(before)) && (since.IsZero() || img.Created.After(since)) &&
			(until.IsZero() || img.Created.Before(until))
	}, nil
}

// shownNames are the names of an image that one of the patterns matches, or all without a pattern. Of the digests, those
// in the repositories of these names are shown, and those that a pattern matches.
func shownNames(img *image.Image, patterns map[string]bool) (names, digests []string) {
	if len(patterns) == 0 {
		return img.Names, img.Digests
	}
	repositories := map[string]bool{}
	for _, name := range img.Names {
		if ref, err := reference.ParseNormalizedNamed(name); err == nil && matchReference(ref, patterns) {
			names = append(names, name)
			repositories[ref.Name()] = true
		}
	}
	for _, name := range img.Digests {
		if ref, err := reference.ParseNormalizedNamed(name); err == nil && (repositories[ref.Name()] || tagless(img, ref) && matchReference(ref, patterns)) {
			digests = append(digests, name)
		}
	}
	return names, digests
}

// tagless tells a repository in which an image has a digest, but no tag.
func tagless(img *image.Image, repository reference.Named) bool {
	return !slices.ContainsFunc(img.Names, func(name string) bool {
		ref, err := reference.ParseNormalizedNamed(name)
		return err == nil && ref.Name() == repository.Name()
	})
}

// matchReference matches the short and the full form of a reference, each with and without its tag.
func matchReference(ref reference.Named, patterns map[string]bool) bool {
	for pattern := range patterns {
		for _, form := range []string{reference.FamiliarString(ref), reference.FamiliarName(ref), reference.TagNameOnly(ref).String(), ref.Name()} {
			if found, err := path.Match(pattern, form); err == nil && found {
				return true
			}
		}
	}
	return false
}

// InspectImage describes an image.
func (e *Engine) InspectImage(ctx context.Context, ref string, platform *ocispec.Platform) (*imageapi.InspectResponse, error) {
	img, err := e.image(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	config := img.Config.Config
	r := &imageapi.InspectResponse{
		ID: img.ID.String(), RepoTags: familiar(img.Names), RepoDigests: familiar(img.Digests), Created: stamp(img.Created), Author: img.Config.Author,
		Config: &config, Architecture: img.Platform.Architecture, Variant: img.Platform.Variant, Os: img.Platform.OS, OsVersion: img.Platform.OSVersion,
		Size: img.Size, RootFS: imageapi.RootFS{Type: "layers"}, Metadata: imageapi.Metadata{LastTagTime: img.LastTagged},
		Descriptor: &ocispec.Descriptor{MediaType: img.Manifest.MediaType, Digest: img.ID, Size: img.Manifest.Size},
	}
	for _, layer := range img.Layers {
		r.RootFS.Layers = append(r.RootFS.Layers, layer.String())
	}
	return r, nil
}

// HistoryImage lists the steps that an image was built by, latest first. Sizes of single layers are not kept.
func (e *Engine) HistoryImage(ctx context.Context, ref string, platform *ocispec.Platform) ([]imageapi.HistoryResponseItem, error) {
	img, err := e.image(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	list := []imageapi.HistoryResponseItem{}
	for _, h := range slices.Backward(img.Config.History) {
		item := imageapi.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		list = append(list, item)
	}
	if len(list) > 0 {
		list[0].ID, list[0].Tags = img.ID.String(), familiar(img.Names)
	}
	return list, nil
}

// TagImage gives an image another name.
func (e *Engine) TagImage(ctx context.Context, ref, name string) error {
	if bareName(name) == string(digest.Canonical) {
		return refuse("refusing to create an ambiguous tag using digest algorithm as name")
	}
	img, err := e.images.Tag(ctx, ref, name)
	err = noSuchImage(ref, err)
	if err == nil {
		e.imageEvent(events.ActionTag, img.ID.String(), familiarName(name))
	}
	return err
}

// RemoveImage takes a name off an image, and the image away with its last name. Containers made from it, running or
// not, keep it: then force is needed, and the image stays until they are gone.
func (e *Engine) RemoveImage(ctx context.Context, ref string, force, _ bool) ([]imageapi.DeleteResponse, error) {
	plan, err := e.images.Removal(ref)
	if err != nil {
		return nil, noSuchImage(ref, err)
	}
	if err := e.checkRemoval(ctx, plan, force); err != nil {
		return nil, err
	}
	removed, err := e.images.Remove(ctx, ref, force)
	if err != nil {
		return nil, err
	}
	out := []imageapi.DeleteResponse{}
	for _, r := range removed {
		if r.Untagged != "" {
			name := familiar([]string{r.Untagged})[0]
			out = append(out, imageapi.DeleteResponse{Untagged: name})
			e.imageEvent(events.ActionUnTag, plan.ID.String(), plan.ID.String())
		}
		if r.Deleted != "" {
			out = append(out, imageapi.DeleteResponse{Deleted: r.Deleted})
			e.imageEvent(events.ActionDelete, r.Deleted, r.Deleted)
		}
	}
	return out, nil
}

// checkRemoval refuses, in docker's words, what would take the last name of an image that a container uses.
func (e *Engine) checkRemoval(ctx context.Context, plan image.Removal, force bool) error {
	if !plan.Last {
		return nil
	}
	holders, err := e.images.Holders(ctx)
	if err != nil {
		return err
	}
	for _, id := range holders[plan.ID] {
		c, err := e.lookup(id)
		if err != nil {
			continue
		}
		alive := c.view().phase.alive()
		short := plan.ID.Encoded()[:12]
		switch {
		case alive && (plan.ByID || !force):
			return fmt.Errorf("conflict: unable to delete %s (cannot be forced) - image is being used by running container %s%w", short, id[:12], noText{errdefs.ErrConflict})
		case !alive && !force:
			return fmt.Errorf("conflict: unable to delete %s (must be forced) - image is being used by stopped container %s%w", short, id[:12], noText{errdefs.ErrConflict})
		}
	}
	return nil
}

// PruneImages removes images without a name, or with the filter dangling=false all that no container uses.
func (e *Engine) PruneImages(ctx context.Context, filters map[string]map[string]bool) (imageapi.PruneReport, error) {
	report := imageapi.PruneReport{ImagesDeleted: []imageapi.DeleteResponse{}}
	if err := boolFilters(filters, "dangling"); err != nil {
		return report, err
	}
	all := false
	rest := map[string]map[string]bool{}
	for key, values := range filters {
		if key != "dangling" {
			rest[key] = values
			continue
		}
		for v := range values {
			all = all || !isTrue(v)
		}
	}
	match, err := pruneFilter(rest)
	if err != nil {
		return report, err
	}
	removed, reclaimed, err := e.images.Prune(ctx, all, func(img *image.Image) bool { return !match(img.Created, img.Config.Config.Labels) })
	for _, r := range removed {
		report.ImagesDeleted = append(report.ImagesDeleted, imageapi.DeleteResponse{Untagged: r.Untagged, Deleted: r.Deleted})
	}
	report.SpaceReclaimed = uint64(max(reclaimed, 0))
	return report, err
}

// heldImages counts, for Info.
func (e *Engine) heldImages(ctx context.Context) int {
	seen := map[digest.Digest]bool{}
	list, err := e.images.List(ctx)
	if err != nil {
		return 0
	}
	for _, img := range list {
		seen[img.ID] = true
	}
	return len(seen)
}
