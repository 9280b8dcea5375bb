package oci

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/oci/criu"
	"gantry/rawfile"
)

// CheckpointOptions are those of Checkpoint and Restore; see criu(8) for their meaning.
type CheckpointOptions struct {
	Program             string // criu's; "": criu in PATH
	ImagePath, WorkPath string // directories; WorkPath "" is ImagePath
	ParentPath          string // of a pre-dump, relative to ImagePath
	PageServer          criu.PageServer
	CgroupMode          string // soft, full, strict, ignore or "" for criu's default
	EmptyNS             uint32 // namespaces (CLONE_NEW…) whose content is not kept
	StatusFD            int    // written to when lazy pages are served; below 1: none
	LSMProfile          string
	LSMMountContext     string

	LeaveRunning, TCPEstablished, TCPSkipInFlight, LinkRemap, ExtUnixSockets bool
	ShellJob, LazyPages, FileLocks, PreDump, AutoDedup                       bool
}

// criu's logs, in the work or the image directory.
const dumpLog, restoreLog = "dump.log", "restore.log"

// descriptorsFile in the images names what 0, 1 and 2 of the first process were.
const descriptorsFile = "descriptors.json"

// Checkpoint writes a running container's state to files, by criu, and, unless asked not to, ends its processes; the
// container is then to be deleted.
func (c *Container) Checkpoint(ctx context.Context, o CheckpointOptions) error {
	rec, err := c.load()
	if err != nil {
		return err
	}
	status := c.status(rec)
	if status != specs.StateRunning && status != StatePaused {
		return fmt.Errorf("container cannot be checkpointed in %s state", status)
	}
	if err := c.checkpoint(ctx, rec, o); err != nil {
		return errors.Join(fmt.Errorf("checkpoint container %s: %w", c.ID, err), goOn(rec, status))
	}
	return nil
}

// goOn lets a container be as it was before: a criu that was killed may have left it frozen, or not frozen any more.
func goOn(rec *record, before specs.ContainerState) error {
	if before != StatePaused {
		return thaw(rec)
	}
	group, err := rec.group()
	if err != nil {
		return nil //nolint:nilerr // it has gone with its last process
	}
	return group.Freeze()
}

func (c *Container) checkpoint(ctx context.Context, rec *record, o CheckpointOptions) error {
	j, err := newCriuJob(rec, o, dumpLog)
	if err != nil {
		return err
	}
	defer j.close()
	kind := criu.Dump
	if o.PreDump {
		kind = criu.PreDump
	}
	if err := j.checkFeatures(ctx); err != nil {
		return err
	}
	opts := j.opts
	opts.Pid, opts.Root, opts.LeaveRunning, opts.LinkRemap, opts.TCPSkipInFlight = rec.Pid, j.b.rootPath(), o.LeaveRunning, o.LinkRemap, o.TCPSkipInFlight
	opts.ParentImage, opts.TrackMem, opts.PageServer = o.ParentPath, o.ParentPath != "" || o.PreDump, o.PageServer
	if group, err := rec.group(); err == nil {
		opts.FreezeCgroup = group.FreezerDir()
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.PIDNamespace} {
		if n, joined := j.b.has(kind); joined && n.Path != "" {
			var stat unix.Stat_t
			if err := unix.Stat(n.Path, &stat); err != nil {
				return &os.PathError{Op: "stat", Path: n.Path, Err: err}
			}
			opts.External = append(opts.External, fmt.Sprintf("%s[%d]:%s", nsNames[kind], stat.Ino, externalKey(kind)))
		}
	}
	if !o.PreDump { // of a pre-dump only memory is kept
		if err := errors.Join(j.findMountPoints(rec.Pid), j.checkNames()); err != nil {
			return err
		}
		for _, m := range j.externalMounts() {
			point := j.mountPoint(m.Destination)
			opts.ExtMounts = append(opts.ExtMounts, criu.Pair{Key: point, Value: point})
		}
		opts.ExtMounts = append(opts.ExtMounts, j.maskedFiles(rec.Pid)...)
		if err := j.keepDescriptors(rec); err != nil {
			return err
		}
	}
	_, err = j.do(ctx, &criu.Request{Kind: kind, Options: opts, Notify: j.duringDump})
	return err
}

