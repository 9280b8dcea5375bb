package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

// copyOptions are the flags of cp.
type copyOptions struct {
	archive, follow, quiet bool
}

func newCp(a *app) *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  gantry cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem", Args: argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.cp(cmd.Context(), args[0], args[1], o) },
	}
	cmd.Flags().BoolVarP(&o.archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	cmd.Flags().BoolVarP(&o.follow, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Suppress output of what was copied")
	return cmd
}

func (a *app) cp(ctx context.Context, source, target string, o copyOptions) error {
	from, src := containerPath(source)
	to, dst := containerPath(target)
	switch {
	case src == "" || dst == "":
		return errors.New("cp: a path is empty")
	case from != "" && to != "":
		return errors.New("copying between containers is not supported")
	case from == "" && to == "":
		return errors.New("must specify at least one container source")
	}
	a.negotiate = true // a request that has read the archive cannot be made again
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	var n int64
	if from != "" {
		n, err = a.copyFrom(ctx, api, from, src, dst, o)
	} else {
		n, err = a.copyTo(ctx, api, src, to, dst, o)
	}
	if err == nil && !o.quiet && dst != "-" {
		a.warnf("Successfully copied %s to %s\n", units.HumanSize(float64(n)), target)
	}
	return err
}

// containerPath splits CONTAINER:PATH; a path of this machine has no container. One with a colon begins with / or a dot.
func containerPath(arg string) (container, name string) {
	before, after, found := strings.Cut(arg, ":")
	if !found || filepath.IsAbs(arg) || strings.HasPrefix(before, ".") {
		return "", arg
	}
	return before, after
}

// copyFrom copies out of a container, to a tar archive on standard output if dst is "-". It returns the bytes of the archive.
func (a *app) copyFrom(ctx context.Context, api *client.Client, name, src, dst string, o copyOptions) (int64, error) {
	rebase := ""
	if o.follow {
		stat, err := api.ContainerStatPath(ctx, name, src)
		if err == nil && stat.Mode&fs.ModeSymlink != 0 {
			src, rebase = followed(src, linkTarget(src, stat.LinkTarget))
		}
	}
	files, stat, err := api.CopyFromContainer(ctx, name, src)
	if err != nil {
		return 0, err
	}
	defer func() { _ = files.Close() }()
	counted := &counter{Reader: files}
	if dst == "-" {
		_, err := io.Copy(a.out, counted)
		return counted.n, err
	}
	local, err := localPath(dst)
	if err != nil {
		return 0, err
	}
	to, err := localDestination(local)
	if err != nil {
		return 0, err
	}
	from := copyPath{path: src, exists: true, isDir: stat.Mode.IsDir(), rename: rebase}
	dir, rename, err := place(from, to)
	if err != nil {
		return 0, err
	}
	if rebase != "" {
		_, base := splitCopyPath(src)
		own, placed := renamer(base, rebase), rename
		rename = func(name string) string { return placed(own(name)) }
	}
	err = extract(counted, dir, rename)
	return counted.n, err
}

// copyTo copies into a container, from a tar archive on standard input if src is "-". It returns the bytes of the archive.
func (a *app) copyTo(ctx context.Context, api *client.Client, src, name, dst string, o copyOptions) (int64, error) {
	info := destination(ctx, api, name, dst)
	request := client.CopyOptions{Path: info.path, CopyUIDGID: o.archive}
	counted := &counter{Reader: a.in}
	if src == "-" {
		if info.exists && !info.isDir {
			return 0, fmt.Errorf("destination %q must be a directory", name+":"+dst)
		}
	} else {
		local, err := localPath(src)
		if err != nil {
			return 0, err
		}
		from, err := localSource(local, o.follow)
		if err != nil {
			return 0, err
		}
		dir, rename, err := place(from, info)
		if err != nil {
			return 0, err
		}
		files, w := io.Pipe()
		defer func() { _ = files.Close() }()
		leftOut := func(path string) { a.warnf("left out %s: a socket\n", path) }
		go func() { _ = w.CloseWithError(pack(w, from, rename, leftOut)) }()
		request.Path, counted.Reader = dir, files
	}
	err := api.CopyToContainer(ctx, name, counted, request)
	return counted.n, err
}

// destination is what is known of a path in a container; a link is followed. What cannot be found may be there to be made.
func destination(ctx context.Context, api *client.Client, name, dst string) copyPath {
	info := copyPath{path: dst}
	stat, err := api.ContainerStatPath(ctx, name, dst)
	if err == nil && stat.Mode&fs.ModeSymlink != 0 {
		info.path = linkTarget(dst, stat.LinkTarget)
		stat, err = api.ContainerStatPath(ctx, name, info.path)
	}
	if err == nil {
		info.exists, info.isDir = true, stat.Mode.IsDir()
	}
	return info
}

// linkTarget is where a link in a container leads.
func linkTarget(link, target string) string {
	if path.IsAbs(target) {
		return target
	}
	return path.Join(path.Dir(link), target)
}

// counter counts what is read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}
