package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/rawfile"
	"gantry/spawn"
)

// Compile makes the plan for a bundle without running anything, for printing. Descriptors in it are placeholders.
func Compile(bundle string, spec *specs.Spec, rootfs []Mount) (*spawn.Plan, error) {
	b := &builder{id: "ID", bundle: bundle, spec: spec, dry: true}
	defer b.close()
	if err := b.container(CreateOptions{Bundle: bundle, Spec: spec, Rootfs: rootfs}, nil, spawn.FD{Name: "exec.fifo"}, nil); err != nil {
		return nil, err
	}
	return &b.plan, nil
}

// validate checks what every step relies on.
func validate(spec *specs.Spec) error {
	switch {
	case spec == nil:
		return errors.New("config.json is empty")
	case spec.Process == nil || len(spec.Process.Args) == 0 || spec.Process.Args[0] == "":
		return errors.New("config.json: process.args must name a program")
	case spec.Root == nil || spec.Root.Path == "":
		return errors.New("config.json: root.path must be set")
	case !filepath.IsAbs(spec.Process.Cwd):
		return fmt.Errorf("config.json: process.cwd %q must be an absolute path", spec.Process.Cwd)
	case spec.Linux == nil:
		return errors.New("config.json: linux must be set")
	}
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, n := range spec.Linux.Namespaces {
		if _, known := cloneFlags[n.Type]; !known {
			return fmt.Errorf("config.json: linux.namespaces[%d].type: unknown namespace %q", i, n.Type)
		}
		if seen[n.Type] {
			return fmt.Errorf("config.json: linux.namespaces[%d]: namespace %q is listed twice", i, n.Type)
		}
		seen[n.Type] = true
	}
	if !seen[specs.MountNamespace] && len(spec.Linux.MaskedPaths)+len(spec.Linux.ReadonlyPaths) > 0 {
		return errors.New("config.json: linux.maskedPaths and linux.readonlyPaths need a mount namespace: without one they would be the host's")
	}
	for clock := range spec.Linux.TimeOffsets {
		if !seen[specs.TimeNamespace] {
			return errors.New("config.json: linux.timeOffsets are set, but there is no time namespace")
		}
		if clock != "monotonic" && clock != "boottime" {
			return fmt.Errorf("config.json: linux.timeOffsets: unknown clock %q, want monotonic or boottime", clock)
		}
	}
	if spec.Hostname != "" && !seen[specs.UTSNamespace] {
		return errors.New("config.json: hostname is set, but there is no uts namespace")
	}
	if err := validateUser(spec.Process.User); err != nil {
		return err
	}
	if _, err := parseAffinity(spec.Process.ExecCPUAffinity); err != nil {
		return err
	}
	if err := validateRDT(spec.Linux.IntelRdt); err != nil {
		return err
	}
	if err := validateLabels(spec); err != nil {
		return err
	}
	if err := validateLengths(spec); err != nil {
		return err
	}
	return validateHooks(spec.Hooks)
}

// validateLengths refuses paths that no system call takes, see path_resolution(7). A plan has steps for every part of such
// a path: it would take memory that grows with the square of its length.
func validateLengths(spec *specs.Spec) error {
	check := func(path, format string, args ...any) error {
		if len(path) < unix.PathMax {
			return nil
		}
		return fmt.Errorf("config.json: %s: a path of %d bytes: %w", fmt.Sprintf(format, args...), len(path), unix.ENAMETOOLONG)
	}
	if err := check(spec.Process.Cwd, "process.cwd"); err != nil {
		return err
	}
	for i, m := range spec.Mounts {
		if err := check(m.Destination, "mounts[%d].destination", i); err != nil {
			return err
		}
	}
	for i, d := range spec.Linux.Devices {
		if err := check(d.Path, "linux.devices[%d].path", i); err != nil {
			return err
		}
	}
	return nil
}

