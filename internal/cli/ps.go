package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

type psOptions struct {
	all, quiet, latest, size, noTrunc bool
	last                              int
	filters                           []string
	format                            string
}

func newPs(a *app) *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use: "ps [OPTIONS]", Short: "List containers", Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.ps(cmd.Context(), o) },
	}
	set := cmd.Flags()
	set.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	set.BoolVarP(&o.quiet, "quiet", "q", false, "Only display container IDs")
	set.BoolVarP(&o.latest, "latest", "l", false, "Show the latest created container (includes all states)")
	set.BoolVarP(&o.size, "size", "s", false, "Display total file sizes")
	set.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	set.IntVarP(&o.last, "last", "n", -1, "Show n last created containers (includes all states)")
	set.StringArrayVarP(&o.filters, "filter", "f", nil, "Filter output based on conditions provided")
	set.StringVar(&o.format, "format", "", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template")
	return cmd
}

func (a *app) ps(ctx context.Context, o psOptions) error {
	filters, err := parseFilters(o.filters)
	if err != nil {
		return err
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	if o.latest && o.last == -1 {
		o.last = 1
	}
	found, err := api.ContainerList(ctx, client.ListOptions{
		All: o.all, Size: o.size || strings.Contains(o.format, ".Size"), Limit: max(o.last, 0), Filters: filters,
	})
	if err != nil {
		return err
	}
	records := make([]record, len(found))
	for i := range found {
		records[i] = containerRecord(&found[i], o.noTrunc)
	}
	columns := `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}`
	if o.size {
		columns += `\t{{.Size}}`
	}
	return a.list(listing{headings: containerHeadings(), table: columns, id: "ID"}, o.format, o.quiet, records)
}

func containerHeadings() headings {
	return headings{
		"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
		"Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Names": "NAMES", "Labels": "LABELS",
		"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
	}
}

func containerRecord(c *container.Summary, full bool) record {
	created := time.Unix(c.Created, 0)
	r := record{
		labelsKey: c.Labels, "ID": c.ID, "Image": c.Image, "Command": strconv.Quote(c.Command), "CreatedAt": created.String(),
		"RunningFor": ago(created), "Ports": portText(c.Ports), "State": string(c.State), "Status": c.Status,
		"Labels": labelText(c.Labels), "Names": nameText(c.Names, full), "Size": containerSize(c), "Platform": platformText(c),
	}
	if c.Image == "" {
		r["Image"] = "<no image>"
	}
	var mounts []string
	volumes := 0
	for _, m := range c.Mounts {
		name := m.Name
		if name == "" {
			name = m.Source
		} else {
			volumes++
		}
		if !full {
			name = ellipsis(name, 15)
		}
		mounts = append(mounts, name)
	}
	r["Mounts"], r["LocalVolumes"] = strings.Join(mounts, ","), strconv.Itoa(volumes)
	r["Networks"] = ""
	if c.NetworkSettings != nil {
		r["Networks"] = strings.Join(slices.Sorted(maps.Keys(c.NetworkSettings.Networks)), ",")
	}
	if !full {
		r["ID"], r["Command"] = shortID(c.ID), strconv.Quote(ellipsis(c.Command, 20))
		if strings.HasPrefix(c.Image, "sha256:") {
			r["Image"] = shortID(c.Image)
		}
	}
	return r
}

// platformText is the image's platform, where the engine tells.
func platformText(c *container.Summary) string {
	if c.ImageManifestDescriptor == nil || c.ImageManifestDescriptor.Platform == nil {
		return ""
	}
	p := c.ImageManifestDescriptor.Platform
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}

// nameText drops the slash before names, and (unless full) the names that links gave.
func nameText(names []string, full bool) string {
	var out []string
	for _, name := range names {
		name = strings.TrimPrefix(name, "/")
		if full || !strings.Contains(name, "/") {
			out = append(out, name)
		}
	}
	return strings.Join(out, ",")
}

func containerSize(c *container.Summary) string {
	if c.SizeRootFs > 0 {
		return fmt.Sprintf("%s (virtual %s)", humanSize(c.SizeRw), humanSize(c.SizeRootFs))
	}
	return humanSize(c.SizeRw)
}

// portText writes the ports as docker does: neighbours become ranges, 0.0.0.0:8000-8001->80-81/tcp, 443/tcp.
func portText(ports []container.PortSummary) string {
	sorted := slices.Clone(ports)
	slices.SortFunc(sorted, func(x, y container.PortSummary) int {
		return cmp.Or(cmp.Compare(x.PrivatePort, y.PrivatePort), x.IP.Compare(y.IP), cmp.Compare(x.PublicPort, y.PublicPort), cmp.Compare(x.Type, y.Type))
	})
	var out []string
	done := make([]bool, len(sorted))
	for i, first := range sorted {
		if done[i] {
			continue
		}
		last := first
		for j := i + 1; j < len(sorted); j++ {
			if next := sorted[j]; !done[j] && follows(last, next) {
				last, done[j] = next, true
			}
		}
		out = append(out, portRange(first, last))
	}
	return strings.Join(out, ", ")
}

// follows reports whether next continues a range that ends with last.
func follows(last, next container.PortSummary) bool {
	return next.IP == last.IP && next.Type == last.Type && next.PrivatePort == last.PrivatePort+1 &&
		(next.PublicPort == last.PublicPort+1 && last.PublicPort != 0 || next.PublicPort == 0 && last.PublicPort == 0)
}

func portRange(first, last container.PortSummary) string {
	span := func(from, to uint16) string {
		if from == to {
			return strconv.Itoa(int(from))
		}
		return fmt.Sprintf("%d-%d", from, to)
	}
	text := span(first.PrivatePort, last.PrivatePort) + "/" + first.Type
	if first.PublicPort == 0 {
		return text
	}
	public := span(first.PublicPort, last.PublicPort)
	switch {
	case !first.IP.IsValid():
		return public + "->" + text
	case first.IP.Is6():
		return "[" + first.IP.String() + "]:" + public + "->" + text
	}
	return first.IP.String() + ":" + public + "->" + text
}
