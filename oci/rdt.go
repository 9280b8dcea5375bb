package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
	"gantry/spawn"
)

// Classes of service (CLOS) and monitoring groups of Intel's RDT and AMD's PQoS are directories of the resctrl file
// system; see config-linux.md, IntelRdt, and the kernel's Documentation/filesystems/resctrl.rst.

// resctrl is where that file system is, how its directories are made and removed with all that is in them, and how a line
// gets into one of its files. Tests put plain directories in its place.
var resctrl = struct {
	find         func() (mount string, err error)
	mkdir, rmdir func(path string) error
	write        func(path, line string) error
}{findResctrl, func(path string) error { return unix.Mkdir(path, 0o755) }, unix.Rmdir, writeLine}

// rdtState is what a container's state keeps of the groups that its processes are in.
type rdtState struct {
	Class   string // name of the class; "/" is the default one
	Monitor string // name of the monitoring group in the class; "": none
	// Made: create has made the class, and who removes the container removes it, if Shared only as long as nobody is in it.
	// A class that is Shared, since the configuration names it, stays once the container has been created.
	Made, Shared bool
}

func (s *rdtState) class(mount string) string { return filepath.Join(mount, s.Class) }

func (s *rdtState) monitor(mount string) string {
	return filepath.Join(s.class(mount), "mon_groups", s.Monitor)
}

// groups are the directories that a process is put into, in this order: a monitoring group takes only who is in its class.
func (s *rdtState) groups(mount string) []string {
	if s.Monitor == "" {
		return []string{s.class(mount)}
	}
	return []string{s.class(mount), s.monitor(mount)}
}

// findResctrl returns where the whole of the file system is mounted and in sight.
func findResctrl() (string, error) {
	const magic = 0x7655821 // RDTGROUP_SUPER_MAGIC
	list, err := mountsOf("resctrl")
	if err != nil {
		return "", err
	}
	for _, mount := range list {
		var fs unix.Statfs_t
		if err := unix.Statfs(mount, &fs); err != nil || fs.Type != magic { // something else is mounted over it
			continue
		}
		if _, err := os.Stat(filepath.Join(mount, "info")); err == nil { // else it is the bind of a class
			return mount, nil
		}
	}
	return "", errors.New("linux.intelRdt: no resctrl file system is mounted: this host's processor or kernel has none, or nobody has mounted it on /sys/fs/resctrl")
}

// validateRDT checks the rules of the specification, and that there is a resctrl to apply them to.
func validateRDT(rdt *specs.LinuxIntelRdt) error {
	if rdt == nil {
		return nil
	}
	if _, err := resctrl.find(); err != nil {
		return fmt.Errorf("config.json: %w", err)
	}
	if rdt.ClosID != "" && rdt.ClosID != "/" {
		if err := checkClass(rdt.ClosID); err != nil {
			return fmt.Errorf("config.json: linux.intelRdt.closID %w", err)
		}
	}
	if err := checkBandwidth(rdt.MemBwSchema); err != nil {
		return fmt.Errorf("config.json: linux.intelRdt.memBwSchema %w", err)
	}
	for i, line := range rdt.Schemata {
		if err := checkLine(line); err != nil {
			return fmt.Errorf("config.json: linux.intelRdt.schemata[%d] %w", i, err)
		}
	}
	return nil
}

// checkClass refuses what is no directory of its own below the mount, or another one than a class.
func checkClass(name string) error {
	switch name {
	case ".", "..", "info", "mon_groups", "mon_data":
		return fmt.Errorf("%q is not the name of a class", name)
	}
	if strings.ContainsAny(name, "/\n\x00") || len(name) > unix.NAME_MAX {
		return fmt.Errorf("%q is not the name of a class", name)
	}
	return nil
}

func checkBandwidth(schema string) error {
	if schema != "" && !strings.HasPrefix(schema, "MB:") {
		return fmt.Errorf("%q does not begin with MB: as it must", schema)
	}
	if strings.Contains(schema, "\n") {
		return fmt.Errorf("%q has more than one line", schema)
	}
	return nil
}

func checkLine(line string) error {
	if strings.Contains(line, "\n") {
		return fmt.Errorf("%q has more than one line", line)
	}
	if strings.TrimSpace(line) == "" {
		return errors.New("is empty")
	}
	return nil
}

// schemas are what is written to a class's schemata file, in this order. Each is one write, since the kernel takes no
// resource twice in one, and later ones shall prevail.
func schemas(rdt *specs.LinuxIntelRdt) (list []string) {
	for _, text := range []string{rdt.L3CacheSchema, rdt.MemBwSchema, strings.Join(rdt.Schemata, "\n")} {
		if text = strings.Trim(text, "\n"); text != "" {
			list = append(list, text)
		}
	}
	return list
}

