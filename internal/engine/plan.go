package engine

import (
	"context"
	"io"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/oci"
)

// PlanContainer writes, in words, every system call that a start of such a container would make. Nothing is created.
func (e *Engine) PlanContainer(ctx context.Context, r CreateRequest, w io.Writer) error {
	normalize(&r.Config)
	img, err := e.imageFor(ctx, r)
	if err != nil {
		return err
	}
	if _, _, err := e.check(&r.Config, img); err != nil {
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
	id, err := e.users.resolve(identityQuery{image: img.Manifest.Digest, layers: lower, upper: filepath.Join(c.dir(), "upper"), user: user, groups: r.Config.HostConfig.GroupAdd})
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
