package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"gantry/internal/image"
	"gantry/oci/inroot"
)

// volumeRecord is a volume in the state database. Its files are in volumes/NAME/_data.
type volumeRecord struct {
	Name      string
	Created   time.Time
	Labels    map[string]string
	Options   map[string]string
	Anonymous bool
}

// anonymousLabel marks volumes that nobody named, as docker does.
const anonymousLabel = "com.docker.volume.anonymous"

func (e *Engine) volumeDir(name string) string { return filepath.Join(e.o.Root, "volumes", name) }
func (e *Engine) volumeData(name string) string {
	return filepath.Join(e.volumeDir(name), "_data")
}

func (e *Engine) loadVolumes() {
	err := e.store.Each(bucketVolumes, func(key string, value []byte) error {
		var v volumeRecord
		if err := json.Unmarshal(value, &v); err != nil {
			return err
		}
		e.volumes[key] = &v
		return nil
	}, func(key string, err error) {
		e.log.Error("a volume's record is unreadable", "volume", key, "error", err)
	})
	if err != nil {
		e.log.Error("read volumes", "error", err)
	}
}

// CreateVolume makes a volume, or returns the one of that name.
func (e *Engine) CreateVolume(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error) {
	bad := func(format string, a ...any) (*volume.Volume, error) {
		return nil, fmt.Errorf("create volume %s: "+format+"%w", append(append([]any{r.Name}, a...), noText{errdefs.ErrInvalidArgument})...)
	}
	switch {
	case r.Driver != "" && r.Driver != "local":
		return bad("driver %q is not supported, only local", r.Driver)
	case len(r.DriverOpts) > 0:
		return bad("driver options are not supported")
	case r.ClusterVolumeSpec != nil:
		return bad("cluster volumes are not supported")
	}
	if r.Name != "" {
		if err := checkVolumeName(r.Name); err != nil {
			return nil, err
		}
	}
	v, err := e.ensureVolume(ctx, volumeRecord{Name: r.Name, Labels: r.Labels, Options: r.DriverOpts})
	if err != nil {
		return nil, err
	}
	return e.describeVolume(v), nil
}

// ensureVolume returns the volume of that name, made now if need be; an empty name makes an anonymous one.
func (e *Engine) ensureVolume(ctx context.Context, v volumeRecord) (*volumeRecord, error) {
	if v.Name == "" {
		v.Name, v.Anonymous = randomID(), true
		v.Labels = maps.Clone(v.Labels)
		if v.Labels == nil {
			v.Labels = map[string]string{}
		}
		v.Labels[anonymousLabel] = ""
	}
	v.Created = time.Now().UTC()
	e.mu.Lock()
	known := e.volumes[v.Name]
	if known == nil {
		e.volumes[v.Name] = &v
	}
	e.mu.Unlock()
	if known != nil {
		return known, nil
	}
	err := os.MkdirAll(e.volumeData(v.Name), 0o711)
	if err == nil {
		err = os.Chmod(e.volumeData(v.Name), 0o755)
	}
	if err == nil {
		err = e.store.Put(ctx, bucketVolumes, v.Name, v)
	}
	if err != nil {
		e.mu.Lock()
		delete(e.volumes, v.Name)
		e.mu.Unlock()
		return nil, errors.Join(fmt.Errorf("create volume %s: %w", v.Name, err), e.trash.remove(e.volumeDir(v.Name)))
	}
	e.events.publish(events.VolumeEventType, events.ActionCreate, v.Name, map[string]string{"driver": "local"})
	return &v, nil
}

func (e *Engine) describeVolume(v *volumeRecord) *volume.Volume {
	labels := v.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return &volume.Volume{
		Name: v.Name, Driver: "local", Scope: "local", Mountpoint: e.volumeData(v.Name),
		CreatedAt: v.Created.Format(time.RFC3339), Labels: labels, Options: v.Options,
	}
}

// InspectVolume describes a volume.
func (e *Engine) InspectVolume(_ context.Context, name string) (*volume.Volume, error) {
	e.mu.Lock()
	v := e.volumes[name]
	e.mu.Unlock()
	if v == nil {
		return nil, fmt.Errorf("get %s: no such volume%w", name, noText{errdefs.ErrNotFound})
	}
	return e.describeVolume(v), nil
}

// ListVolumes lists the volumes that the filters (name, driver, label, dangling) select.
func (e *Engine) ListVolumes(_ context.Context, filters map[string]map[string]bool) (volume.ListResponse, error) {
	if err := knownFilters(filters, "name", "driver", "label", "dangling"); err != nil {
		return volume.ListResponse{}, err
	}
	if err := boolFilters(filters, "dangling"); err != nil {
		return volume.ListResponse{}, err
	}
	used := e.usedVolumes()
	e.mu.Lock()
	records := slices.Collect(maps.Values(e.volumes))
	e.mu.Unlock()
	slices.SortFunc(records, func(a, b *volumeRecord) int { return strings.Compare(a.Name, b.Name) })
	list := volume.ListResponse{Volumes: []volume.Volume{}}
	for _, v := range records {
		switch {
		case !anyMatch(filters["name"], func(s string) bool { return strings.Contains(v.Name, s) }),
			!anyMatch(filters["driver"], func(s string) bool { return s == "local" }),
			!labelsMatch(filters["label"], v.Labels),
			!anyMatch(filters["dangling"], func(s string) bool { return isTrue(s) == (len(used[v.Name]) == 0) }):
			continue
		}
		list.Volumes = append(list.Volumes, *e.describeVolume(v))
	}
	return list, nil
}

