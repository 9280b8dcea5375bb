package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/oci"
	"gantry/oci/criu"
)

// criuFlags are those that checkpoint and restore share.
func criuFlags(flags *flag.FlagSet, o *oci.CheckpointOptions) {
	flags.StringVar(&o.ImagePath, "image-path", "", "`DIR` of criu's image files (default: ./checkpoint)")
	flags.StringVar(&o.WorkPath, "work-path", "", "`DIR` of criu's log and other work")
	flags.StringVar(&o.CgroupMode, "manage-cgroups-mode", "", "`MODE` of cgroups: soft, full, strict or ignore")
	flags.BoolVar(&o.TCPEstablished, "tcp-established", false, "allow open TCP connections")
	flags.BoolVar(&o.ExtUnixSockets, "ext-unix-sk", false, "allow unix sockets to processes outside")
	flags.BoolVar(&o.ShellJob, "shell-job", false, "allow jobs of a shell outside")
	flags.BoolVar(&o.FileLocks, "file-locks", false, "allow file locks, and keep them")
	flags.BoolVar(&o.LazyPages, "lazy-pages", false, "bring memory over when it is asked for, by userfaultfd")
	flags.BoolVar(&o.AutoDedup, "auto-dedup", false, "keep a page of memory in one image only")
	o.EmptyNS = unix.CLONE_NEWNET // nobody but the caller knows what was in it
	flags.Func("empty-ns", "`NAMESPACE` that is made, but not filled: network", func(s string) error {
		if s != "network" {
			return fmt.Errorf("namespace %q is not supported", s)
		}
		return nil
	})
}

func checkpoint(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var o oci.CheckpointOptions
	criuFlags(flags, &o)
	var server string
	flags.StringVar(&o.ParentPath, "parent-path", "", "`DIR` of an earlier --pre-dump, relative to the image path")
	flags.BoolVar(&o.LeaveRunning, "leave-running", false, "let the container go on")
	flags.BoolVar(&o.TCPSkipInFlight, "tcp-skip-in-flight", false, "pass over TCP connections in the making")
	flags.BoolVar(&o.LinkRemap, "link-remap", false, "give files without a name one, for a while")
	flags.BoolVar(&o.PreDump, "pre-dump", false, "save memory only, and let the container go on")
	flags.IntVar(&o.StatusFD, "status-fd", -1, "`FD` that a zero byte is written to when lazy pages are served")
	flags.StringVar(&server, "page-server", "", "`ADDRESS:PORT` of who takes memory")
	return func(ctx context.Context, args []string) error {
		c, err := a.runtime.LoadCreated(args[0])
		if err != nil {
			return err
		}
		if err := a.criuOptions(&o, server); err != nil {
			return err
		}
		if err := c.Checkpoint(ctx, o); err != nil {
			return err
		}
		if o.LeaveRunning || o.PreDump {
			return nil
		}
		return errors.Join(c.Delete(ctx, true), removeNotify(a.runtime.Root, c.ID))
	}
}

// criuOptions completes and checks what the flags say.
func (a *app) criuOptions(o *oci.CheckpointOptions, server string) error {
	o.Program = a.criu
	if o.ImagePath == "" {
		o.ImagePath = "checkpoint"
	}
	var err error
	if o.ImagePath, err = filepath.Abs(o.ImagePath); err != nil {
		return err
	}
	if filepath.IsAbs(o.ParentPath) {
		return errors.New("--parent-path must be relative")
	}
	if o.ParentPath != "" {
		info, err := os.Stat(filepath.Join(o.ImagePath, o.ParentPath))
		if err == nil && !info.IsDir() {
			err = unix.ENOTDIR
		}
		if err != nil {
			return fmt.Errorf("invalid --parent-path: %w", err)
		}
	}
	if o.LazyPages && o.StatusFD > 0 {
		access, err := unix.FcntlInt(uintptr(o.StatusFD), unix.F_GETFL, 0)
		if err != nil {
			return fmt.Errorf("invalid --status-fd argument %d: %w", o.StatusFD, err)
		}
		if access&unix.O_ACCMODE == unix.O_RDONLY {
			return fmt.Errorf("invalid --status-fd argument %d: not writable", o.StatusFD)
		}
	}
	if server == "" {
		return nil
	}
	colon := strings.LastIndexByte(server, ':')
	if colon < 0 {
		return errors.New("use --page-server ADDRESS:PORT to specify page server")
	}
	host, port := server[:colon], server[colon+1:]
	if inside, isIPv6 := strings.CutPrefix(host, "["); isIPv6 {
		host, isIPv6 = strings.CutSuffix(inside, "]")
		if !isIPv6 {
			host = ""
		}
	} else if strings.Contains(host, ":") {
		host = ""
	}
	if host == "" || port == "" {
		return errors.New("use --page-server ADDRESS:PORT to specify page server")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("--page-server: invalid port number %q", port)
	}
	o.PageServer = criu.PageServer{Address: host, Port: int(number)}
	return nil
}

func restore(a *app, flags *flag.FlagSet) func(context.Context, []string) error {
	var l launch
	var o oci.CheckpointOptions
	l.defineCommon(flags)
	l.defineRun(flags)
	criuFlags(flags, &o)
	flags.StringVar(&o.LSMProfile, "lsm-profile", "", "`TYPE:NAME` of the security module's profile")
	flags.StringVar(&o.LSMMountContext, "lsm-mount-context", "", "`CONTEXT` of mounts")
	return func(ctx context.Context, args []string) error {
		if err := a.criuOptions(&o, ""); err != nil {
			return err
		}
		caught := catchSignals(!l.detach)
		spec, terminal, notifier, err := a.bundleSpec(&l, args[0])
		if err != nil {
			return err
		}
		defer terminal.close()
		defer notifier.close()
		c, process, err := a.runtime.Restore(ctx, args[0], oci.CreateOptions{Bundle: l.bundle, Spec: spec, NoPivot: l.noPivot, Stdio: terminal.stdio()}, o)
		if err != nil {
			return errors.Join(err, removeNotify(a.runtime.Root, args[0]))
		}
		if err := announce(process, l.pidFile, ""); err != nil {
			return errors.Join(err, c.Delete(ctx, true), process.Pidfd.Close())
		}
		return a.attend(ctx, c, process, l, terminal, notifier, caught())
	}
}