// rdtOf are the groups that a configuration asks for; nil if it asks for none.
func rdtOf(rdt *specs.LinuxIntelRdt, id string) (*rdtState, error) {
	if rdt == nil {
		return nil, nil
	}
	s := &rdtState{Class: rdt.ClosID, Shared: rdt.ClosID != ""}
	if !s.Shared {
		if err := checkClass(id); err != nil {
			return nil, fmt.Errorf("linux.intelRdt: without a closID the container's id is one: %w", err)
		}
		s.Class = id
	}
	if rdt.EnableMonitoring {
		s.Monitor = id
	}
	return s, nil
}

// makeGroups makes a new container's cgroup and its groups of resctrl. undo takes them back, with the processes in them.
func (c *Container) makeGroups(ctx context.Context, b *builder, rec *record) (group *newGroup, undo func() error, err error) {
	undoRDT, err := c.makeRDT(ctx, rec, b.spec.Linux.IntelRdt)
	if err != nil {
		return nil, nil, err
	}
	b.rdt = rec.RDT
	if group, err = b.makeGroup(ctx, rec); err != nil {
		return nil, nil, errors.Join(err, undoRDT())
	}
	return group, func() error { return errors.Join(group.remove(ctx), undoRDT()) }, nil
}

// makeRDT makes the groups of a new container, on record before they are there: a create that is killed is undone by
// delete. undo takes them back.
func (c *Container) makeRDT(ctx context.Context, rec *record, rdt *specs.LinuxIntelRdt) (undo func() error, err error) {
	undo = func() error { return nil }
	s, err := rdtOf(rdt, c.ID)
	if err != nil || s == nil {
		return undo, err
	}
	mount, err := resctrl.find()
	if err != nil {
		return undo, err
	}
	unlock, err := lockResctrl(ctx, mount)
	if err != nil {
		return undo, err
	}
	defer unlock()
	if err := s.plan(mount, schemas(rdt)); err != nil {
		return undo, err
	}
	rec.RDT = s
	if err := c.runtime.save(rec); err != nil {
		return undo, err
	}
	made, err := s.create(mount, schemas(rdt))
	if err != nil {
		return undo, errors.Join(err, made.removeFrom(mount))
	}
	return func() error { return made.remove(context.WithoutCancel(ctx)) }, nil
}

// plan looks at what is there: a class that exists must be as wanted, a monitoring group must not exist.
func (s *rdtState) plan(mount string, wanted []string) error {
	stat, err := os.Lstat(s.class(mount))
	switch {
	case errors.Is(err, os.ErrNotExist) && s.Shared && len(wanted) == 0:
		return fmt.Errorf("linux.intelRdt.closID: class %s does not exist, and there is no schema to make it with: %w", s.Class, err)
	case errors.Is(err, os.ErrNotExist):
		s.Made = true
	case err != nil:
		return fmt.Errorf("linux.intelRdt: %w", err)
	case !stat.IsDir():
		return fmt.Errorf("linux.intelRdt.closID: class %s: %w", s.Class, unix.ENOTDIR)
	default:
		if err := s.compare(mount, wanted); err != nil {
			return err
		}
	}
	if s.Monitor == "" || s.Made {
		return nil
	}
	if _, err := os.Lstat(s.monitor(mount)); !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			err = os.ErrExist
		}
		return fmt.Errorf("linux.intelRdt.enableMonitoring: monitoring group %s of class %s: %w", s.Monitor, s.Class, err)
	}
	return nil
}

// create makes what is not there, and tells what it has made.
func (s *rdtState) create(mount string, wanted []string) (made *rdtState, err error) {
	made = &rdtState{Class: s.Class, Shared: s.Shared}
	if s.Made {
		if err := resctrl.mkdir(s.class(mount)); err != nil {
			return made, fmt.Errorf("linux.intelRdt: make class %s: %w", s.class(mount), reason(mount, err))
		}
		made.Made = true
	}
	for _, schema := range wanted {
		if err := s.write(mount, schema); err != nil {
			return made, err
		}
	}
	if s.Monitor == "" {
		return made, nil
	}
	if err := resctrl.mkdir(s.monitor(mount)); err != nil {
		return made, fmt.Errorf("linux.intelRdt.enableMonitoring: make monitoring group %s: %w", s.monitor(mount), reason(mount, err))
	}
	made.Monitor = s.Monitor
	return made, nil
}

// write changes a class's limits.
func (s *rdtState) write(mount, schema string) error {
	if err := resctrl.write(filepath.Join(s.class(mount), "schemata"), schema); err != nil {
		return fmt.Errorf("linux.intelRdt: give class %s the schema %q: %w", s.Class, schema, reason(mount, err))
	}
	return nil
}

