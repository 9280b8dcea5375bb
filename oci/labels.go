package oci

import (
	"fmt"
	"os"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
	"gantry/spawn"
)

// unconfined is AppArmor's word for no profile, which every kernel can give.
const unconfined = "unconfined"

// hasAppArmor reports whether the kernel enforces AppArmor profiles.
var hasAppArmor = sync.OnceValue(func() bool {
	text, err := rawfile.Read("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(text), "Y")
})

// hasSELinux reports whether the kernel enforces SELinux labels: then its file system is where everybody mounts it.
var hasSELinux = sync.OnceValue(func() bool {
	var fs unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &fs) == nil && fs.Type == unix.SELINUX_MAGIC
})

// validateLabels refuses labels that the kernel would not enforce.
func validateLabels(spec *specs.Spec) error {
	if p := spec.Process.ApparmorProfile; p != "" && p != unconfined && !hasAppArmor() {
		return fmt.Errorf("config.json: process.apparmorProfile %q: AppArmor is not enabled on this host", p)
	}
	for field, label := range map[string]string{"process.selinuxLabel": spec.Process.SelinuxLabel, "linux.mountLabel": spec.Linux.MountLabel} {
		if label != "" && !hasSELinux() {
			return fmt.Errorf("config.json: %s %q: SELinux is not enabled on this host", field, label)
		}
	}
	return nil
}

// openLabels opens what labels are written to, while the host's /proc is in sight: the image's may be another file
// system, or a link (CVE-2019-16884, CVE-2025-52881). See apparmor's aa_change_onexec(2) and selinux's setexeccon(3).
func (b *builder) openLabels() {
	open := func(what, path string, slot spawn.Slot) {
		b.add("open "+what, unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str(path), spawn.Flags(unix.O_WRONLY|unix.O_CLOEXEC, "O_WRONLY|O_CLOEXEC"), spawn.Int(0)).Result = slot
	}
	p := b.spec.Process
	if p.ApparmorProfile != "" && hasAppArmor() {
		path := "/proc/thread-self/attr/apparmor/exec"
		if _, err := os.Stat(path); err != nil { // the only module with such files, before Linux 5.8
			path = "/proc/thread-self/attr/exec"
		}
		open("the profile of the next program", path, slotProfile)
	}
	if p.SelinuxLabel != "" {
		open("the label of the next program", "/proc/thread-self/attr/exec", slotLabel)
		open("the label of new keys", "/proc/thread-self/attr/keycreate", slotKeyLabel)
	}
}

// takeLabels makes execve change to the profile and the label.
func (b *builder) takeLabels() {
	p := b.spec.Process
	if p.ApparmorProfile != "" && hasAppArmor() {
		b.writeLabel("confine the next program by "+p.ApparmorProfile, "exec "+p.ApparmorProfile, slotProfile)
	}
	if p.SelinuxLabel != "" {
		b.writeLabel("label the next program "+p.SelinuxLabel, p.SelinuxLabel, slotLabel)
	}
}

// labelKeys is done before a keyring is made, which then has the process's label.
func (b *builder) labelKeys() {
	if label := b.spec.Process.SelinuxLabel; label != "" {
		b.writeLabel("label new keys "+label, label, slotKeyLabel)
	}
}

func (b *builder) writeLabel(name, text string, slot spawn.Slot) {
	b.add(name, unix.SYS_WRITE, spawn.Of(slot), spawn.Str(text), spawn.Int(len(text)))
	b.add("close it", unix.SYS_CLOSE, spawn.Of(slot))
}
