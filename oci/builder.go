package oci

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/rawfile"
	"gantry/spawn"
)

// builder compiles one process into a plan. With dry set nothing is opened: descriptors are placeholders, for printing.
type builder struct {
	id         string
	bundle     string
	spec       *specs.Spec
	plan       spawn.Plan
	dry        bool
	hows       []*unix.OpenHow
	rootless   bool                                  // cgroups that may not be made are done without
	mounter    *mountHolder                          // makes detached mounts; nil: this program may itself
	hidden     bool                                  // from this program, too, which is a user's: it takes nothing out of the process
	visible    bool                                  // a user's process need not hide: nobody else is in its pid namespace
	shared     bool                                  // others are in its pid namespace: it appears there in the end
	appeared   bool                                  // it has appeared
	afterwards []spawn.Step                          // of the parent, when it has appeared
	kept       []spawn.FD                            // descriptors beside 0, 1 and 2 that the process keeps to the end
	listener   *os.File                              // of the filter, until its agent gets it; nil: none
	files      []spawn.FD                            // open until the process has started
	root       spawn.FD                              // the container's root, mounted detached
	ofBundle   bool                                  // the root is the directory that the bundle names
	ending     *spawn.FD                             // readable when a signal wants the waiting process to end; nil: it ends by itself
	late       []string                              // mount points that become read-only in the end
	mounted    []string                              // mount points of the configuration, as far as the plan has come
	future     []futureMount                         // what the plan will have mounted, for files that are looked up before
	idMaps     map[string]int                        // descriptors of user namespaces, by their maps
	joined     map[specs.LinuxNamespaceType]spawn.FD // namespaces that have a path

	entry  *cgroup.Entry       // into the cgroup
	group  string              // the cgroup, when it has been made
	moveIn func(pid int) error // has systemd move the process into the cgroup, where it cannot itself
	rdt    *rdtState           // the resctrl groups; nil: none

	state specs.State // of the container, for a filter's agent; pid 0: the plan makes its first process
	home  string      // exec: where in /proc the container's root is, with its users; "": the environment is complete
	// exec: the steps that join the container
	joinFrom, joinTo int
	marks            []mark // which steps come from which fields, for errors
	program          string // what is executed, if not what process.args names: a hook
}

// close closes what the plan borrowed.
func (b *builder) close() {
	for _, f := range b.files {
		_ = unix.Close(f.Num) // read-only or a mount: nothing to lose
	}
	b.files = nil
	if b.listener != nil {
		_ = b.listener.Close()
		b.listener = nil
	}
	if b.mounter != nil {
		_ = b.mounter.end() // it has been told to; what it held is the container's
		b.mounter = nil
	}
}

// fd keeps a descriptor open until the start and names it for the printer.
func (b *builder) fd(num int, name string) spawn.FD {
	fd := spawn.FD{Num: num, Name: name}
	b.files = append(b.files, fd)
	return fd
}

