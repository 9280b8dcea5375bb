package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"

	"gantry/internal/printable"
)

// printableCells makes a line of a table safe to print: a process chooses its own title.
func printableCells(line []string) []string {
	cells := make([]string, len(line))
	for i, cell := range line {
		cells[i] = printable.Line(cell)
	}
	return cells
}

func newTop(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "top CONTAINER [ps OPTIONS]", Short: "Display the running processes of a container", Args: argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			found, err := api.ContainerTop(cmd.Context(), args[0], args[1:])
			if err != nil {
				return err
			}
			tabs := tabwriter.NewWriter(a.out, 20, 1, 3, ' ', 0)
			for _, line := range append([][]string{found.Titles}, found.Processes...) {
				if _, err := fmt.Fprintln(tabs, strings.Join(printableCells(line), "\t")); err != nil {
					return err
				}
			}
			return tabs.Flush()
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func newPort(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "port CONTAINER [PRIVATE_PORT[/PROTO]]", Short: "List port mappings or a specific mapping for the container", Args: argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			found, _, err := api.ContainerInspect(cmd.Context(), args[0], false)
			if err != nil {
				return err
			}
			var ports network.PortMap
			if settings := found.NetworkSettings; settings != nil {
				ports = settings.Ports
			}
			return a.printPorts(args[0], ports, args[1:])
		},
	}
}

// printPorts prints all published ports, or the host's side of the one that is asked for.
func (a *app) printPorts(name string, ports network.PortMap, asked []string) error {
	if len(asked) == 1 {
		port, err := network.ParsePort(asked[0])
		if err != nil {
			return err
		}
		bindings := ports[port]
		if len(bindings) == 0 {
			return errors.New("no public port '" + port.String() + "' published for " + name)
		}
		for _, b := range bindings {
			a.println(hostSide(b))
		}
		return nil
	}
	sorted := slices.SortedFunc(maps.Keys(ports), func(x, y network.Port) int {
		return cmp.Or(cmp.Compare(x.Num(), y.Num()), cmp.Compare(x.Proto(), y.Proto()))
	})
	for _, port := range sorted {
		for _, b := range ports[port] {
			a.printf("%s -> %s\n", port, hostSide(b))
		}
	}
	return nil
}

func hostSide(b network.PortBinding) string {
	host := ""
	if b.HostIP.IsValid() {
		host = b.HostIP.String()
	}
	return net.JoinHostPort(host, b.HostPort)
}
