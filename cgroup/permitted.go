package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// CreateDelegated is Create for who may not write everywhere: what is above the group on v2 stays as it is, and of a
// machine with both versions the v2 tree is left out, since a process enters it only from a group beside. Device rules
// are passed over: users can make no devices, and the kernel takes no rules from them.
func CreateDelegated(path string, res *specs.LinuxResources) (*Group, error) {
	h, err := delegable()
	if err != nil {
		return nil, err
	}
	return create(h, path, withoutDevices(res))
}

// CreatePermitted is CreateDelegated, but for the hierarchies that refuse the group: they are left out. Limits that would
// need them are an error. Where no hierarchy permits a group there is none, and no error if there are no limits.
func CreatePermitted(path string, res *specs.LinuxResources) (*Group, error) {
	h, err := delegable()
	if err != nil {
		return nil, err
	}
	if path, err = checkPath(path); err != nil {
		return nil, fmt.Errorf("create cgroup %q: %w", path, err)
	}
	some := &host{}
	for _, t := range h.trees() {
		switch permitted, err := t.permits(path); {
		case err != nil:
			return nil, fmt.Errorf("create cgroup %s: %w", path, err)
		case !permitted:
		case t.v2:
			some.unified = &t
		default:
			some.v1 = append(some.v1, t)
		}
	}
	own := withoutDevices(res)
	if some.unified != nil || len(some.v1) > 0 {
		return create(some, path, own)
	}
	list, err := settingsV1(own)
	if h.mode() == V2 {
		list, err = settingsV2(own)
	}
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("%s: cannot set %s limit: container could not join or create cgroup %s: %w", list[0].field, list[0].controller, path, fs.ErrPermission)
	}
	return nil, err
}

// delegable is the machine without the v2 tree beside v1.
func delegable() (*host, error) {
	h, err := machine()
	if err != nil || h.mode() != Hybrid {
		return h, err
	}
	return &host{v1: h.v1}, nil
}

func withoutDevices(res *specs.LinuxResources) *specs.LinuxResources {
	own := specs.LinuxResources{}
	if res != nil {
		own = *res
	}
	own.Devices = nil
	return &own
}

// permits reports whether this process may make a group: it may write to the deepest directory above it that is there.
func (t *hierarchy) permits(path string) (bool, error) {
	for dir := filepath.Dir(filepath.Join(t.mount, path)); ; dir = filepath.Dir(dir) {
		err := unix.Access(dir, unix.W_OK)
		if errors.Is(err, unix.ENOENT) && dir != t.mount {
			continue
		}
		if unlessRefused(err) == nil && err != nil {
			return false, nil
		}
		return err == nil, err
	}
}

func unlessRefused(err error) error {
	if slices.ContainsFunc(refusals, func(refusal error) bool { return errors.Is(err, refusal) }) {
		return nil
	}
	return err
}

// refusals are what the kernel says to who may not.
var refusals = []error{unix.EACCES, unix.EPERM, unix.EROFS}

// Own maps a v1 controller, or "" for v2, to the directory of the cgroup that this process is in; see cgroups(7),
// /proc/PID/cgroup. Within a cgroup namespace that is what can be seen of it.
func Own() (map[string]string, error) {
	h, err := machine()
	if err != nil {
		return nil, err
	}
	text, err := rawfile.Read("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			for _, t := range h.trees() {
				if (controller == "" && t.v2) || (controller != "" && !t.v2 && t.has(controller)) {
					paths[controller] = filepath.Join(t.mount, parts[2])
				}
			}
		}
	}
	return paths, nil
}

// Beside is the path of a group beside the one that this process is in, where v2 is alone; "" elsewhere. There, a user
// has a place perhaps, and a group that has processes itself has none for others below.
func Beside(name string) string {
	h, err := machine()
	if err != nil || h.mode() != V2 {
		return ""
	}
	own, err := Own()
	path, found := strings.CutPrefix(own[""], h.unified.mount)
	if err != nil || !found {
		return ""
	}
	return filepath.Join("/", filepath.Dir(path), name)
}
