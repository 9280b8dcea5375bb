// Package overlay mounts overlays on every kernel from Linux 5.14 on, detached: the mount is a descriptor, which
// move_mount(2) attaches, and no mount table shows it before.
//
// Kernels differ in how they are told of the layers:
//
//	5.14 to 6.4   fsconfig(2) takes strings of at most 255 bytes, and any option: what is unknown fails when the file
//	              system is created. mount(2) takes all options in one page.
//	6.5 to 6.7    fsconfig(2) refuses unknown options at once; lowerdir+ is one of them
//	from 6.8      fsconfig(2) takes lowerdir+ once for each layer
//
// So there are two ways. The first one names each layer by lowerdir+. The second one is for older kernels, and for paths
// that are longer than fsconfig(2) takes: it makes a tmpfs with a symbolic link to each directory, "0", "1", …, goes there,
// and mounts lowerdir=0:1:… by mount(2), in a mount namespace that ends with the thread. The names are short and contain
// nothing to escape, so that hundreds of layers fit a page wherever they are.
// See docs/decisions/014-short-names-for-layers.md.
package overlay

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"gantry/oci/internal/osthread"
	"gantry/rawfile"
	"gantry/spawn"
)

// MaxLayers is how many layers the kernel takes (OVL_MAX_STACK).
const MaxLayers = 500

// maxString is the longest string that fsconfig(2) takes.
const maxString = 255

// The slots of the steps. Result holds the mount's descriptor.
const (
	slotContext spawn.Slot = iota + 1
	slotNames
	Result
)

// unknownOption is one that no overlay has, by which kernels are told apart.
const unknownOption = "gantry-no-such-option"

// appends remembers whether this kernel takes layers one by one: 0 is not asked yet, 1 yes, -1 no.
var appends atomic.Int32

// Mount makes the overlay and returns the descriptor of its mount.
func (c Config) Mount() (int, error) {
	c, err := c.checked()
	if err != nil {
		return -1, err
	}
	if c.short() {
		answer := appends.Load()
		if answer == 0 {
			if answer, err = asksAppends(); err != nil {
				return -1, err
			}
			appends.Store(answer)
		}
		if answer > 0 {
			return c.mountAppended()
		}
	}
	return c.mountNamed()
}

// asksAppends asks the kernel whether an overlay takes layers one by one. One that takes any option does not; trying would
// leave a line in its log.
func asksAppends() (int32, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("ask the kernel how it takes layers: open an overlay: %w", err)
	}
	defer unix.Close(fs)
	if unix.FsconfigSetString(fs, unknownOption, "") == nil || unix.FsconfigSetString(fs, "lowerdir+", "/") != nil {
		return -1, nil
	}
	return 1, nil
}

// checked makes paths absolute, and refuses what the kernel would without saying why.
func (c Config) checked() (Config, error) {
	count := len(c.Lower) + len(c.Data)
	switch {
	case len(c.Lower) == 0:
		return c, fmt.Errorf("mount an overlay: it has no layers (lowerdir): %w", unix.EINVAL)
	case count > MaxLayers:
		return c, fmt.Errorf("mount an overlay of %d layers: the kernel takes %d: %w", count, MaxLayers, unix.EINVAL)
	case (c.Upper == "") != (c.Work == ""):
		return c, fmt.Errorf("mount an overlay: upperdir and workdir need each other: %w", unix.EINVAL)
	case c.Upper == "" && count == 1:
		return c, fmt.Errorf("mount an overlay: without an upperdir, it needs two layers: %w", unix.EINVAL)
	}
	c.Lower, c.Data = append([]string(nil), c.Lower...), append([]string(nil), c.Data...)
	for _, path := range c.paths() {
		if *path == "" {
			return c, fmt.Errorf("mount an overlay: the path of a directory is empty: %w", unix.EINVAL)
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return c, fmt.Errorf("mount an overlay: %w", err)
		}
		*path = absolute
	}
	return c, nil
}

// paths are those of all directories: the layers, upper and work.
func (c *Config) paths() []*string {
	var list []*string
	for i := range c.Lower {
		list = append(list, &c.Lower[i])
	}
	for i := range c.Data {
		list = append(list, &c.Data[i])
	}
	if c.Upper != "" {
		list = append(list, &c.Upper, &c.Work)
	}
	return list
}

// short reports whether fsconfig(2) takes every value.
func (c Config) short() bool {
	for _, path := range c.paths() {
		if len(escape.Replace(*path)) > maxString {
			return false
		}
	}
	for _, option := range c.Options {
		if len(option) > maxString {
			return false
		}
	}
	return true
}

