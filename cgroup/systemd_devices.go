package cgroup

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// allowed is an entry of systemd's list of devices: "/dev/char/1:3", "char-136" or "char-*", and what may be done with it.
type allowed struct{ path, access string }

// deviceProperties are the device rules as systemd knows them: a list of what is allowed, nothing else being so. It
// enforces them beside the group's own, which are exact, and on v1 in their place when it is reloaded. It cannot say that
// one device is denied where others are not, nor "any major number": then it allows more on v2, where our filter stands
// beside its own, and on v1 less.
func deviceProperties(rules []specs.LinuxDeviceCgroup, v2 bool) []property {
	if len(rules) == 0 {
		return nil
	}
	list, everything, exact := deviceList(rules)
	if everything && (exact || v2) || v2 && slices.ContainsFunc(rules, unsayable) {
		return []property{devicesProperty(nil), textProperty("DevicePolicy", "auto")}
	}
	if everything {
		list = nil
	}
	return []property{devicesProperty(nil), textProperty("DevicePolicy", "strict"), devicesProperty(list)} // the first empties it
}

// unsayable is an allowing rule that systemd's list has no words for: the list would allow less than the rules.
func unsayable(r specs.LinuxDeviceCgroup) bool {
	_, sayable := devicePaths(r)
	return r.Allow && !sayable
}

func devicesProperty(list []allowed) property {
	return property{"DeviceAllow", "a(ss)", func(b *dbusBody) {
		b.array(8, func() {
			for _, e := range list {
				b.align(8)
				b.string(e.path)
				b.string(e.access)
			}
		})
	}}
}

// deviceList goes through the rules, of which the last that matches counts. Everything: what is not listed is allowed.
func deviceList(rules []specs.LinuxDeviceCgroup) (list []allowed, everything, exact bool) {
	exact = true
	for _, r := range rules {
		if all(r) {
			list, everything, exact = nil, r.Allow, true
			continue
		}
		paths, sayable := devicePaths(r)
		switch {
		case everything && r.Allow: // it is already
		case everything || !sayable:
			exact = false
		default:
			for _, path := range paths {
				var whole bool
				list, whole = change(list, path, r)
				exact = exact && whole
			}
		}
	}
	return list, everything, exact
}

// devicePaths is a rule's device in systemd's words.
func devicePaths(r specs.LinuxDeviceCgroup) (paths []string, sayable bool) {
	kinds := map[string][]string{"c": {"char"}, "b": {"block"}}[r.Type]
	if kinds == nil {
		kinds = []string{"block", "char"}
	}
	any := func(n *int64) bool { return n == nil || *n < 0 }
	for _, kind := range kinds {
		switch {
		case any(r.Major) && any(r.Minor):
			paths = append(paths, kind+"-*")
		case any(r.Major):
			return nil, false
		case any(r.Minor):
			paths = append(paths, fmt.Sprintf("%s-%d", kind, *r.Major))
		default:
			paths = append(paths, fmt.Sprintf("/dev/%s/%d:%d", kind, *r.Major, *r.Minor))
		}
	}
	return paths, true
}

// change allows or denies a device. Denied can be what has been allowed by the same name: whole is false where other
// entries may allow it too.
func change(list []allowed, path string, r specs.LinuxDeviceCgroup) (_ []allowed, whole bool) {
	whole = r.Allow || len(list) == 0
	for i := range list {
		if list[i].path != path {
			continue
		}
		var access string
		for _, letter := range []string{"r", "w", "m"} {
			had, named := strings.Contains(list[i].access, letter), strings.Contains(r.Access, letter)
			if (r.Allow && (had || named)) || (!r.Allow && had && !named) {
				access += letter
			}
		}
		if list[i].access = access; access == "" {
			list = append(list[:i:i], list[i+1:]...)
		}
		return list, whole || len(list) <= 1
	}
	if r.Allow {
		return append(list, allowed{path, r.Access}), true
	}
	return list, whole
}
