package cgroup

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// hierarchy is one mounted tree. On v2, controllers are those that the root offers.
type hierarchy struct {
	mount       string
	controllers []string
	v2          bool
}

func (h *hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// host is what the machine has: the v1 hierarchies with a controller, and the v2 tree if it is mounted.
type host struct {
	v1      []hierarchy
	unified *hierarchy
}

// found is what the machine was last seen to have: hierarchies are mounted at boot, and seldom later.
var found struct {
	sync.Mutex
	host *host
}

// machine reads the host's hierarchies once, and again when allPresent finds that they are others now.
func machine() (*host, error) {
	found.Lock()
	defer found.Unlock()
	return lookAround()
}

// allPresent is machine for who needs every hierarchy to be mounted still.
func allPresent() (*host, error) {
	found.Lock()
	defer found.Unlock()
	if found.host != nil && !found.host.whole() {
		found.host = nil
	}
	return lookAround()
}

// lookAround is for who holds found's lock.
func lookAround() (*host, error) {
	if found.host != nil {
		return found.host, nil
	}
	f, err := rawfile.Open("/proc/self/mountinfo", os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	defer f.Close()
	found.host, err = readHost(f, rawfile.Read)
	return found.host, err
}

// whole tells that all hierarchies are still mounted: what is below a mount point that is left is no group.
func (h *host) whole() bool {
	for _, t := range h.trees() {
		var stat unix.Statfs_t
		if err := unix.Statfs(t.mount, &stat); err != nil || (stat.Type != unix.CGROUP_SUPER_MAGIC && stat.Type != unix.CGROUP2_SUPER_MAGIC) {
			return false
		}
	}
	return true
}

// present is the host as far as it has the group now: a handle may be older than a hierarchy's unmounting.
func (g *Group) present() *host {
	if h := g.host.having(g.path); h != nil {
		return h
	}
	return g.host // whose errors tell
}

// having is the host with those hierarchies alone that have a group: one that was mounted later has it not. Nil if none has.
func (h *host) having(path string) *host {
	there := func(t hierarchy) bool { return unix.Access(filepath.Join(t.mount, path), unix.F_OK) == nil }
	some, all := &host{}, true
	for _, t := range h.v1 {
		if !there(t) {
			all = false
			continue
		}
		some.v1 = append(some.v1, t)
	}
	if h.unified != nil && there(*h.unified) {
		some.unified = h.unified
	}
	switch {
	case some.unified == nil && len(some.v1) == 0:
		return nil
	case all && some.unified == h.unified:
		return h
	}
	return some
}

// readHost reads /proc/self/mountinfo; see proc_pid_mountinfo(5). Of hierarchies mounted twice the first counts.
func readHost(mountinfo io.Reader, read func(string) ([]byte, error)) (*host, error) {
	h := &host{}
	seen := map[string]bool{}
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte(" - cgroup")) {
			continue // there may be hundreds
		}
		left, right, found := strings.Cut(lines.Text(), " - ")
		place, kind := strings.Fields(left), strings.Fields(right)
		if !found || len(place) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			if h.unified != nil {
				continue
			}
			h.unified = &hierarchy{mount: place[4], v2: true}
			if text, err := read(filepath.Join(place[4], "cgroup.controllers")); err == nil {
				h.unified.controllers = strings.Fields(string(text))
			}
		case "cgroup":
			var controllers []string
			for option := range strings.SplitSeq(kind[2], ",") {
				if (slices.Contains(v1Controllers, option) || option == systemdTree) && !seen[option] {
					controllers = append(controllers, option)
					seen[option] = true
				}
			}
			if len(controllers) > 0 {
				h.v1 = append(h.v1, hierarchy{mount: place[4], controllers: controllers})
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	if len(h.v1) == 0 && h.unified == nil {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup)")
	}
	return h, nil
}

// v1Controllers are the controllers of v1 that a container may have; see cgroups(7).
var v1Controllers = []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio", "perf_event", "pids", "rdma", "misc"}

// systemdTree is a v1 hierarchy without controllers, by which systemd tells whose a process is.
const systemdTree = "name=systemd"

func (h *host) mode() Mode {
	switch {
	case len(h.v1) == 0:
		return V2
	case h.unified == nil:
		return V1
	default:
		return Hybrid
	}
}

// Detect returns how the host mounts its hierarchies.
func Detect() (Mode, error) {
	h, err := machine()
	if err != nil {
		return 0, err
	}
	return h.mode(), nil
}

// trees are the hierarchies that groups are made in: all. Beside v1, the v2 tree is one without controllers.
func (h *host) trees() []hierarchy {
	switch h.mode() {
	case V2:
		return []hierarchy{*h.unified}
	case Hybrid:
		return append(h.v1[:len(h.v1):len(h.v1)], hierarchy{mount: h.unified.mount, v2: true})
	}
	return h.v1
}

// dir is a group's directory in the hierarchy of a controller; "" if the host has no such controller.
func (h *host) dir(controller, path string) string {
	for _, t := range h.trees() {
		if t.has(controller) {
			return filepath.Join(t.mount, path)
		}
	}
	return ""
}

// Hierarchies lists the controllers of every v1 hierarchy; nil on a host with v2 alone.
func Hierarchies() ([][]string, error) {
	h, err := machine()
	if err != nil {
		return nil, err
	}
	var list [][]string
	for _, t := range h.v1 {
		if !t.has(systemdTree) {
			list = append(list, t.controllers)
		}
	}
	return list, nil
}