// Steps returns the system calls that mount the overlay, for a process in another user namespace. They decide by the
// answers of the kernel between the two ways, use slots 1 to 3 and leave the mount's descriptor in Result.
func (c Config) Steps() ([]spawn.Step, error) {
	c, err := c.checked()
	if err != nil {
		return nil, err
	}
	named, err := c.named()
	if err != nil || !c.short() {
		return named, err
	}
	appended := c.appended()
	open, first, rest := appended[0], appended[1], appended[2:]
	ask := set("ask how the overlay takes layers", unknownOption, "")
	ask.Skip = 1 + len(rest)
	ask.Ignore = []unix.Errno{unix.EINVAL}
	first.Ignore, first.Else = []unix.Errno{unix.EINVAL}, len(rest)
	rest[len(rest)-1].Skip = len(named)
	steps := append([]spawn.Step{open, ask, first}, rest...)
	return append(steps, named...), nil
}

func step(name string, call uintptr, args ...spawn.Arg) spawn.Step {
	return spawn.Step{Name: name, Call: call, Args: args}
}

// set is a step that gives the file system context a value.
func set(name, key, value string) spawn.Step {
	return step(name, unix.SYS_FSCONFIG, spawn.Of(slotContext), spawn.Flags(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"), spawn.Str(key), spawn.Str(value), spawn.Int(0))
}

// open, create and mount are the steps of every file system that is mounted by a context.
func open(kind string) spawn.Step {
	s := step("open a file system context of "+kind, unix.SYS_FSOPEN, spawn.Str(kind), spawn.Flags(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC"))
	s.Result = slotContext
	return s
}

func create(kind string) spawn.Step {
	return step("create "+kind, unix.SYS_FSCONFIG, spawn.Of(slotContext), spawn.Flags(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), spawn.Nil(), spawn.Nil(), spawn.Int(0))
}

func mount(kind string, attributes int, result spawn.Slot) spawn.Step {
	s := step("make a mount of "+kind, unix.SYS_FSMOUNT, spawn.Of(slotContext), spawn.Flags(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), spawn.Int(attributes))
	s.Result = result
	return s
}

// appended are the steps of the first way. The second one is that which adds the first layer: see Steps.
func (c Config) appended() []spawn.Step {
	steps := []spawn.Step{open("overlay")}
	for _, layer := range c.Lower {
		steps = append(steps, set("add layer "+layer+" to the overlay", "lowerdir+", layer))
	}
	for _, layer := range c.Data {
		steps = append(steps, set("add data layer "+layer+" to the overlay", "datadir+", layer))
	}
	if c.Upper != "" {
		steps = append(steps,
			set("set the overlay's upper directory "+c.Upper, "upperdir", strings.ReplaceAll(c.Upper, `\`, `\\`)),
			set("set the overlay's work directory "+c.Work, "workdir", strings.ReplaceAll(c.Work, `\`, `\\`)))
	}
	for _, option := range c.Options {
		key, value, hasValue := strings.Cut(option, "=")
		s := set("set the overlay's option "+option, key, strings.Trim(value, `"`))
		if !hasValue {
			s.Args = []spawn.Arg{spawn.Of(slotContext), spawn.Flags(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"), spawn.Str(key), spawn.Nil(), spawn.Int(0)}
		}
		steps = append(steps, s)
	}
	return append(steps, set("name the overlay's source", "source", "overlay"), create("the overlay"), mount("the overlay", c.Attributes, Result))
}

// aside is where the second way mounts, in its own mount namespace: a directory that every system has, and whose name
// leads nobody else there.
const aside = "/proc"

// named are the steps of the second way, for a thread or a process that ends after them.
func (c Config) named() ([]spawn.Step, error) {
	data, err := c.data()
	if err != nil {
		return nil, err
	}
	steps := []spawn.Step{
		step("make a mount namespace to mount the overlay in", unix.SYS_UNSHARE, spawn.Flags(unix.CLONE_NEWNS, "CLONE_NEWNS")),
		step("keep its mounts from spreading", unix.SYS_MOUNT, spawn.Nil(), spawn.Str("/"), spawn.Nil(), spawn.Flags(unix.MS_REC|unix.MS_PRIVATE, "MS_REC|MS_PRIVATE"), spawn.Nil()),
		open("tmpfs"), create("the tmpfs for the layers' names"), mount("the tmpfs for the layers' names", 0, slotNames),
		step("go to the tmpfs", unix.SYS_FCHDIR, spawn.Of(slotNames)),
	}
	for i, path := range c.paths() {
		steps = append(steps, step("name "+*path, unix.SYS_SYMLINKAT, spawn.Str(*path), spawn.Int(unix.AT_FDCWD), spawn.Str(strconv.Itoa(i))))
	}
	clone := step("take the overlay", unix.SYS_OPEN_TREE, spawn.Int(unix.AT_FDCWD), spawn.Str(aside), spawn.Flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"))
	clone.Result = Result
	steps = append(steps,
		step(fmt.Sprintf("mount the overlay of %d layers", len(c.Lower)+len(c.Data)), unix.SYS_MOUNT, spawn.Str("overlay"), spawn.Str(aside), spawn.Str("overlay"), spawn.Int(0), spawn.Str(data)),
		clone,
		step("unmount it there", unix.SYS_UMOUNT2, spawn.Str(aside), spawn.Flags(unix.MNT_DETACH, "MNT_DETACH")))
	if c.Attributes != 0 {
		attr := make([]byte, unix.MOUNT_ATTR_SIZE_VER0) // struct mount_attr, of which attr_set is the first field
		binary.NativeEndian.PutUint64(attr, uint64(c.Attributes))
		steps = append(steps, step("set the overlay's attributes", unix.SYS_MOUNT_SETATTR, spawn.Of(Result), spawn.Str(""), spawn.Flags(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"),
			spawn.Bytes(attr, fmt.Sprintf("{+%#x}", c.Attributes)), spawn.Int(len(attr))))
	}
	return steps, nil
}

// data are the options of mount(2), with the numbers of paths for their names.
func (c Config) data() (string, error) {
	var b strings.Builder
	b.WriteString("lowerdir=")
	for i := range len(c.Lower) + len(c.Data) {
		switch {
		case i >= len(c.Lower):
			b.WriteString("::")
		case i > 0:
			b.WriteByte(':')
		}
		b.WriteString(strconv.Itoa(i))
	}
	if count := len(c.Lower) + len(c.Data); c.Upper != "" {
		fmt.Fprintf(&b, ",upperdir=%d,workdir=%d", count, count+1)
	}
	for _, option := range c.Options {
		b.WriteByte(',')
		if key, _, _ := strings.Cut(option, "="); strings.HasSuffix(key, "context") {
			b.WriteString(option) // SELinux's: a value in quotes, which may contain commas
		} else {
			b.WriteString(strings.ReplaceAll(option, ",", `\,`))
		}
	}
	if b.Len() >= os.Getpagesize() {
		return "", fmt.Errorf("mount an overlay: its options have %d bytes, the kernel takes %d: %w", b.Len(), os.Getpagesize()-1, unix.E2BIG)
	}
	return b.String(), nil
}

// mountAppended goes the first way.
func (c Config) mountAppended() (int, error) {
	return run(c.appended())
}

// mountNamed goes the second way, on a thread of its own.
func (c Config) mountNamed() (fd int, err error) {
	steps, err := c.named()
	if err != nil {
		return -1, err
	}
	osthread.Run(func() { fd, err = run(steps) })
	if err != nil {
		err = c.blame(err)
	}
	return fd, err
}

// blame names the directory that is missing: mount(2) does not say which one.
func (c Config) blame(err error) error {
	for _, path := range c.paths() {
		if info, statErr := os.Stat(*path); statErr != nil {
			return fmt.Errorf("%w (%w)", err, statErr)
		} else if !info.IsDir() {
			return fmt.Errorf("%w (%s is not a directory)", err, *path)
		}
	}
	return err
}

// run makes the steps in the calling thread, and leaves no descriptor but the mount's open.
func run(steps []spawn.Step) (int, error) {
	const none = ^uintptr(0)
	slots := spawn.Slots{slotContext: none, slotNames: none, Result: none}
	closeSlot := func(slot spawn.Slot) {
		if slots[slot] != none {
			_ = unix.Close(int(slots[slot]))
		}
	}
	defer closeSlot(slotContext)
	defer closeSlot(slotNames)
	for i := range steps {
		s := &steps[i]
		if err := s.Here(&slots); err != nil {
			closeSlot(Result)
			if slots[slotContext] != none {
				err = explain(int(slots[slotContext]), err)
			}
			return -1, fmt.Errorf("mount an overlay: %s: %w", s.Name, err)
		}
	}
	return int(slots[Result]), nil
}

// explain adds what the file system itself says about a failure; see fsopen(2), "message retrieval".
func explain(context int, err error) error {
	var text [256]byte
	n, readErr := rawfile.RetryValue(func() (int, error) { return unix.Read(context, text[:]) })
	if readErr != nil || n <= 2 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(text[2:n])))
}
