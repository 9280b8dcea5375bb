package cli

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

func newUpdate(a *app) *cobra.Command {
	var f containerFlags
	cmd := &cobra.Command{
		Use: "update [OPTIONS] CONTAINER [CONTAINER...]", Short: "Update configuration of one or more containers", Args: argsBetween(1, -1),
	}
	set := cmd.Flags()
	f.set = set
	set.VarP(&f.memory, "memory", "m", "Memory limit")
	set.Var(&f.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
	set.Var(&f.memoryReservation, "memory-reservation", "Memory soft limit")
	set.Var(&f.cpus, "cpus", "Number of CPUs")
	set.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	set.Int64Var(&f.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	set.Int64Var(&f.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	set.Int64Var(&f.cpuRtPeriod, "cpu-rt-period", 0, "Limit the CPU real-time period in microseconds")
	set.Int64Var(&f.cpuRtRuntime, "cpu-rt-runtime", 0, "Limit the CPU real-time runtime in microseconds")
	set.StringVar(&f.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	set.StringVar(&f.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	set.Int64Var(&f.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	set.Uint16Var(&f.blkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	set.StringVar(&f.restart, "restart", "", "Restart policy to apply when a container exits")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if set.NFlag() == 0 {
			return usageError(cmd, exitFailure, errors.New("you must provide one or more flags when using this command"))
		}
		resources, policy, err := f.update()
		if err != nil {
			return err
		}
		return a.each(cmd.Context(), args, func(ctx context.Context, api *client.Client, name string) error {
			warnings, err := api.ContainerUpdate(ctx, name, container.UpdateConfig{Resources: *resources, RestartPolicy: *policy})
			for _, warning := range warnings {
				a.warnf("WARNING: %s\n", warning)
			}
			return err
		})
	}
	return cmd
}

// update is what is to change; zero values stay as they are.
func (f *containerFlags) update() (*container.Resources, *container.RestartPolicy, error) {
	policy, err := parseRestart(f.restart)
	if err != nil {
		return nil, nil, err
	}
	r := &container.Resources{
		Memory: int64(f.memory), MemoryReservation: int64(f.memoryReservation), MemorySwap: int64(f.memorySwap),
		NanoCPUs: int64(f.cpus), CPUShares: f.cpuShares, CPUPeriod: f.cpuPeriod, CPUQuota: f.cpuQuota,
		CPURealtimePeriod: f.cpuRtPeriod, CPURealtimeRuntime: f.cpuRtRuntime,
		CpusetCpus: f.cpusetCpus, CpusetMems: f.cpusetMems, BlkioWeight: f.blkioWeight,
	}
	if f.changed("pids-limit") {
		r.PidsLimit = &f.pidsLimit
	}
	return r, &policy, nil
}
