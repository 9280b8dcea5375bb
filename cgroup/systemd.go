package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

const (
	systemdName = "org.freedesktop.systemd1"
	systemdPath = "/org/freedesktop/systemd1"
	managerName = systemdName + ".Manager"
)

// Scope is a group that systemd manages: a transient scope unit, with everything below it delegated to us.
// See systemd.scope(5) and org.freedesktop.systemd1(5).
type Scope struct {
	Unit  string // "prefix-name.scope"
	Slice string // "machine-a.slice", where it stands; "": the manager's choice
	User  bool   // of the user's manager, not the system's
}

// ScopeOf reads linux.cgroupsPath in systemd's form, "slice:prefix:name", with runc's defaults: without a path the prefix
// is "runc" and the name the container's id, without a slice it is system.slice, or user.slice of a user's manager.
func ScopeOf(path, id string, user bool) (Scope, error) {
	if path == "" {
		path = ":runc:" + id
	}
	parts := strings.Split(path, ":")
	if len(parts) != 3 || parts[2] == "" {
		return Scope{}, fmt.Errorf("linux.cgroupsPath: expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got %q instead", path)
	}
	s := Scope{Slice: parts[0], Unit: parts[1] + "-" + parts[2] + ".scope", User: user}
	if s.Slice == "" {
		s.Slice = map[bool]string{false: "system.slice", true: "user.slice"}[user]
	}
	for _, name := range []string{s.Slice, s.Unit} {
		if strings.Contains(name, "/") || len(name) > 255 {
			return Scope{}, fmt.Errorf("linux.cgroupsPath %q: %q is no name of a unit", path, name)
		}
	}
	if strings.HasSuffix(parts[2], ".slice") {
		return Scope{}, fmt.Errorf("linux.cgroupsPath %q: a slice cannot hold a container's processes itself", path)
	}
	if s.Slice != "-.slice" {
		stem, isSlice := strings.CutSuffix(s.Slice, ".slice")
		if !isSlice || stem == "" || strings.HasPrefix(stem, "-") || strings.HasSuffix(stem, "-") || strings.Contains(stem, "--") {
			return Scope{}, fmt.Errorf("linux.cgroupsPath %q: %q is no name of a slice", path, s.Slice)
		}
	}
	return s, nil
}

// Path is the scope's group below its manager's: a-b.slice is in a.slice.
func (s Scope) Path() string {
	path, prefix := "/", ""
	if s.Slice != "-.slice" {
		for part := range strings.SplitSeq(strings.TrimSuffix(s.Slice, ".slice"), "-") {
			prefix += part
			path = filepath.Join(path, prefix+".slice")
			prefix += "-"
		}
	}
	return filepath.Join(path, s.Unit)
}

// Start makes the scope around a process, since systemd has no scope without one, and applies res. Annotations
// "org.systemd.property.NAME" become properties of the unit. When the process leaves the scope or ends, somebody else
// must be in it, or systemd removes it. On failure nothing of the scope is left.
func (s Scope) Start(ctx context.Context, pid int, res *specs.LinuxResources, annotations map[string]string) (_ *Group, err error) {
	failed := func(err error) error { return fmt.Errorf("start unit %s: %w", s.Unit, err) }
	h, err := machine()
	if err != nil {
		return nil, failed(err)
	}
	if s.User && h.mode() != V2 {
		return nil, failed(errors.New("a user's systemd manages cgroups with cgroup v2 alone, this host mounts v1"))
	}
	extra, err := annotated(annotations)
	if err != nil {
		return nil, failed(err)
	}
	c, err := s.dial(ctx)
	if err != nil {
		return nil, failed(err)
	}
	defer c.close()
	limits, err := unitProperties(res, h.mode() == V2, c.version)
	if err != nil {
		return nil, failed(err)
	}
	atStart, err := oomPolicy(res, c.version)
	if err != nil {
		return nil, failed(err)
	}
	properties := slices.Concat(s.properties(pid, h.mode() == V2), limits, atStart, extra)
	if err := c.startUnit(s.Unit, properties); err != nil {
		return nil, failed(err)
	}
	g, err := s.group(h, pid)
	if err == nil {
		err = g.Set(res)
	}
	if err != nil {
		err = errors.Join(failed(err), s.Stop(context.WithoutCancel(ctx)))
		if g != nil {
			err = errors.Join(err, g.Delete())
		}
		return nil, err
	}
	return g, nil
}

// startUnit starts a transient unit. One of this name that has failed is what an earlier container left: it goes.
func (c *dbusConn) startUnit(unit string, properties []property) error {
	var b dbusBody
	b.string(unit)
	b.string("replace")
	b.properties(properties)
	b.array(8, func() {})
	err := c.job("StartTransientUnit", "ssa(sv)a(sa(sv))", b)
	var answer *dbusError
	if errors.As(err, &answer) && answer.name == systemdName+".UnitExists" {
		c.resetFailed(unit)
		err = c.job("StartTransientUnit", "ssa(sv)a(sa(sv))", b)
	}
	if err != nil && (!errors.As(err, &answer) || answer.name != systemdName+".UnitExists") {
		c.resetFailed(unit)
	}
	return err
}

