package engine

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/oci"
)

// PlanContainer writes, in words, every system call that a start of such a container would make. Nothing is created.
func (e *Engine) PlanContainer(ctx context.Context, r CreateRequest, w io.Writer) error {
	normalize(&r.Config)
	completeLogConfig(&r.Config.HostConfig.LogConfig, e.o.LogOptions)
	img, err := e.imageFor(ctx, r)
	if err != nil {
		return err
	}
	points, _, err := e.check(&r.Config, img)
	if err != nil {
		return err
	}
	lower, err := e.images.Rootfs(ctx, img)
	if err != nil {
		return err
	}
	c := &Container{ID: randomID(), engine: e}
	user := r.Config.User
	if user == "" {
		user = img.Config.Config.User
	}
	id, err := e.users.resolve(identityQuery{
		image: img.Manifest.Digest, layers: lower, upper: filepath.Join(c.dir(), "upper"), mounts: e.futureMounts(points), user: user, groups: r.Config.HostConfig.GroupAdd,
	})
	if err != nil {
		return err
	}
	rec := record{ID: c.ID, Name: r.Name, Config: r.Config}
	s := start{ID: c.ID, Hostname: c.hostname(rec), Image: &img.Config, User: id.spec(), Home: id.Home, Cgroup: c.cgroupPath(rec), Namespace: map[specs.LinuxNamespaceType]string{}}
	if s.Devices, s.Rules, err = devices(r.Config.HostConfig); err != nil {
		return err
	}
	spec, err := buildSpec(r.Config.Config, r.Config.HostConfig, s)
	if err != nil {
		return err
	}
	rootfs := oci.Mount{Type: "overlay", Source: "overlay", Options: c.overlay(lower, r.Config.HostConfig.AutoRemove).MountOptions()}
	plan, err := oci.Compile(c.runDir(), spec, []oci.Mount{rootfs})
	if err != nil {
		return err
	}
	_, err = plan.WriteTo(w)
	return err
}

// futureMounts are the mounts of a container that is not made, as far as they have sources: a new volume shows what the
// image has in its place.
func (e *Engine) futureMounts(points []mountPoint) []specs.Mount {
	var list []specs.Mount
	for _, m := range points {
		source := m.Source
		if m.Kind == mount.TypeVolume {
			source = e.volumeData(m.Source)
		}
		if _, err := os.Stat(source); err == nil && m.Source != "" || m.Kind == mount.TypeTmpfs {
			list = append(list, m.spec(source))
		}
	}
	return list
}
