package oci

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/rawfile"
	"gantry/spawn"
)

// makeUserNamespace makes a user namespace that nothing is in but its maps, and opens it: what an id-mapped mount wants
// (mount_setattr(2), MOUNT_ATTR_IDMAP). It lives as long as the descriptor, or a mount that uses it.
func makeUserNamespace(uids, gids []specs.LinuxIDMapping) (ns int, err error) {
	p := &spawn.Plan{Namespaces: unix.CLONE_NEWUSER}
	p.Steps = append(p.Steps, spawn.Step{Name: "write the id maps", Sync: func(child *spawn.Process) (err error) {
		if err := writeMaps(child.Pid, uids, gids); err != nil {
			return err
		}
		path := fmt.Sprintf("/proc/%d/ns/user", child.Pid)
		if ns, err = rawfile.RetryValue(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) }); err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		return nil
	}})
	if err := runHelper(p); err != nil {
		return -1, fmt.Errorf("make a user namespace: %w", err)
	}
	return ns, nil
}

// mapsOf reads the maps of a user namespace: each line is the first id inside, the first one seen from here, and how many.
func mapsOf(ns spawn.FD) (uids, gids string, err error) {
	p := &spawn.Plan{}
	p.Add("join user namespace "+ns.Name, unix.SYS_SETNS, spawn.Desc(ns), spawn.Flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	p.Steps = append(p.Steps, spawn.Step{Name: "read the id maps", Sync: func(child *spawn.Process) error {
		for file, text := range map[string]*string{"uid_map": &uids, "gid_map": &gids} {
			read, err := rawfile.Read(fmt.Sprintf("/proc/%d/%s", child.Pid, file))
			if err != nil {
				return err
			}
			*text = string(read)
		}
		return nil
	}})
	return uids, gids, runHelper(p)
}

// runHelper runs the steps in a process that ends after them.
func runHelper(p *spawn.Plan) error {
	p.Add("end", unix.SYS_EXIT_GROUP, spawn.Int(0))
	child, err := spawn.Start(p)
	if err != nil {
		return err
	}
	defer child.Close()
	_, err = child.Wait()
	return err
}

// sameMaps compares maps, as the kernel writes them, with what config.json lists; nothing listed is the same as anything.
func sameMaps(kernel string, list []specs.LinuxIDMapping) bool {
	return len(list) == 0 || strings.Join(strings.Fields(kernel), " ") == strings.Join(strings.Fields(idMap(list)), " ")
}

// checkMaps compares the maps that config.json lists with those of the user namespace that it wants to join.
func (b *builder) checkMaps(ns spawn.FD) error {
	linux := b.spec.Linux
	if len(linux.UIDMappings)+len(linux.GIDMappings) == 0 || b.dry || b.mounter != nil { // which was made with them
		return nil
	}
	uids, gids, err := mapsOf(ns)
	if err != nil {
		return err
	}
	if !sameMaps(uids, linux.UIDMappings) || !sameMaps(gids, linux.GIDMappings) {
		return fmt.Errorf("config.json: linux.uidMappings and linux.gidMappings are not those of the user namespace %s: leave them out", ns.Name)
	}
	return nil
}