// resetFailed has systemd forget a unit that failed. That there is none is the usual case.
func (c *dbusConn) resetFailed(unit string) {
	var b dbusBody
	b.string(unit)
	_, _ = c.call(systemdName, systemdPath, managerName, "ResetFailedUnit", "s", b)
}

// group is the scope's group, as far as systemd has not made it, around its first process.
func (s Scope) group(h *host, pid int) (*Group, error) {
	path, err := pathOf(pid, h.mode() == V2)
	if err != nil {
		return nil, err
	}
	if filepath.Base(path) != s.Unit {
		return nil, fmt.Errorf("process %d is in cgroup %s", pid, path)
	}
	g := &Group{path: path, host: h}
	if s.User {
		return g, nil
	}
	if h.mode() == V2 {
		return g, h.unified.makeParents(path) // systemd gives on fewer controllers than there are
	}
	for _, t := range h.trees() { // systemd knows a few of v1's
		if t.has(systemdTree) {
			continue
		}
		if _, err := t.make(path); err != nil {
			return g, err
		}
		if err := write(filepath.Join(t.mount, path, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return g, err
		}
	}
	return g, nil
}

// pathOf is the group of a process in the hierarchy that systemd keeps its units in.
func pathOf(pid int, v2 bool) (string, error) {
	text, err := rawfile.Read("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		number, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		if (v2 && number == "0" && controllers == "") || (!v2 && controllers == systemdTree) {
			return path, nil
		}
	}
	return "", fmt.Errorf("process %d is in no cgroup of systemd", pid)
}

// Set changes limits of a scope: systemd's idea of them, which it writes again whenever it is reloaded, and the group's.
func (s Scope) Set(ctx context.Context, g *Group, res *specs.LinuxResources) (err error) {
	failed := func(err error) error { return fmt.Errorf("limit unit %s: %w", s.Unit, err) }
	if res == nil {
		return nil
	}
	if err := g.checkUsage(res.Memory); err != nil {
		return err
	}
	res = g.complete(res)
	c, err := s.dial(ctx)
	if err != nil {
		return failed(err)
	}
	defer c.close()
	properties, err := unitProperties(res, g.host.mode() == V2, c.version)
	if err != nil {
		return failed(err)
	}
	var b dbusBody
	b.string(s.Unit)
	b.bool(true) // until the next boot
	b.properties(properties)
	call := func() error {
		_, err := c.call(systemdName, systemdPath, managerName, "SetUnitProperties", "sba(sv)", b)
		return err
	}
	if g.host.mode() != V2 && len(res.Devices) > 0 {
		err = g.whileFrozen(call)
	} else {
		err = call()
	}
	if err != nil {
		return failed(err)
	}
	return g.Set(res)
}

// whileFrozen calls f while no process of the group runs: on v1 systemd takes all devices away before it gives them back.
func (g *Group) whileFrozen(f func() error) error {
	frozen, err := g.Frozen()
	if file, _ := g.freezer(true); err != nil || frozen || file == "" {
		return errors.Join(err, f())
	}
	if err := g.Freeze(); err != nil {
		return err
	}
	return errors.Join(f(), g.Thaw())
}

// Attach has systemd move a process into the scope, or into a group below it: who has a user's rights cannot, where it
// comes from a group that is not the user's.
func (s Scope) Attach(ctx context.Context, pid int, below string) error {
	c, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("move process %d into unit %s: %w", pid, s.Unit, err)
	}
	defer c.close()
	var b dbusBody
	b.string(s.Unit)
	b.string(filepath.Join("/", below))
	b.array(4, func() { b.uint32(uint32(pid)) })
	if _, err := c.call(systemdName, systemdPath, managerName, "AttachProcessesToUnit", "ssau", b); err != nil {
		return fmt.Errorf("move process %d into unit %s: %w", pid, s.Unit, err)
	}
	return nil
}

// Stop ends the scope and all that is in it, and returns when systemd has removed its group. One that is not there is fine.
func (s Scope) Stop(ctx context.Context) error {
	c, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("stop unit %s: %w", s.Unit, err)
	}
	defer c.close()
	var b dbusBody
	b.string(s.Unit)
	b.string("all")
	b.uint32(uint32(unix.SIGKILL))                                             // else the job begins with SIGTERM and much patience
	_, _ = c.call(systemdName, systemdPath, managerName, "KillUnit", "ssi", b) // nobody in it is fine
	b = nil
	b.string(s.Unit)
	b.string("replace")
	err = c.job("StopUnit", "ss", b)
	c.resetFailed(s.Unit)
	var answer *dbusError
	if err == nil || errors.As(err, &answer) && answer.name == systemdName+".NoSuchUnit" {
		return nil
	}
	return fmt.Errorf("stop unit %s: %w", s.Unit, err)
}
