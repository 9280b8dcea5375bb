package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newExport(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "export [OPTIONS] CONTAINER", Short: "Export a container's filesystem as a tar archive", Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.export(cmd.Context(), args[0], output) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

func (a *app) export(ctx context.Context, name, output string) error {
	if _, ok := terminalOf(a.out); ok && output == "" {
		return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	archive, err := api.ContainerExport(ctx, name)
	if err != nil {
		return err
	}
	defer func() { _ = archive.Close() }()
	if output == "" {
		_, err := io.Copy(a.out, archive)
		return err
	}
	return writeFile(output, archive)
}

// writeFile puts a file in its place only when it is whole.
func writeFile(name string, content io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".export-")
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("export to %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}

func newDiff(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "diff CONTAINER", Short: "Inspect changes to files or directories on a container's filesystem", Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			diff, err := api.ContainerDiff(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			for _, c := range diff {
				a.println(c.Kind.String() + " " + c.Path)
			}
			return nil
		},
	}
}
