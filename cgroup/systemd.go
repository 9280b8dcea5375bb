package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	systemdName = "org.freedesktop.systemd1"
	systemdPath = "/org/freedesktop/systemd1"
	managerName = systemdName + ".Manager"
)

// Scope is a group that systemd manages: a transient scope unit, with everything below it delegated to us. It needs
// cgroup v2. See systemd.scope(5) and org.freedesktop.systemd1(5).
type Scope struct {
	Unit  string // "prefix-name.scope"
	Slice string // "machine-a.slice"; "" is the manager's default
	User  bool   // the user's manager, not the system's
}

// ScopeOf reads linux.cgroupsPath in systemd's form, "slice:prefix:name".
func ScopeOf(path string) (Scope, error) {
	parts := strings.Split(path, ":")
	if len(parts) != 3 || parts[2] == "" {
		return Scope{}, fmt.Errorf("linux.cgroupsPath %q: want slice:prefix:name for systemd", path)
	}
	s := Scope{Slice: parts[0], Unit: parts[2] + ".scope"}
	if parts[1] != "" {
		s.Unit = parts[1] + "-" + s.Unit
	}
	for _, name := range []string{s.Slice, s.Unit} {
		if strings.Contains(name, "/") || len(name) > 255 {
			return Scope{}, fmt.Errorf("linux.cgroupsPath %q: %q is no name of a unit", path, name)
		}
	}
	if s.Slice != "" && s.Slice != "-.slice" {
		stem, isSlice := strings.CutSuffix(s.Slice, ".slice")
		if !isSlice || stem == "" || strings.HasPrefix(stem, "-") || strings.HasSuffix(stem, "-") || strings.Contains(stem, "--") {
			return Scope{}, fmt.Errorf("linux.cgroupsPath %q: %q is no name of a slice", path, s.Slice)
		}
	}
	return s, nil
}

func (s Scope) dial(ctx context.Context) (*dbusConn, error) {
	sockets := []string{"/run/dbus/system_bus_socket", "/run/systemd/private"}
	if s.User {
		dir := os.Getenv("XDG_RUNTIME_DIR")
		if dir == "" {
			return nil, errors.New("connect to the user's systemd: XDG_RUNTIME_DIR is not set")
		}
		sockets = []string{filepath.Join(dir, "bus"), filepath.Join(dir, "systemd/private")}
	}
	c, err := dialDBus(ctx, sockets)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return c, nil
}

// Start makes the scope around a process, since systemd has no scope without one, and applies res. When the process
// leaves the scope or ends, somebody else must be in it, or systemd removes it. On failure nothing of the scope is left.
func (s Scope) Start(ctx context.Context, pid int, res *specs.LinuxResources) (_ *Group, err error) {
	h, err := machine()
	if err != nil {
		return nil, err
	}
	if h.mode() != V2 {
		return nil, fmt.Errorf("start unit %s: systemd's driver needs cgroup v2 alone, this host mounts v1", s.Unit)
	}
	properties, err := unitProperties(res)
	if err != nil {
		return nil, fmt.Errorf("start unit %s: %w", s.Unit, err)
	}
	c, err := s.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("start unit %s: %w", s.Unit, err)
	}
	defer c.close()
	var b dbusBody
	b.string(s.Unit)
	b.string("fail") // a unit of this name that there is stays as it is
	b.properties(append(s.properties(pid), properties...))
	b.array(8, func() {})
	if err := c.job("StartTransientUnit", "ssa(sv)a(sa(sv))", b); err != nil {
		return nil, fmt.Errorf("start unit %s: %w", s.Unit, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop(ctx))
		}
	}()
	path, err := pathOf(pid)
	if err != nil {
		return nil, fmt.Errorf("start unit %s: %w", s.Unit, err)
	}
	if filepath.Base(path) != s.Unit {
		return nil, fmt.Errorf("start unit %s: process %d is in cgroup %s", s.Unit, pid, path)
	}
	if !s.User {
		if err := h.unified.makeParents(path); err != nil { // systemd gives on fewer controllers than there are
			return nil, fmt.Errorf("start unit %s: %w", s.Unit, err)
		}
	}
	g := &Group{path: path, host: h}
	return g, g.Set(res)
}

// pathOf is the v2 group of a process.
func pathOf(pid int) (string, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			return strings.TrimSuffix(path, "\n"), nil
		}
	}
	return "", fmt.Errorf("process %d is in no v2 cgroup", pid)
}

// Set changes limits of a scope: systemd's idea of them, which it writes again whenever it is reloaded, and the group's.
func (s Scope) Set(ctx context.Context, g *Group, res *specs.LinuxResources) error {
	properties, err := unitProperties(res)
	if err != nil {
		return fmt.Errorf("limit unit %s: %w", s.Unit, err)
	}
	c, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("limit unit %s: %w", s.Unit, err)
	}
	defer c.close()
	var b dbusBody
	b.string(s.Unit)
	b.bool(true) // until the next boot
	b.properties(properties)
	if _, err := c.call(systemdName, systemdPath, managerName, "SetUnitProperties", "sba(sv)", b); err != nil {
		return fmt.Errorf("limit unit %s: %w", s.Unit, err)
	}
	return g.Set(res)
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
	b.string("replace")
	err = c.job("StopUnit", "ss", b)
	var answer *dbusError
	if err == nil || errors.As(err, &answer) && answer.name == systemdName+".NoSuchUnit" {
		return nil
	}
	return fmt.Errorf("stop unit %s: %w", s.Unit, err)
}

// job calls a method that answers with a job, and returns when the job is done.
func (c *dbusConn) job(method, signature string, b dbusBody) error {
	reply, err := c.call(systemdName, systemdPath, managerName, method, signature, b)
	if err != nil {
		return err
	}
	job, _, ok := dbusString(reply.body, 0)
	if !ok {
		return fmt.Errorf("%s: %w", method, errDBus)
	}
	for {
		m, err := c.signal()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", job, err)
		}
		if m.member != "JobRemoved" || m.signature != "uoss" {
			continue
		}
		path, next, ok := dbusString(m.body, 4)
		if !ok || path != job {
			continue
		}
		_, next, ok = dbusString(m.body, next)
		result, _, okToo := dbusString(m.body, next)
		if !ok || !okToo {
			return fmt.Errorf("wait for %s: %w", job, errDBus)
		}
		if result != "done" {
			return fmt.Errorf("%s: the job's result is %q", method, result)
		}
		return nil
	}
}
