package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

type statsOptions struct {
	all, noStream, noTrunc bool
	format                 string
}

func newStats(a *app) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use: "stats [OPTIONS] [CONTAINER...]", Short: "Display a live stream of container(s) resource usage statistics", Args: argsBetween(0, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.stats(cmd.Context(), args, o) },
	}
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	cmd.Flags().BoolVar(&o.noStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	cmd.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	cmd.Flags().StringVar(&o.format, "format", "", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template")
	return cmd
}

func statsListing() listing {
	return listing{
		headings: headings{
			"ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
			"MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
		},
		table: `{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}`, id: "ID",
	}
}

// stats prints samples of the named containers, or of those that run when each round begins; a round is as long as the
// engine needs for two samples, about a second.
func (a *app) stats(ctx context.Context, names []string, o statsOptions) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	_, onTerminal := terminalOf(a.out)
	for {
		round := names
		if len(names) == 0 {
			found, err := api.ContainerList(ctx, client.ListOptions{All: o.all})
			if err != nil {
				return err
			}
			for _, c := range found {
				round = append(round, c.ID)
			}
		}
		records, err := sampleAll(ctx, api, round, o.noTrunc)
		if len(names) == 0 && errdefs.IsNotFound(err) {
			err = nil // it went away since it was listed
		}
		if tooNew(err) {
			return err // before anything is printed: this will be run again
		}
		if onTerminal && !o.noStream {
			_, _ = io.WriteString(a.out, "\x1b[2J\x1b[H") // redraw the screen from its top
		}
		if listErr := a.list(statsListing(), o.format, false, records); listErr != nil || err != nil || o.noStream {
			return errors.Join(listErr, err)
		}
		if len(round) == 0 { // nothing to wait for within the round
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
			}
		}
	}
}

func sampleAll(ctx context.Context, api *client.Client, names []string, full bool) ([]record, error) {
	records, failures := make([]record, len(names)), make([]error, len(names))
	var sampling sync.WaitGroup
	for i, name := range names {
		sampling.Go(func() { records[i], failures[i] = sample(ctx, api, name, full) })
	}
	sampling.Wait()
	taken := records[:0]
	for _, r := range records {
		if r != nil {
			taken = append(taken, r)
		}
	}
	return taken, errors.Join(failures...)
}

func sample(ctx context.Context, api *client.Client, name string, full bool) (record, error) {
	s, err := api.ContainerStats(ctx, name)
	if err != nil {
		return nil, err
	}
	return statsRecord(name, s, full), nil
}

func statsRecord(name string, s *container.StatsResponse, full bool) record {
	used := memoryUsed(&s.MemoryStats)
	percent := 0.0
	if s.MemoryStats.Limit != 0 {
		percent = used / float64(s.MemoryStats.Limit) * 100
	}
	var received, sent, read, written float64
	for _, n := range s.Networks {
		received, sent = received+float64(n.RxBytes), sent+float64(n.TxBytes)
	}
	for _, entry := range s.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(entry.Op) {
		case "read":
			read += float64(entry.Value)
		case "write":
			written += float64(entry.Value)
		}
	}
	pair := func(x, y float64) string {
		return units.HumanSizeWithPrecision(x, 3) + " / " + units.HumanSizeWithPrecision(y, 3)
	}
	r := record{
		"ID": s.ID, "Container": name, "Name": strings.TrimPrefix(s.Name, "/"), "CPUPerc": fmt.Sprintf("%.2f%%", cpuPercent(s)),
		"MemUsage": units.BytesSize(used) + " / " + units.BytesSize(float64(s.MemoryStats.Limit)), "MemPerc": fmt.Sprintf("%.2f%%", percent),
		"NetIO": pair(received, sent), "BlockIO": pair(read, written), "PIDs": fmt.Sprint(s.PidsStats.Current),
	}
	if !full {
		r["ID"] = shortID(s.ID)
	}
	return r
}

// memoryUsed leaves out the page cache that the kernel would give back first: total_inactive_file (cgroup v1) or inactive_file (v2).
func memoryUsed(m *container.MemoryStats) float64 {
	for _, name := range []string{"total_inactive_file", "inactive_file"} {
		if cache, ok := m.Stats[name]; ok && cache < m.Usage {
			return float64(m.Usage - cache)
		}
	}
	return float64(m.Usage)
}

// cpuPercent is the processor time between the two samples, 100 for one processor.
func cpuPercent(s *container.StatsResponse) float64 {
	used := float64(s.CPUStats.CPUUsage.TotalUsage) - float64(s.PreCPUStats.CPUUsage.TotalUsage)
	all := float64(s.CPUStats.SystemUsage) - float64(s.PreCPUStats.SystemUsage)
	cpus := float64(s.CPUStats.OnlineCPUs)
	if cpus == 0 {
		cpus = float64(len(s.CPUStats.CPUUsage.PercpuUsage))
	}
	if used <= 0 || all <= 0 {
		return 0
	}
	return used / all * cpus * 100
}