// join puts a process, and what it will fork, into the groups, if there are any.
func (s *rdtState) join(pid int) error {
	if s == nil {
		return nil
	}
	mount, err := resctrl.find()
	if err != nil {
		return err
	}
	for _, dir := range s.groups(mount) {
		if err := resctrl.write(filepath.Join(dir, "tasks"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("linux.intelRdt: put process %d into %s: %w", pid, dir, reason(mount, err))
		}
	}
	return nil
}

// created is for when nothing can fail any more: from here on a class that the configuration names is everybody's.
func (s *rdtState) created() {
	if s != nil && s.Shared {
		s.Made = false
	}
}

// remove removes what was made for the container, whose processes have ended. Idempotent.
func (s *rdtState) remove(ctx context.Context) error {
	if s == nil {
		return nil
	}
	mount, err := resctrl.find()
	if err != nil {
		return nil //nolint:nilerr // unmounted: its groups went with it
	}
	if s.Made && s.Shared {
		unlock, err := lockResctrl(ctx, mount)
		if err != nil {
			return err
		}
		defer unlock()
	}
	return s.removeFrom(mount)
}

func (s *rdtState) removeFrom(mount string) error {
	var err error
	if s.Monitor != "" {
		err = removeGroup(s.monitor(mount))
	}
	if !s.Made || s.Class == "/" {
		return err
	}
	if s.Shared {
		used, useErr := inUse(s.class(mount))
		if used || useErr != nil { // another container has come to rely on it
			return errors.Join(err, useErr)
		}
	}
	return errors.Join(err, removeGroup(s.class(mount)))
}

// inUse reports whether a living process is in a class.
func inUse(class string) (bool, error) {
	text, err := rawfile.Read(filepath.Join(class, "tasks"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("linux.intelRdt: %w", err)
	}
	for word := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return false, fmt.Errorf("linux.intelRdt: %s/tasks: %w", class, err)
		}
		if _, state, err := processStat(pid); err == nil && state != 'Z' && state != 'X' {
			return true, nil
		}
	}
	return false, nil
}

func removeGroup(path string) error {
	if err := resctrl.rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("linux.intelRdt: remove %s: %w", path, err)
	}
	return nil
}

// writeLine appends a line to a file that exists; the kernel takes each write by itself.
func writeLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// reason adds what the kernel says of the last operation that failed.
func reason(mount string, err error) error {
	text, readErr := rawfile.Read(filepath.Join(mount, "info/last_cmd_status"))
	if says := strings.TrimSpace(string(text)); readErr == nil && says != "" && says != "ok" {
		return fmt.Errorf("%w: %s", err, says)
	}
	return err
}

// lockResctrl takes the lock that resctrl.rst asks of who makes or removes groups. Since anybody may hold it, it is not
// waited for without end.
func lockResctrl(ctx context.Context, mount string) (unlock func(), err error) {
	const patience, pause = 10 * time.Second, 5 * time.Millisecond
	f, err := os.Open(mount)
	if err != nil {
		return nil, fmt.Errorf("linux.intelRdt: %w", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		err = rawfile.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK || time.Now().After(end) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("linux.intelRdt: lock %s: %w", mount, err), ctx.Err(), f.Close())
		}
	}
}

// joinRDT has the runtime put the process into the container's groups, before its first step.
func (b *builder) joinRDT() error {
	s := b.rdt
	if b.dry {
		var err error
		if s, err = rdtOf(b.spec.Linux.IntelRdt, b.id); err != nil {
			return err
		}
	}
	if s == nil {
		return nil
	}
	mount, err := resctrl.find()
	if err != nil {
		return err
	}
	b.byParent("join resctrl groups "+strings.Join(s.groups(mount), " and "), func(child *spawn.Process) error { return s.join(child.Pid) })
	return nil
}

// UpdateRDT changes schemas of the class that a container is in, and with it all that are: l3 of the L3 cache and
// bandwidth of the memory, each "" to leave it as it is. They change together or not at all.
func (c *Container) UpdateRDT(l3, bandwidth string) error {
	rec, err := c.load()
	if err != nil {
		return err
	}
	if l3 == "" && bandwidth == "" {
		return nil
	}
	mount, err := resctrl.find()
	if err == nil && rec.RDT == nil {
		err = errors.New("linux.intelRdt: it was created without: it has no class")
	}
	if err == nil && l3 != "" {
		if err = checkLine(l3); err != nil {
			err = fmt.Errorf("L3 cache schema %w", err)
		}
	}
	if err == nil {
		if err = checkBandwidth(bandwidth); err != nil {
			err = fmt.Errorf("memory bandwidth schema %w", err)
		}
	}
	if err == nil {
		lines := slices.DeleteFunc([]string{l3, bandwidth}, func(s string) bool { return s == "" })
		err = rec.RDT.write(mount, strings.Join(lines, "\n"))
	}
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	return nil
}