// nsNames are the kernel's names of namespaces (/proc/PID/ns), which criu uses too.
var nsNames = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net", specs.PIDNamespace: "pid", specs.MountNamespace: "mnt", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
	specs.UserNamespace: "user", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time",
}

// externalKey names a namespace that is not the container's own in its images.
func externalKey(kind specs.LinuxNamespaceType) string {
	name := nsNames[kind]
	return "extRoot" + strings.ToUpper(name[:1]) + name[1:] + "NS"
}

// criuJob is what a dump and a restore have in common.
type criuJob struct {
	o       CheckpointOptions
	b       *builder
	opts    *criu.Options
	logFile string
	dirs    []*os.File
	points  map[string]string // where mounts are whose destinations lead over links
}

func newCriuJob(rec *record, o CheckpointOptions, logFile string) (_ *criuJob, err error) {
	spec, err := rec.spec()
	if err != nil {
		return nil, err
	}
	j := &criuJob{o: o, b: &builder{id: rec.ID, bundle: rec.Bundle, spec: spec, group: rec.Cgroup}}
	mode, known := criu.ParseCgroupMode(o.CgroupMode)
	if !known {
		return nil, fmt.Errorf("invalid manage-cgroups-mode value %q", o.CgroupMode)
	}
	j.opts = &criu.Options{
		LogFile: logFile, CgroupMode: mode, EmptyNS: o.EmptyNS, ConfigFile: "/etc/criu/runc.conf",
		ExtUnixSK: o.ExtUnixSockets, TCPEstablished: o.TCPEstablished, ShellJob: o.ShellJob, FileLocks: o.FileLocks,
		AutoDedup: o.AutoDedup, LazyPages: o.LazyPages, LSMProfile: o.LSMProfile, LSMMountContext: o.LSMMountContext,
	}
	if file, given := rec.Annotations["org.criu.config"]; given {
		j.opts.ConfigFile = file
	}
	defer func() {
		if err != nil {
			j.close()
		}
	}()
	j.logFile = filepath.Join(o.ImagePath, logFile)
	if o.WorkPath != "" {
		j.logFile = filepath.Join(o.WorkPath, logFile)
	}
	return j, j.openDirectories()
}

// openDirectories opens those of the images and of the work.
func (j *criuJob) openDirectories() (err error) {
	if j.opts.ImagesDir, err = j.open(j.o.ImagePath, j.opts.LogFile == dumpLog); err == nil && j.o.WorkPath != "" {
		j.opts.WorkDir, err = j.open(j.o.WorkPath, true)
	}
	return err
}

// open makes a directory, if it is to and it is not there, and opens it. criu opens it by our /proc, so it needs no
// descriptor of its own. In a user namespace it comes back to it (for files that are not there) when it is root only there.
func (j *criuJob) open(path string, create bool) (int, error) {
	mode := os.FileMode(0o700)
	if _, own := j.b.has(specs.UserNamespace); own {
		mode = 0o711
	}
	if create {
		if err := os.MkdirAll(path, mode); err != nil {
			return 0, err
		}
	}
	dir, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	j.dirs = append(j.dirs, dir)
	return int(dir.Fd()), nil
}

func (j *criuJob) close() {
	for _, d := range j.dirs {
		_ = d.Close() // opened for its name
	}
	j.b.close()
}

// checkFeatures asks criu for what an option needs, whose lack it would only tell of in the middle.
func (j *criuJob) checkFeatures(ctx context.Context) error {
	if !j.o.PreDump && !j.o.LazyPages {
		return nil
	}
	a, err := (&criu.Request{Program: j.o.Program, Kind: criu.FeatureCheck}).Do(ctx)
	switch {
	case err != nil:
		return err
	case j.o.PreDump && !a.MemTrack:
		return errors.New("criu is missing features: tracking of memory, for --pre-dump")
	case j.o.LazyPages && !a.LazyPages:
		return errors.New("criu is missing features: lazy pages")
	}
	return nil
}

// checkLabels: a criu that does not know the options of security modules would pass over them.
func (j *criuJob) checkLabels(ctx context.Context) error {
	if j.o.LSMProfile == "" && j.o.LSMMountContext == "" {
		return nil
	}
	a, err := (&criu.Request{Program: j.o.Program, Kind: criu.Version}).Do(ctx)
	if err == nil && !a.AtLeast(3, 16) {
		err = fmt.Errorf("--lsm-profile and --lsm-mount-context need criu 3.16, this is %d.%d", a.Major, a.Minor)
	}
	return err
}

