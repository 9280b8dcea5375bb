//go:build !toolbox_core

package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/tarfs"
)

func gzipFiles(args []string) error {
	opts, names, err := getopt(args, "cdkf123456789")
	if err != nil {
		return err
	}
	return compress(names, opts, opts.has('d'))
}

func gunzip(args []string) error {
	opts, names, err := getopt(args, "ckf")
	if err != nil {
		return err
	}
	return compress(names, opts, true)
}

// compress replaces files, or filters standard input.
func compress(names []string, opts options, reverse bool) error {
	if len(names) == 0 {
		return convert(os.Stdout, os.Stdin, reverse)
	}
	return each(names, func(name string) error {
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		if opts.has('c') {
			return convert(os.Stdout, in, reverse)
		}
		target, ok := name+".gz", true
		if reverse {
			target, ok = strings.CutSuffix(name, ".gz")
		}
		if !ok {
			return fmt.Errorf("%s: not named .gz", name)
		}
		flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
		if opts.has('f') {
			flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		}
		out, err := os.OpenFile(target, flags, 0o666)
		if err != nil {
			return err
		}
		if err := errors.Join(convert(out, in, reverse), out.Close()); err != nil {
			return errors.Join(err, os.Remove(target))
		}
		if opts.has('k') {
			return nil
		}
		return os.Remove(name)
	})
}

func convert(out io.Writer, in io.Reader, reverse bool) error {
	if reverse {
		r, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		return err
	}
	w := gzip.NewWriter(out)
	_, err := io.Copy(w, in)
	return errors.Join(err, w.Close())
}

// tarFiles is tar with c, x or t, and f, z, v, C.
func tarFiles(args []string) error {
	help := usage("tar -c|-x|-t [-zvk] [-f FILE] [-C DIR] [PATH]...")
	if len(args) < 2 {
		return help
	}
	if args[1] != "" && args[1][0] != '-' { // "tar xf FILE"
		args = append([]string{args[0], "-" + args[1]}, args[2:]...)
	}
	opts, names, err := getopt(args, "cxtzvkpof:C:")
	if err != nil {
		return err
	}
	dir := "."
	if opts.has('C') {
		dir = opts['C']
	}
	switch {
	case opts.has('c') && len(names) > 0:
		out := os.Stdout
		if name := opts['f']; name != "" && name != "-" {
			if out, err = os.Create(name); err != nil {
				return err
			}
		}
		var w io.WriteCloser = out
		if opts.has('z') {
			w = gzip.NewWriter(out)
		}
		err := pack(w, dir, names, opts.has('v'))
		if opts.has('z') {
			err = errors.Join(err, w.Close())
		}
		return errors.Join(err, out.Close())
	case opts.has('x') || opts.has('t'):
		in := os.Stdin
		if name := opts['f']; name != "" && name != "-" {
			if in, err = os.Open(name); err != nil {
				return err
			}
			defer func() { _ = in.Close() }()
		}
		return unpack(in, dir, opts)
	}
	return help
}

func pack(w io.Writer, dir string, names []string, verbose bool) error {
	out := tar.NewWriter(w)
	for _, name := range names {
		err := filepath.Walk(filepath.Join(dir, name), func(path string, info fs.FileInfo, err error) error {
			if err != nil {
				return err
			}
			inside, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			target := ""
			if info.Mode()&fs.ModeSymlink != 0 {
				if target, err = os.Readlink(path); err != nil {
					return err
				}
			}
			if info.Mode()&fs.ModeSocket != 0 {
				return nil // an archive cannot have it
			}
			header, err := tar.FileInfoHeader(info, target)
			if err != nil {
				return err
			}
			if header.Name = inside; info.IsDir() {
				header.Name += "/"
			}
			if verbose {
				fmt.Fprintln(os.Stderr, header.Name)
			}
			if !info.Mode().IsRegular() {
				return out.WriteHeader(header)
			}
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer func() { _ = file.Close() }()
			var content io.Reader
			if content, header.Size, err = tarfs.Content(file, info.Size()); err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
			if err := out.WriteHeader(header); err != nil {
				return err
			}
			_, err = io.Copy(out, content)
			return err
		})
		if err != nil {
			return err
		}
	}
	return out.Close()
}

func unpack(r io.Reader, dir string, opts options) error {
	in := bufio.NewReader(r)
	var stream io.Reader = in
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		if stream, err = gzip.NewReader(in); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir) // nothing is written outside, whatever the names are
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if opts.has('t') || opts.has('v') {
			fmt.Println(header.Name)
		}
		if opts.has('x') {
			if err := extract(root, header, archive); err != nil {
				return fmt.Errorf("%s: %w", header.Name, err)
			}
		}
	}
}

func extract(root *os.Root, header *tar.Header, body io.Reader) error {
	name := filepath.Clean(strings.TrimLeft(header.Name, "/"))
	mode := fs.FileMode(header.Mode) & 0o777
	if name == "." {
		return nil
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if header.Typeflag != tar.TypeDir {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	switch header.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		return root.Link(filepath.Clean(strings.TrimLeft(header.Linkname, "/")), name)
	case tar.TypeReg:
		file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, body)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entry of type %q is not supported", header.Typeflag)
	}
	return errors.Join(root.Chmod(name, mode), root.Chtimes(name, header.ModTime, header.ModTime))
}
