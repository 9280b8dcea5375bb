package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// help prints a command's help in docker's layout, without the template that cobra would parse for it.
func (a *app) help(cmd *cobra.Command) {
	use := cmd.UseLine()
	if cmd.HasParent() && cmd.HasSubCommands() {
		use = cmd.Parent().CommandPath() + " " + cmd.Use
	}
	a.printf("Usage:  %s\n\n%s\n", strings.TrimSuffix(use, " [flags]"), cmd.Short)
	if cmd.HasAvailableSubCommands() {
		a.println("\nCommands:")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				a.printf("  %-11s %s\n", sub.Name(), sub.Short)
			}
		}
	}
	if cmd.HasAvailableLocalFlags() {
		a.printf("\nOptions:\n%s", cmd.LocalFlags().FlagUsages())
	}
	if cmd.HasAvailableSubCommands() {
		a.printf("\nRun '%s COMMAND --help' for more information on a command.\n", cmd.CommandPath())
	}
}
