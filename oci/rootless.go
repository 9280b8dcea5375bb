package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/rawfile"
)

// Unprivileged reports whether this process is an ordinary user, or root of a user namespace below the host's.
func Unprivileged() bool { return !isHostRoot() }

// errNoCgroup is what cannot be done with a container whose creator could make no cgroup.
var errNoCgroup = errors.New("the container has no cgroup: who created it may not make one")

// group opens the container's cgroup; errNoCgroup if it has none.
func (rec *record) group() (*cgroup.Group, error) {
	if rec.Cgroup == "" {
		return nil, errNoCgroup
	}
	return cgroup.Open(rec.Cgroup)
}

// makePermitted makes the cgroup of a container whose creator is no root. Without a path in the configuration it is as
// much of one as is permitted, perhaps none.
func (b *builder) makePermitted(rec *record, limits *specs.LinuxResources) (group *cgroup.Group, err error) {
	if path := b.spec.Linux.CgroupsPath; path != "" {
		if group, err = cgroup.CreateDelegated(rec.Cgroup, limits); errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("config.json: linux.cgroupsPath %q: unable to apply cgroup configuration, it is not delegated to this user, or linux.resources takes more than is: %w", path, err)
		}
		return group, err
	}
	if group, err = cgroup.CreatePermitted(rec.Cgroup, limits); group == nil {
		rec.Cgroup = ""
	}
	if err != nil {
		err = fmt.Errorf("config.json: linux.resources: %w", err)
	}
	return group, err
}

// end kills the first process of a container without a cgroup, and waits for its end: its pid namespace ends with it.
func (rec *record) end() error {
	pidfd, err := rec.pidfd()
	if err != nil {
		return nil //nolint:nilerr // it has ended
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill container %s: %w", rec.ID, err)
	}
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if n, err := rawfile.Poll(poll, 1000); n > 0 || err != nil {
			return err
		}
	}
	return fmt.Errorf("kill container %s: process %d does not end", rec.ID, rec.Pid)
}

// cgroupDirs are the directories of the container's cgroup by controller; where it has none, those of the cgroup that
// it stays in, this program's.
func (b *builder) cgroupDirs() (map[string]string, error) {
	if b.dry {
		return cgroup.Paths(b.cgroupPath())
	}
	group, err := cgroup.Open(b.cgroupPath())
	switch {
	case err == nil && !b.rootless:
		return group.Paths(), nil
	case err != nil && (!b.rootless || !errors.Is(err, os.ErrNotExist)):
		return nil, err
	}
	dirs, ownErr := cgroup.Own()
	if ownErr != nil {
		return nil, ownErr
	}
	if err == nil {
		maps.Copy(dirs, group.Paths())
	}
	return dirs, nil
}

// writeMaps writes the id maps of a new user namespace, whose creator this process is. A user may map its own ids, and
// with newuidmap(1) and newgidmap(1) those that subuid(5) and subgid(5) grant.
func writeMaps(pid int, uids, gids []specs.LinuxIDMapping) error {
	dir := fmt.Sprintf("/proc/%d/", pid)
	if os.Geteuid() == 0 {
		if err := writeMap(dir+"uid_map", uids); err != nil {
			return fmt.Errorf("config.json: linux.uidMappings: %w", err)
		}
		if err := writeMap(dir+"gid_map", gids); err != nil {
			return fmt.Errorf("config.json: linux.gidMappings: %w", err)
		}
		return nil
	}
	if err := writeUserMap(pid, "newuidmap", dir+"uid_map", uids, os.Geteuid()); err != nil {
		return fmt.Errorf("config.json: linux.uidMappings: %w", err)
	}
	if mapsOnly(gids, os.Getegid()) { // else who gives up a group could gain what is denied to it; see user_namespaces(7)
		if err := os.WriteFile(dir+"setgroups", []byte("deny"), 0); err != nil {
			return err
		}
	}
	if err := writeUserMap(pid, "newgidmap", dir+"gid_map", gids, os.Getegid()); err != nil {
		return fmt.Errorf("config.json: linux.gidMappings: %w", err)
	}
	return nil
}

func writeMap(file string, list []specs.LinuxIDMapping) error {
	return os.WriteFile(file, []byte(idMap(list)), 0)
}

// mapsOnly tells that one id is mapped, the given one.
func mapsOnly(list []specs.LinuxIDMapping, own int) bool {
	return len(list) == 1 && list[0].Size == 1 && list[0].HostID == uint32(own)
}

// writeUserMap writes a map as a user: itself if it is of the user's own id, else by the helper that may write others.
func writeUserMap(pid int, helper, file string, list []specs.LinuxIDMapping, own int) error {
	if mapsOnly(list, own) {
		return writeMap(file, list)
	}
	args := []string{helper, strconv.Itoa(pid)}
	for _, m := range list {
		for _, n := range []uint32{m.ContainerID, m.HostID, m.Size} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	return runIDHelper(args)
}

// idHelpers is where distributions have newuidmap and newgidmap. The environment of a user is not asked.
var idHelpers = []string{"/usr/bin/", "/bin/", "/usr/local/bin/", "/usr/sbin/"}

// granted are the files below /etc that the helpers obey.
var granted = map[string]string{"newuidmap": "subuid", "newgidmap": "subgid"}

// runIDHelper runs newuidmap or newgidmap, which may write what subuid(5) and subgid(5) grant, and reports its words.
func runIDHelper(args []string) error {
	program := ""
	for _, dir := range idHelpers {
		if _, err := os.Stat(dir + args[0]); err == nil {
			program = dir + args[0]
			break
		}
	}
	if program == "" {
		return fmt.Errorf("a user cannot map other ids than the own one without %s, which is not installed (Debian has it in the package uidmap)", args[0])
	}
	out, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	process, err := os.StartProcess(program, args, &os.ProcAttr{Env: []string{}, Files: []*os.File{nil, theirs, theirs}})
	if err = errors.Join(err, theirs.Close()); err != nil {
		return err
	}
	const most = 4 << 10
	text, readErr := io.ReadAll(io.LimitReader(out, most))
	state, err := process.Wait()
	switch {
	case err != nil || readErr != nil:
		return errors.Join(err, readErr)
	case !state.Success():
		return fmt.Errorf("%s: %s: %s (a user may map the own id, and what root grants in /etc/%s)", strings.Join(args, " "), state, bytes.TrimSpace(text), granted[args[0]])
	}
	return nil
}
