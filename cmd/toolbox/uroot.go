//go:build !toolbox_core

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/core"
	ucp "github.com/u-root/u-root/pkg/core/cp"
	umkdir "github.com/u-root/u-root/pkg/core/mkdir"
	umktemp "github.com/u-root/u-root/pkg/core/mktemp"
	urm "github.com/u-root/u-root/pkg/core/rm"
	utouch "github.com/u-root/u-root/pkg/core/touch"
	uxargs "github.com/u-root/u-root/pkg/core/xargs"
	"golang.org/x/sys/unix"
)

// These applets are u-root's.

// uroot runs one that says nothing on standard error unless something has failed: mkdir would end with 0 then.
func uroot(c core.Command, args []string) error {
	complaints := &spoken{to: os.Stderr}
	c.SetIO(os.Stdin, os.Stdout, complaints)
	if err := c.Run(args[1:]...); err != nil || !complaints.any {
		return err
	}
	return status(1)
}

// spoken knows whether anything has been written.
type spoken struct {
	to  io.Writer
	any bool
}

func (s *spoken) Write(text []byte) (int, error) {
	s.any = s.any || len(text) > 0
	return s.to.Write(text)
}

func mkdir(args []string) error  { return uroot(umkdir.New(), args) }
func mktemp(args []string) error { return uroot(umktemp.New(), args) }
func rm(args []string) error     { return uroot(urm.New(), args) }
func touch(args []string) error  { return uroot(utouch.New(), args) }
func xargs(args []string) error  { return uxargs.New().Run(args[1:]...) }

// cp takes -a as -r -P, and -p, for modes are copied anyway; owners and times are not.
func cp(args []string) error {
	flags := []string{args[0]}
	rest := args[1:]
	for len(rest) > 0 && len(rest[0]) > 1 && rest[0][0] == '-' && !strings.HasPrefix(rest[0], "--") {
		word := strings.NewReplacer("a", "rP", "d", "P", "p", "").Replace(rest[0])
		if word != "-" {
			flags = append(flags, word)
		}
		rest = rest[1:]
	}
	return uroot(ucp.New(), append(flags, rest...))
}

func mv(args []string) error {
	opts, names, err := getopt(args, "fnvi")
	if err != nil {
		return err
	}
	if len(names) < 2 {
		return usage("mv [-fnv] SOURCE... TARGET")
	}
	target := names[len(names)-1]
	info, err := os.Stat(target)
	into := err == nil && info.IsDir()
	if len(names) > 2 && !into {
		return fmt.Errorf("%s is not a directory", target)
	}
	return each(names[:len(names)-1], func(from string) error {
		to := target
		if into {
			to = filepath.Join(target, filepath.Base(from))
		}
		if _, err := os.Lstat(to); err == nil && opts.has('n') {
			return nil
		}
		if opts.has('v') {
			fmt.Printf("%s -> %s\n", from, to)
		}
		err := os.Rename(from, to)
		if !errors.Is(err, unix.EXDEV) {
			return err
		}
		if err := (ucp.Options{NoFollowSymlinks: true}).CopyTree(from, to); err != nil {
			return err
		}
		return os.RemoveAll(from)
	})
}
