package oci

import (
	"errors"
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

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
	if b.mounter != nil {
		return b.mounter.mountOverlay(options)
	}
	num, err := mountOverlay(options)
	if errors.Is(err, unix.EINVAL) && !appendsLayers() {
		return mountOverlayOld(options)
	}
	return num, err
}

// mountOverlay is the function of the same name, inside.
func (h *mountHolder) mountOverlay(options []string) (num int, err error) {
	p := h.inside()
	p.Add("fsopen overlay", unix.SYS_FSOPEN, spawn.Str("overlay"), spawn.Flags(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).Result = slotScratch
	set := func(command uint64, shown, key string, value spawn.Arg) {
		p.Add(strings.TrimSpace("overlay option "+key), unix.SYS_FSCONFIG, spawn.Of(slotScratch), spawn.Flags(command, shown), spawn.Str(key), value, spawn.Int(0))
	}
	one := appendsLayers()
	for _, option := range options {
		key, value, hasValue := strings.Cut(option, "=")
		switch {
		case key == "lowerdir" && one:
			for layer := range strings.SplitSeq(value, ":") {
				set(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING", "lowerdir+", spawn.Str(layer))
			}
		case hasValue:
			set(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING", key, spawn.Str(value))
		default:
			set(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG", key, spawn.Nil())
		}
	}
	p.Add("create the overlay", unix.SYS_FSCONFIG, spawn.Of(slotScratch), spawn.Flags(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), spawn.Nil(), spawn.Nil(), spawn.Int(0))
	p.Add("fsmount", unix.SYS_FSMOUNT, spawn.Of(slotScratch), spawn.Flags(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), spawn.Int(0)).Result = slotTree
	p.Steps = append(p.Steps, spawn.Step{Name: "hand it over", Pass: slotTree, Sync: func(child *spawn.Process) (err error) {
		num, err = unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		return err
	}})
	if err := runHelper(p); err != nil {
		return -1, err
	}
	return num, nil
}