// open opens a path now and names its descriptor; in a dry run there is only the name.
func (b *builder) open(path string, flags int, name string) (spawn.FD, error) {
	if b.dry {
		return spawn.FD{Num: 0, Name: name}, nil
	}
	num, err := rawfile.RetryValue(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return spawn.FD{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return b.fd(num, name), nil
}

// Slots of a plan. What a few steps need and then close is in the scratch slot.
const (
	slotScratch  spawn.Slot = iota + 1
	slotMaster              // of the terminal
	slotConsole             // its other side
	slotTree                // the console's mount
	slotOldRoot             // the host's root, until the pivot
	slotListener            // of a filter that asks an agent
	slotProfile             // where the AppArmor profile is written
	slotLabel               // where the SELinux label is written
	slotKeyLabel            // and that of keys
	slotNull                // the host's null device, for masks
	slotEmpty               // an empty directory, for masks
	slotSettings            // the host's /proc/sys
)

func (b *builder) add(name string, call uintptr, args ...spawn.Arg) *spawn.Step {
	return b.plan.Add(name, call, args...)
}

// fail adds a step that always fails with ENOENT: the way to end a plan on a condition that steps before skip over.
func (b *builder) fail(name string) *spawn.Step {
	return b.add(name, unix.SYS_FACCESSAT, spawn.Int(unix.AT_FDCWD), spawn.Str(""), spawn.Int(unix.F_OK))
}

// writeFile adds steps that write text to a file of /proc.
func (b *builder) writeFile(what, path, text string) {
	b.add(fmt.Sprintf("%s: open %s", what, path), unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str(path),
		spawn.Flags(unix.O_WRONLY|unix.O_CLOEXEC, "O_WRONLY|O_CLOEXEC"), spawn.Int(0)).Result = slotScratch
	b.add(what, unix.SYS_WRITE, spawn.Of(slotScratch), spawn.Str(text), spawn.Int(len(text)))
	b.add(what+": close", unix.SYS_CLOSE, spawn.Of(slotScratch))
}

// writeOwn adds steps that write to a file of the process in the host's /proc. In a user namespace it has no right to, if
// it was hidden from the beginning; the runtime does it.
func (b *builder) writeOwn(what, name, text string) {
	if !b.inUserNamespace() || os.Geteuid() != 0 {
		b.writeFile(what, "/proc/self/"+name, text)
		return
	}
	b.byParent(what, func(child *spawn.Process) error {
		return rawfile.Write(fmt.Sprintf("/proc/%d/%s", child.Pid, name), []byte(text), 0)
	})
}

// resolve adds a step that opens a path of the container without following a link of /proc (self/fd/N, PID/root):
// those lead out of every root. The result is in the scratch slot, for a few steps and then release.
func (b *builder) resolve(name, path string, flags uint64) *spawn.Step {
	return b.resolveHow(name, path, flags, 0)
}

// show is text for the printer alone: a plan that is run is not printed.
func (b *builder) show(text func() string) string {
	if !b.dry {
		return "…"
	}
	return text()
}

// openFlagNames shows what openat2(2) is told.
func openFlagNames(how *unix.OpenHow) string {
	var names []string
	for _, f := range []struct {
		flag uint64
		name string
	}{
		{unix.O_PATH, "O_PATH"},
		{unix.O_DIRECTORY, "O_DIRECTORY"},
		{unix.O_CREAT, "O_CREAT"},
		{unix.O_NONBLOCK, "O_NONBLOCK"},
		{unix.O_NOCTTY, "O_NOCTTY"},
		{unix.O_NOFOLLOW, "O_NOFOLLOW"},
		{unix.O_CLOEXEC, "O_CLOEXEC"},
	} {
		if how.Flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	if how.Mode != 0 {
		return strings.Join(names, "|") + fmt.Sprintf(", %#o", how.Mode)
	}
	return strings.Join(names, "|")
}

// resolveHow is resolve with further RESOLVE_… flags of openat2(2).
func (b *builder) resolveHow(name, path string, flags, resolve uint64) *spawn.Step {
	how := b.how(flags, resolve)
	rules := "RESOLVE_NO_MAGICLINKS"
	if resolve&unix.RESOLVE_NO_SYMLINKS != 0 {
		rules += "|RESOLVE_NO_SYMLINKS"
	}
	s := b.add(name, unix.SYS_OPENAT2, spawn.Int(unix.AT_FDCWD), spawn.Str(path),
		spawn.Bytes(bytesOf(how), b.show(func() string { return "{" + openFlagNames(how) + ", " + rules + "}" })), spawn.Int(unix.SizeofOpenHow))
	s.Result = slotScratch
	return s
}

// how is what openat2(2) wants to know, the same one for all steps with these flags.
func (b *builder) how(flags, resolve uint64) *unix.OpenHow {
	want := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.O_CREAT != 0 {
		want.Mode = 0o644
	}
	for _, how := range b.hows {
		if *how == want {
			return how
		}
	}
	b.hows = append(b.hows, &want)
	return &want
}

func (b *builder) release(path string) {
	b.add("close "+path, unix.SYS_CLOSE, spawn.Of(slotScratch))
}

// mkdirs adds steps that make the directories of a path in the container's root, where missing.
func (b *builder) mkdirs(path string) {
	above := b.mountAbove(path)
	for part := range strings.SplitSeq(strings.Trim(strings.TrimPrefix(path, above), "/"), "/") {
		b.resolve("open directory "+above, above, unix.O_PATH|unix.O_DIRECTORY)
		at := filepath.Join(above, part)
		b.add("make directory "+at, unix.SYS_MKDIRAT, spawn.Of(slotScratch), spawn.Str(part), spawn.Flags(0o755, "0755")).
			Ignore = []unix.Errno{unix.EEXIST, unix.EROFS}
		b.release(above)
		above = at
	}
}

// mountAbove is the last mount point above a path that the plan has mounted something on: it is there. Else the root.
func (b *builder) mountAbove(path string) string {
	for _, point := range slices.Backward(b.mounted) {
		if strings.HasPrefix(path, point+"/") {
			return point
		}
	}
	return "/"
}

// bytesOf is the memory of a structure that a system call reads.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// words are 32-bit numbers in the machine's byte order.
func words(list []uint32) []byte {
	out := make([]byte, 0, 4*len(list))
	for _, n := range list {
		out = binary.NativeEndian.AppendUint32(out, n)
	}
	return out
}
