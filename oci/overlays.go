package oci

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/oci/overlay"
	"gantry/spawn"
)

// overlay attaches an overlay of host directories, which are out of sight when the container's mounts are made.
func (b *builder) overlay(m specs.Mount, o mountOptions) error {
	fd := spawn.FD{Name: "overlay"}
	if !b.dry {
		options := o.data
		if label := b.spec.Linux.MountLabel; label != "" {
			options = append(options[:len(options):len(options)], fmt.Sprintf("context=%q", label))
		}
		num, err := b.makeOverlay(options)
		if err != nil {
			return fmt.Errorf("mount overlay on %s: %w", m.Destination, err)
		}
		fd = b.fd(num, "overlay")
		if err := b.bindAttributes(num, m, o); err != nil {
			return fmt.Errorf("mount overlay on %s: %w", m.Destination, err)
		}
	}
	b.attach(fd, m.Destination, true)
	return nil
}

// makeOverlay makes a detached overlay; for a user, in the container's user namespace.
func (b *builder) makeOverlay(options []string) (int, error) {
	c, err := overlay.Parse(options)
	if err != nil {
		return -1, err
	}
	if b.mounter != nil {
		return b.mounter.mountOverlay(c)
	}
	return c.Mount()
}

// mountOverlay makes the overlay inside.
func (h *mountHolder) mountOverlay(c overlay.Config) (num int, err error) {
	steps, err := c.Steps()
	if err != nil {
		return -1, err
	}
	p := h.inside()
	p.Steps = append(p.Steps, steps...)
	p.Steps = append(p.Steps, spawn.Step{Name: "hand it over", Pass: overlay.Result, Sync: func(child *spawn.Process) (err error) {
		num, err = unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		return err
	}})
	if err := runHelper(p); err != nil {
		return -1, err
	}
	return num, nil
}
