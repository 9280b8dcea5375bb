package oci

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mostMaps is how many lines the kernel takes for a user namespace, see user_namespaces(7).
const mostMaps = 340

// checkIDMaps refuses maps of a new user namespace that the kernel would refuse with a word that names nothing: an empty
// range, one beyond the last id, ranges that overlap, no root. Ranges need no order.
func checkIDMaps(field string, list []specs.LinuxIDMapping) error {
	if len(list) > mostMaps {
		return fmt.Errorf("config.json: %s has %d ranges, and the kernel takes %d", field, len(list), mostMaps)
	}
	root := false
	for i, m := range list {
		if m.Size == 0 {
			return fmt.Errorf("config.json: %s[%d].size is 0", field, i)
		}
		for side, first := range map[string]uint32{"containerID": m.ContainerID, "hostID": m.HostID} {
			if last := uint64(first) + uint64(m.Size) - 1; last >= 1<<32-1 { // the last number is no id
				return fmt.Errorf("config.json: %s[%d]: %d ids from %s %d go beyond the last id", field, i, m.Size, side, first)
			}
		}
		for j, other := range list[:i] {
			if rangesMeet(m.ContainerID, m.Size, other.ContainerID, other.Size) {
				return fmt.Errorf("config.json: %s[%d] and [%d] overlap: both map containerID %d", field, j, i, max(m.ContainerID, other.ContainerID))
			}
			if rangesMeet(m.HostID, m.Size, other.HostID, other.Size) {
				return fmt.Errorf("config.json: %s[%d] and [%d] overlap: both map hostID %d", field, j, i, max(m.HostID, other.HostID))
			}
		}
		root = root || m.ContainerID == 0
	}
	if !root {
		return fmt.Errorf("config.json: %s does not map containerID 0: the root of the user namespace makes the container", field)
	}
	return nil
}

func rangesMeet(a, aSize, b, bSize uint32) bool {
	return uint64(a) < uint64(b)+uint64(bSize) && uint64(b) < uint64(a)+uint64(aSize)
}

// isMapped reports whether an id of the container is in one of the ranges.
func isMapped(list []specs.LinuxIDMapping, id uint32) bool {
	for _, m := range list {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return true
		}
	}
	return false
}

// hostID is the host's number of an id of the container; 0 if the ranges do not have it.
func hostID(list []specs.LinuxIDMapping, id uint32) int {
	for _, m := range list {
		if isMapped([]specs.LinuxIDMapping{m}, id) {
			return int(m.HostID + (id - m.ContainerID))
		}
	}
	return 0
}

// checkMapped refuses users and groups that the container's maps do not know. Where it joins a namespace they are not listed.
func (b *builder) checkMapped(u specs.User) error {
	uids, gids := b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings
	if len(uids) == 0 || len(gids) == 0 {
		return nil
	}
	if !isMapped(uids, u.UID) {
		return fmt.Errorf("config.json: process.user.uid %d is not in linux.uidMappings", u.UID)
	}
	if !isMapped(gids, u.GID) {
		return fmt.Errorf("config.json: process.user.gid %d is not in linux.gidMappings", u.GID)
	}
	for _, gid := range u.AdditionalGids {
		if !isMapped(gids, gid) {
			return fmt.Errorf("config.json: process.user.additionalGids: group %d is not in linux.gidMappings", gid)
		}
	}
	return nil
}

// checkUsersNamespace refuses what no ordinary user can make.
func (b *builder) checkUsersNamespace() error {
	if _, listed := b.has(specs.UserNamespace); os.Geteuid() != 0 && !listed && !b.dry {
		return errors.New("config.json: linux.namespaces: an ordinary user needs a user namespace, and there is none (spec --rootless writes one)")
	}
	return nil
}