// do runs criu, and adds to an error what its log says of it.
func (j *criuJob) do(ctx context.Context, r *criu.Request) (*criu.Answer, error) {
	r.Program = j.o.Program
	a, err := r.Do(ctx)
	if err == nil {
		return a, nil
	}
	for _, line := range lastErrors(j.logFile) {
		slog.Warn("criu: " + line)
	}
	return nil, fmt.Errorf("%w (criu's log is %s)", err, j.logFile)
}

// lastErrors are the last lines of criu's log that tell of errors.
func lastErrors(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	const most = 5
	var list []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.Contains(lines.Text(), "Error") {
			list = append(list, lines.Text())
		}
	}
	return list[max(0, len(list)-most):]
}

// externalMounts are those that come from outside of the container: bind mounts, of cgroups too, and devices.
func (j *criuJob) externalMounts() []specs.Mount {
	var list []specs.Mount
	for _, m := range j.b.spec.Mounts {
		switch {
		case isBind(m):
			list = append(list, m)
		case m.Type == "cgroup" || m.Type == "cgroup2":
			list = append(list, j.cgroupMounts(m)...)
		}
	}
	for _, d := range defaultDevices {
		list = append(list, specs.Mount{Destination: d.Path, Source: d.Path})
	}
	for _, d := range j.b.spec.Linux.Devices {
		list = append(list, specs.Mount{Destination: d.Path, Source: d.Path})
	}
	return list
}

// checkNames refuses what criu would read as the end of a mount's name: it puts names and sources together as
// "mnt[NAME]:SOURCE" (CVE-2026-119101, CVE-2026-115520).
func (j *criuJob) checkNames() error {
	for _, m := range j.externalMounts() {
		if point := j.mountPoint(m.Destination); strings.Contains(point, "]:") { // a link of the image's may lead there
			return fmt.Errorf("mount destination %q: criu cannot name what has \"]:\" in it", point)
		}
	}
	return nil
}

// cgroupMounts are what a container without a cgroup namespace sees of its cgroups: see hostCgroups.
func (j *criuJob) cgroupMounts(m specs.Mount) []specs.Mount {
	if _, own := j.b.has(specs.CgroupNamespace); own {
		return nil
	}
	group, err := cgroup.Open(j.b.cgroupPath())
	if err != nil {
		return nil
	}
	if cgroupMode() == cgroup.V2 {
		return []specs.Mount{{Destination: m.Destination, Source: group.Paths()[""]}}
	}
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return nil
	}
	var list []specs.Mount
	for _, controllers := range hierarchies {
		if dir := group.Paths()[controllers[0]]; dir != "" { // else it was mounted later
			list = append(list, specs.Mount{Destination: m.Destination + "/" + strings.Join(controllers, ","), Source: dir})
		}
	}
	return list
}

// maskedFiles are the files that are covered by /dev/null.
func (j *criuJob) maskedFiles(pid int) []criu.Pair {
	var list []criu.Pair
	for _, path := range j.b.spec.Linux.MaskedPaths {
		info, err := os.Lstat(threadOf(pid) + "/root/" + path)
		if err == nil && !info.IsDir() {
			list = append(list, criu.Pair{Key: path, Value: "/dev/null"})
		}
	}
	return list
}

// keepDescriptors writes which pipes the first process's streams were: after a restore they are another's.
func (j *criuJob) keepDescriptors(rec *record) error {
	names := [3]string{}
	copy(names[:], rec.Pipes)
	text, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(j.o.ImagePath, descriptorsFile), text, 0o600)
}

func (j *criuJob) duringDump(script string, _ int, file *os.File) error {
	if file != nil {
		_ = file.Close() // nothing to be done with it
	}
	if script == "status-ready" && j.o.StatusFD > 0 {
		err := rawfile.Retry(func() error {
			_, err := unix.Write(j.o.StatusFD, []byte{0})
			return err
		})
		if err != nil {
			return fmt.Errorf("tell that lazy pages are served: %w", err)
		}
		return unix.Close(j.o.StatusFD)
	}
	return nil
}
