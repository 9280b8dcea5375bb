package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mountFlags are the options of mount(8) that are flags of mount(2); the others go to the file system.
var mountFlags = []struct {
	name string
	bits uintptr
}{
	{"ro", unix.MS_RDONLY},
	{"nosuid", unix.MS_NOSUID},
	{"nodev", unix.MS_NODEV},
	{"noexec", unix.MS_NOEXEC},
	{"sync", unix.MS_SYNCHRONOUS},
	{"remount", unix.MS_REMOUNT},
	{"noatime", unix.MS_NOATIME},
	{"relatime", unix.MS_RELATIME},
	{"bind", unix.MS_BIND},
	{"rbind", unix.MS_BIND | unix.MS_REC},
	{"private", unix.MS_PRIVATE},
	{"rprivate", unix.MS_PRIVATE | unix.MS_REC},
	{"shared", unix.MS_SHARED},
	{"rshared", unix.MS_SHARED | unix.MS_REC},
	{"slave", unix.MS_SLAVE},
	{"rslave", unix.MS_SLAVE | unix.MS_REC},
	{"rw", 0},
	{"defaults", 0},
}

func mount(args []string) error {
	for i, arg := range args { // long forms of what -o also says
		if name, ok := strings.CutPrefix(arg, "--"); ok && name != "" {
			args[i] = "-o" + strings.TrimPrefix(name, "make-")
		}
	}
	var words []string
	for i, arg := range args { // getopt keeps a flag's last value only
		if value, ok := strings.CutPrefix(arg, "-o"); ok {
			if value == "" && i+1 < len(args) {
				value = args[i+1]
			}
			words = append(words, strings.Split(value, ",")...)
		}
	}
	opts, rest, err := getopt(args, "t:o:r")
	if err != nil {
		return err
	}
	if len(rest) == 0 && len(opts) == 0 {
		return printMounts()
	}
	var flags uintptr
	var data []string
next:
	for _, word := range words {
		for _, f := range mountFlags {
			if f.name == word {
				flags |= f.bits
				continue next
			}
		}
		data = append(data, word)
	}
	if opts.has('r') {
		flags |= unix.MS_RDONLY
	}
	source, target := "none", ""
	switch len(rest) {
	case 1:
		target = rest[0]
	case 2:
		source, target = rest[0], rest[1]
	default:
		return usage("mount [-t TYPE] [-o OPTION,...] [SOURCE] DIRECTORY")
	}
	if err := unix.Mount(source, target, opts['t'], flags, strings.Join(data, ",")); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

func printMounts() error {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 4 {
			fmt.Printf("%s on %s type %s (%s)\n", mountPath(f[0]), mountPath(f[1]), f[2], f[3])
		}
	}
	return nil
}

func umount(args []string) error {
	opts, names, err := getopt(args, "lf")
	if err != nil {
		return err
	}
	flags := 0
	if opts.has('l') {
		flags |= unix.MNT_DETACH
	}
	if opts.has('f') {
		flags |= unix.MNT_FORCE
	}
	return each(names, func(name string) error {
		if err := unix.Unmount(name, flags); err != nil {
			return fmt.Errorf("unmount %s: %w", name, err)
		}
		return nil
	})
}