// volumeEvents tells that a run begins or ends to use each of the container's volumes, with docker's attributes.
func (c *Container) volumeEvents(action events.Action) {
	rec := c.view().record
	for _, m := range c.engine.mountPoints(rec) {
		if m.Type != mount.TypeVolume {
			continue
		}
		attributes := map[string]string{"driver": "local", "container": c.ID}
		if action == events.ActionMount {
			attributes["destination"], attributes["propagation"] = m.Destination, string(m.Propagation)
			attributes["read/write"] = strconv.FormatBool(m.RW)
		}
		c.engine.events.publish(events.VolumeEventType, action, m.Name, attributes)
	}
}

// usedVolumes maps a volume's name to the containers that mount it.
func (e *Engine) usedVolumes() map[string][]string {
	used := map[string][]string{}
	for _, c := range e.all() {
		for _, use := range c.view().record.Volumes {
			used[use.Name] = append(used[use.Name], c.ID)
		}
	}
	return used
}

// RemoveVolume removes a volume that no container uses.
func (e *Engine) RemoveVolume(ctx context.Context, name string, force bool) error {
	if users := e.usedVolumes()[name]; len(users) > 0 {
		return fmt.Errorf("remove %s: volume is in use - %v%w", name, users, noText{errdefs.ErrConflict})
	}
	e.mu.Lock()
	_, found := e.volumes[name]
	delete(e.volumes, name)
	e.mu.Unlock()
	if !found {
		if force {
			return nil
		}
		return fmt.Errorf("get %s: no such volume%w", name, noText{errdefs.ErrNotFound})
	}
	if err := e.store.Delete(ctx, bucketVolumes, name); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	e.events.publish(events.VolumeEventType, events.ActionDestroy, name, map[string]string{"driver": "local"})
	return e.trash.remove(e.volumeDir(name))
}

// PruneVolumes removes the anonymous volumes that no container uses, or with the filter all=true the named ones too.
func (e *Engine) PruneVolumes(ctx context.Context, filters map[string]map[string]bool) (volume.PruneReport, error) {
	report := volume.PruneReport{VolumesDeleted: []string{}}
	if err := knownFilters(filters, "label", "label!", "all"); err != nil {
		return report, err
	}
	if err := boolFilters(filters, "all"); err != nil {
		return report, err
	}
	all := false
	for value := range filters["all"] {
		all = all || isTrue(value)
	}
	used := e.usedVolumes()
	e.mu.Lock()
	records := slices.Collect(maps.Values(e.volumes))
	e.mu.Unlock()
	for _, v := range records {
		if len(used[v.Name]) > 0 || (!v.Anonymous && !all) || !labelsMatch(filters["label"], v.Labels) || labelsDenied(filters["label!"], v.Labels) {
			continue
		}
		size := diskUsage(e.volumeData(v.Name))
		if err := e.RemoveVolume(ctx, v.Name, true); err != nil {
			if errdefs.IsConflict(err) {
				continue
			}
			return report, err
		}
		report.VolumesDeleted = append(report.VolumesDeleted, v.Name)
		report.SpaceReclaimed += uint64(size)
	}
	return report, nil
}

// useVolumes makes the volumes that a container wants, and fills the empty ones with what the image has there.
func (e *Engine) useVolumes(ctx context.Context, c *Container, img *image.Image, points []mountPoint) error {
	for _, m := range points {
		if m.Kind != mount.TypeVolume {
			continue
		}
		v, err := e.ensureVolume(ctx, volumeRecord{Name: m.Source, Labels: m.Labels})
		if err != nil {
			return err
		}
		if c.record.Volumes == nil {
			c.record.Volumes = map[string]volumeUse{}
		}
		c.record.Volumes[m.Destination] = volumeUse{Name: v.Name, Anonymous: m.Source == "" || m.Anonymous}
		if m.NoCopy {
			continue
		}
		if err := e.fillVolume(ctx, v.Name, img, m.Destination); err != nil {
			return fmt.Errorf("copy the image's %s into volume %s: %w", m.Destination, v.Name, err)
		}
	}
	return nil
}

// fillVolume copies a directory of the image into an empty volume.
func (e *Engine) fillVolume(ctx context.Context, name string, img *image.Image, path string) error {
	data := e.volumeData(name)
	if entries, err := os.ReadDir(data); err != nil || len(entries) > 0 {
		return err
	}
	layers, err := e.images.Rootfs(ctx, img)
	if err != nil || len(layers) == 0 {
		return err
	}
	root, err := stack(layers)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	dir, err := inroot.Open(root, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return fs.CopyDir(data, fmt.Sprintf("/proc/self/fd/%d/.", dir))
}

// dropAnonymous removes the volumes that only this container used and nobody named.
func (e *Engine) dropAnonymous(ctx context.Context, c *Container) {
	c.mu.Lock()
	uses := c.record.Volumes
	c.record.Volumes = nil
	c.mu.Unlock()
	for _, use := range uses {
		if !use.Anonymous {
			continue
		}
		if err := e.RemoveVolume(ctx, use.Name, true); err != nil && !errdefs.IsConflict(err) {
			e.log.Error("remove an anonymous volume", "volume", use.Name, "error", err)
		}
	}
}
