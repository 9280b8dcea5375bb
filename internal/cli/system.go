package cli

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
	"github.com/spf13/cobra"

	"gantry/internal/client"
	"gantry/internal/version"
)

// versions is what {{.}} is in version --format.
type versions struct {
	Client clientVersion
	Server *system.VersionResponse
}

type clientVersion struct {
	Version, APIVersion, DefaultAPIVersion, GoVersion, Os, Arch string
}

func newVersion(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "version [OPTIONS]", Short: "Show the version of the command line and the engine", Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.version(cmd.Context(), format) },
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Format output: 'json' or a Go template")
	return cmd
}

func (a *app) version(ctx context.Context, format string) error {
	v := versions{Client: clientVersion{
		Version: version.Version, APIVersion: client.MaxAPIVersion, DefaultAPIVersion: client.MaxAPIVersion,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
	}}
	api, err := a.engine(ctx)
	if err == nil {
		if v.Server, err = api.ServerVersion(ctx); err == nil {
			v.Client.APIVersion = api.Version()
		} else {
			v.Server = nil
		}
	}
	if tooNew(err) {
		return err
	}
	if showErr := a.showVersion(v, format); showErr != nil {
		return showErr
	}
	return err
}

func (a *app) showVersion(v versions, format string) error {
	if format != "" {
		return a.showFormat(v, format)
	}
	c := v.Client
	a.printf("Client:\n Version:           %s\n API version:       %s\n Go version:        %s\n OS/Arch:           %s/%s\n",
		c.Version, c.APIVersion, c.GoVersion, c.Os, c.Arch)
	if s := v.Server; s != nil {
		a.printf("\nServer: %s\n Engine:\n  Version:          %s\n  API version:      %s (minimum version %s)\n  OS/Arch:          %s/%s\n",
			s.Platform.Name, s.Version, s.APIVersion, s.MinAPIVersion, s.Os, s.Arch)
		for _, part := range s.Components {
			if part.Name != "Engine" {
				a.printf(" %s:\n  Version:          %s\n", part.Name, part.Version)
			}
		}
	}
	return nil
}

// showFormat prints one object with a template.
func (a *app) showFormat(data any, format string) error {
	if format == "json" {
		format = "{{json .}}"
	}
	t, err := parseFormat(format)
	if err != nil {
		return err
	}
	return executeLine(a.screen(), t, data)
}

func newInfo(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "info [OPTIONS]", Short: "Display system-wide information", Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			found, err := api.Info(cmd.Context())
			if err != nil {
				return err
			}
			if format != "" {
				return a.showFormat(found, format)
			}
			a.showInfo(found)
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Format output: 'json' or a Go template")
	return cmd
}

func (a *app) showInfo(i *system.Info) {
	a.printf("Client:\n Version:    %s\n\nServer:\n", version.Version)
	line := func(name string, value any) {
		if text := fmt.Sprint(value); text != "" {
			a.printf(" %s: %s\n", name, text)
		}
	}
	line("Containers", i.Containers)
	line(" Running", i.ContainersRunning)
	line(" Paused", i.ContainersPaused)
	line(" Stopped", i.ContainersStopped)
	line("Images", i.Images)
	line("Server Version", i.ServerVersion)
	line("Storage Driver", i.Driver)
	for _, status := range i.DriverStatus {
		line(" "+status[0], status[1])
	}
	line("Logging Driver", i.LoggingDriver)
	line("Cgroup Driver", i.CgroupDriver)
	line("Cgroup Version", i.CgroupVersion)
	line("Runtimes", strings.Join(slices.Sorted(maps.Keys(i.Runtimes)), " "))
	line("Default Runtime", i.DefaultRuntime)
	if len(i.SecurityOptions) > 0 {
		a.println(" Security Options:")
		for _, option := range i.SecurityOptions {
			a.println("  " + option)
		}
	}
	line("Kernel Version", i.KernelVersion)
	line("Operating System", i.OperatingSystem)
	line("OSType", i.OSType)
	line("Architecture", i.Architecture)
	line("CPUs", i.NCPU)
	line("Total Memory", units.BytesSize(float64(i.MemTotal)))
	line("Name", i.Name)
	line("ID", i.ID)
	line("Root Dir", i.DockerRootDir)
	line("Debug Mode", i.Debug)
	for _, warning := range i.Warnings {
		a.warnf("%s\n", warning)
	}
}

func newDiskUsage(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "df [OPTIONS]", Short: "Show disk usage", Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.diskUsage(cmd.Context(), format) },
	}
	cmd.Flags().StringVar(&format, "format", "", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template")
	return cmd
}

func (a *app) diskUsage(ctx context.Context, format string) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	u, err := api.DiskUsage(ctx)
	if err != nil {
		return err
	}
	images, containers, volumes := orZero(u.ImageUsage), orZero(u.ContainerUsage), orZero(u.VolumeUsage)
	row := func(kind string, total, active, size, reclaimable int64) record {
		free := humanSize(reclaimable)
		if size > 0 {
			free += fmt.Sprintf(" (%d%%)", reclaimable*100/size)
		}
		return record{"Type": kind, "TotalCount": fmt.Sprint(total), "Active": fmt.Sprint(active), "Size": humanSize(size), "Reclaimable": free}
	}
	return a.list(listing{
		headings: headings{"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"},
		table:    `{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}`, id: "Type",
	}, format, false, []record{
		row("Images", images.TotalCount, images.ActiveCount, images.TotalSize, images.Reclaimable),
		row("Containers", containers.TotalCount, containers.ActiveCount, containers.TotalSize, containers.Reclaimable),
		row("Local Volumes", volumes.TotalCount, volumes.ActiveCount, volumes.TotalSize, volumes.Reclaimable),
	})
}

func orZero[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}
