package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"gantry/internal/shim/client"
)

// resourcesAny is the type that shims know a runtime specification's limits by.
const resourcesAny = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

// mergeUpdate puts the fields of docker update that are set over host, and checks the outcome.
func mergeUpdate(host *container.HostConfig, u container.UpdateConfig) error {
	if u.Memory != 0 && u.Memory < minMemory {
		return refuse("Minimum memory limit allowed is 6MB")
	}
	if err := updateConflict(host, u); err != nil {
		return err
	}
	set(&host.CPUShares, u.CPUShares)
	set(&host.Memory, u.Memory)
	set(&host.MemorySwap, u.MemorySwap)
	set(&host.MemoryReservation, u.MemoryReservation)
	set(&host.BlkioWeight, u.BlkioWeight)
	set(&host.CPUPeriod, u.CPUPeriod)
	set(&host.CPUQuota, u.CPUQuota)
	set(&host.CPURealtimePeriod, u.CPURealtimePeriod)
	set(&host.CPURealtimeRuntime, u.CPURealtimeRuntime)
	set(&host.CpusetCpus, u.CpusetCpus)
	set(&host.CpusetMems, u.CpusetMems)
	set(&host.PidsLimit, u.PidsLimit)
	for _, list := range []struct{ to, from *[]*blkiodev.ThrottleDevice }{
		{&host.BlkioDeviceReadBps, &u.BlkioDeviceReadBps},
		{&host.BlkioDeviceWriteBps, &u.BlkioDeviceWriteBps},
		{&host.BlkioDeviceReadIOps, &u.BlkioDeviceReadIOps},
		{&host.BlkioDeviceWriteIOps, &u.BlkioDeviceWriteIOps},
	} {
		if *list.from != nil {
			*list.to = *list.from
		}
	}
	if u.BlkioWeightDevice != nil {
		host.BlkioWeightDevice = u.BlkioWeightDevice
	}
	if err := fixed(u); err != nil {
		return err
	}
	set(&host.NanoCPUs, u.NanoCPUs)
	if u.RestartPolicy.Name != "" {
		if err := container.ValidateRestartPolicy(u.RestartPolicy); err != nil {
			return refuse("%w", err)
		}
		host.RestartPolicy = u.RestartPolicy
	}
	_, err := resources(&host.Resources)
	return err
}

// updateConflict refuses, in docker's words, a change that contradicts what the container has.
func updateConflict(host *container.HostConfig, u container.UpdateConfig) error {
	swap := swapLimit(&host.Resources)
	why := ""
	switch {
	case u.NanoCPUs > 0 && host.CPUPeriod > 0:
		why = "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"
	case u.NanoCPUs > 0 && host.CPUQuota > 0:
		why = "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set"
	case u.CPUPeriod > 0 && host.NanoCPUs > 0:
		why = "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set"
	case u.CPUQuota > 0 && host.NanoCPUs > 0:
		why = "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
	case u.MemorySwap == 0 && swap >= 0 && u.Memory > swap:
		why = "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
	case host.AutoRemove && u.RestartPolicy.Name != "" && !u.RestartPolicy.IsNone():
		why = "Restart policy cannot be updated because AutoRemove is enabled for the container"
	default:
		return nil
	}
	return fmt.Errorf("%s%w", why, noText{errdefs.ErrConflict})
}

// fixed refuses to change what a container keeps from its creation to its end.
func fixed(u container.UpdateConfig) error {
	for field, given := range map[string]bool{
		"CgroupParent": u.CgroupParent != "", "Devices": len(u.Devices) > 0, "DeviceCgroupRules": len(u.DeviceCgroupRules) > 0,
		"DeviceRequests": len(u.DeviceRequests) > 0, "MemorySwappiness": u.MemorySwappiness != nil, "OomKillDisable": u.OomKillDisable != nil,
		"Ulimits": len(u.Ulimits) > 0, "CpuCount": u.CPUCount != 0, "CpuPercent": u.CPUPercent != 0,
		"IOMaximumIOps": u.IOMaximumIOps != 0, "IOMaximumBandwidth": u.IOMaximumBandwidth != 0,
	} {
		if given {
			return refuse("%s cannot be updated: make another container", field)
		}
	}
	return nil
}

func set[T comparable](field *T, value T) {
	var zero T
	if value != zero {
		*field = value
	}
}

// applyLimits changes the limits of a running container.
func (c *Container) applyLimits(ctx context.Context, host *container.HostConfig) error {
	limits, err := resources(&host.Resources)
	if err != nil {
		return err
	}
	value, err := json.Marshal(limits)
	if err != nil {
		return err
	}
	err = c.engine.call(ctx, func(shim *client.Shim) error {
		_, err := shim.Task.Update(ctx, &task.UpdateTaskRequest{ID: c.ID, Resources: &anypb.Any{TypeUrl: resourcesAny, Value: value}})
		return err
	})
	if err != nil {
		return fmt.Errorf("update container %s: %w%w", c.ID, err, noText{refusalOf(err)})
	}
	return nil
}

// refusalOf classifies what the kernel said to a limit, of which the supervisor passes on only the words.
func refusalOf(err error) error {
	for errno, class := range map[unix.Errno]error{
		unix.EINVAL: errdefs.ErrInvalidArgument, unix.ERANGE: errdefs.ErrInvalidArgument,
		unix.EBUSY: errdefs.ErrConflict, unix.ENOSPC: errdefs.ErrConflict, // less than is in use; no processor or memory node is left
	} {
		if strings.HasSuffix(err.Error(), errno.Error()) {
			return class
		}
	}
	return nil
}