// container adds every step of a new container, in the order in which the kernel wants them.
func (b *builder) container(o CreateOptions, entry *cgroup.Entry, fifo spawn.FD, hooks *hookRunner) error {
	if err := validate(b.spec); err != nil {
		return err
	}
	b.plan.Steps = make([]spawn.Step, 0, 512) // most have no more; memory that is not written to costs nothing
	for _, part := range []func() error{
		func() error { return b.joinCgroup(entry) },
		b.joinRDT,
		func() error { b.runOn(nil, ""); return nil },
		b.hiddenNamespaces,
		func() error { return b.enterRoot(o) },
		func() error { b.confine(); return nil },
		b.mounts,
		func() error { return b.environment(b.futureFiles) },
		b.devices,
		func() error { return b.hooksBeforePivot(hooks) },
		func() error { return b.terminal(o.Stdio.Console) },
		b.names,
		b.sysctls,
		func() error { b.makeDirectory(b.spec.Process.Cwd); return nil },
		b.protectPaths,
		func() error { return b.pivot(o.NoPivot) },
		func() error { b.keyring(o.NoNewKeyring, true); return nil },
		func() error { return b.stdio(o.Stdio, o.PreserveFDs) },
		b.seal,
		func() error { return b.heedSignals(3 + len(o.PreserveFDs)) },
		func() error { b.keep(fifo, o.PreserveFDs); return nil },
		func() error { return b.identity(b.spec.Process) },
		func() error { return b.checkProgram(b.spec.Process) },
		func() error { return b.seccomp(beforeStart) },
		func() error { b.awaitStart(fifo); return nil },
		func() error { return b.execute(b.spec.Process) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// joinCgroup puts the process into its cgroup: at the clone on v2, as its first steps on v1.
func (b *builder) joinCgroup(entry *cgroup.Entry) error {
	b.entry = entry
	if b.dry {
		mode, err := cgroup.Detect()
		if err != nil {
			return err
		}
		if mode == cgroup.V2 {
			b.plan.Cgroup = &spawn.FD{Name: "cgroup"}
			return nil
		}
		b.add("join the cgroups", unix.SYS_WRITE, spawn.Desc(spawn.FD{Name: "tasks"}), spawn.Str("0"), spawn.Int(1))
		return nil
	}
	if b.moveIn != nil {
		b.byParent("have systemd move it into its scope", func(child *spawn.Process) error { return b.moveIn(child.Pid) })
	}
	if entry.Unified != nil {
		b.plan.Cgroup = &spawn.FD{Num: entry.Unified.FD, Name: "cgroup"}
	}
	for _, f := range entry.Tasks {
		name := filepath.Base(filepath.Dir(f.Path))
		tasks := spawn.Desc(spawn.FD{Num: f.FD, Name: name + "/tasks"})
		b.add("join cgroup "+f.Path, unix.SYS_WRITE, tasks, spawn.Str("0"), spawn.Int(1))
		b.add("close "+f.Path, unix.SYS_CLOSE, tasks) // a created container waits: with nothing of the host's in its hands
	}
	return nil
}

// seal keeps the container from writing to the runtime's file. It is done while the process still may, and when what
// it has yet to do points to no variables of this program. Where it cannot be done, this program has called SealSelf.
func (b *builder) seal() error {
	if !spawn.CanSeal() {
		return nil
	}
	return b.plan.Seal()
}

// hiddenNamespaces makes and joins namespaces, and hides the process: before it joins others, where it still may write
// to its own /proc then, or, in a user namespace of its own, when it has written what it must.
func (b *builder) hiddenNamespaces() error {
	before := func() {
		b.adjustOOM(b.isNew(specs.UserNamespace))
		b.openLabels()
		b.hide()
	}
	if b.isNew(specs.UserNamespace) {
		defer before()
		return b.namespaces()
	}
	if os.Geteuid() != 0 { // who may not look into a hidden process: keep hides this one
		b.adjustOOM(true)
		b.openLabels()
		return b.namespaces()
	}
	before()
	return b.namespaces()
}

// hide keeps other processes of the container away from this one, its descriptors and the runtime's program, until
// execve (CVE-2016-9962). It follows what the process writes to its own /proc, which is root's from here on.
func (b *builder) hide() {
	b.add("be not dumpable", unix.SYS_PRCTL, spawn.Flags(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), spawn.Int(0), spawn.Int(0), spawn.Int(0), spawn.Int(0))
}

// adjustOOM sets oom_score_adj while the host's /proc is still in sight. The root of a user namespace may not lower it.
func (b *builder) adjustOOM(byParent bool) {
	adj := b.spec.Process.OOMScoreAdj
	if adj == nil {
		return
	}
	name := fmt.Sprintf("set oom_score_adj to %d", *adj)
	b.at("process.oomScoreAdj")
	defer b.at("")
	if !byParent {
		b.writeFile(name, "/proc/self/oom_score_adj", fmt.Sprint(*adj))
		return
	}
	b.byParent(name, func(child *spawn.Process) error {
		return rawfile.Write(fmt.Sprintf("/proc/%d/oom_score_adj", child.Pid), []byte(fmt.Sprint(*adj)), 0)
	})
}

// names sets host and domain name.
func (b *builder) names() error {
	if name := b.spec.Hostname; name != "" {
		b.add("set hostname "+name, unix.SYS_SETHOSTNAME, spawn.Str(name), spawn.Int(len(name)))
	}
	if name := b.spec.Domainname; name != "" {
		b.add("set domainname "+name, unix.SYS_SETDOMAINNAME, spawn.Str(name), spawn.Int(len(name)))
	}
	return nil
}
