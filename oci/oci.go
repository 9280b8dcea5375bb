// Package oci turns an OCI bundle into a plan of system calls and runs containers by it: create, start, exec, kill,
// pause, update, delete, state. See the runtime specification 1.3.
//
// State lives in Root/ID/state.json, written atomically, so that another process (gantry-runtime is a new one for
// every command) can go on. The package keeps nothing in memory that it cannot read again.
package oci

import (
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// Runtime is a directory of containers.
type Runtime struct {
	// Root is the state directory, on a tmpfs by custom (/run/gantry/runtime).
	Root string
	// Systemd has systemd make the cgroups of new containers: linux.cgroupsPath is slice:prefix:name then, and
	// annotations org.systemd.property.NAME are properties of the scope.
	Systemd bool
	// Rootless does without cgroups that may not be made, unless linux.cgroupsPath names one.
	Rootless bool
}

// Mount is a mount of the root file system in the form of containerd's types.Mount.
type Mount struct {
	Type    string
	Source  string
	Options []string
}

// Stdio are the descriptors that become 0, 1 and 2 of the process. With a terminal they are nil, and the console's
// master is passed to Console.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
	// Console receives the master of the new terminal (process.terminal); the receiver owns it.
	Console func(master *os.File) error
}

// pipes are the names of those that are pipes, in their places; nil if none is.
func (s Stdio) pipes() (names []string) {
	files := [3]*os.File{s.Stdin, s.Stdout, s.Stderr}
	for i, f := range files {
		var stat unix.Stat_t
		if f == nil || unix.Fstat(int(f.Fd()), &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue
		}
		if names == nil {
			names = make([]string, len(files))
		}
		names[i] = fmt.Sprintf("pipe:[%d]", stat.Ino)
	}
	return names
}

// CreateOptions are what create knows besides the bundle.
type CreateOptions struct {
	// Bundle is the bundle's directory. Spec, if not nil, is its config.json already read.
	Bundle string
	Spec   *specs.Spec
	// Rootfs, if any, is mounted (detached, in the container's mount namespace only) in place of Spec.Root.Path.
	Rootfs []Mount
	Stdio  Stdio
	// PreserveFDs are passed on as 3, 4, …; the number of a nil is not open in the container.
	PreserveFDs  []*os.File
	NoPivot      bool
	NoNewKeyring bool
}

// Container is a handle on a created container.
type Container struct {
	ID      string
	runtime *Runtime
	child   *spawn.Process // of the creating process alone: it learns whether the program could be executed
	known   *record        // likewise: what it wrote need not be read again
	born    int64          // when the container was made, in ns; 0: it may be any of its id
}

// Process is a process that was started in a container: its first one, or one of exec. Its parent is this process
// (after Exec and Create), so it must be waited for.
type Process struct {
	Pid   int
	Pidfd *os.File
}
