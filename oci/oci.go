// Package oci turns an OCI bundle into a plan of system calls and runs containers by it: create, start, exec, kill,
// pause, update, delete, state. See the runtime specification 1.3.
//
// State lives in Root/ID/state.json, written atomically, so that another process (gantry-runtime is a new one for
// every command) can go on. The package keeps nothing in memory that it cannot read again.
package oci

import (
	"context"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// Runtime is a directory of containers.
type Runtime struct {
	// Root is the state directory, on a tmpfs by custom (/run/gantry/runtime).
	Root string
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

// CreateOptions are what create knows besides the bundle.
type CreateOptions struct {
	// Bundle is the bundle's directory. Spec, if not nil, is its config.json already read.
	Bundle string
	Spec   *specs.Spec
	// Rootfs, if any, is mounted (detached, in the container's mount namespace only) in place of Spec.Root.Path.
	Rootfs []Mount
	Stdio  Stdio
	// PreserveFDs are passed on as 3, 4, ….
	PreserveFDs  []*os.File
	NoPivot      bool
	NoNewKeyring bool
}

// Container is a handle on a created container.
type Container struct {
	ID      string
	runtime *Runtime
}

// Process is a process that was started in a container: its first one, or one of exec. Its parent is this process
// (after Exec and Create), so it must be waited for.
type Process struct {
	Pid   int
	Pidfd *os.File
}

// Compile makes the plan for a bundle without running anything, for printing. Descriptors in it are placeholders.
func Compile(bundle string, spec *specs.Spec, rootfs []Mount) (*spawn.Plan, error) { panic("contract") }

// Create makes the container up to the point where its program would be executed. On error nothing is left.
func (r *Runtime) Create(ctx context.Context, id string, opts CreateOptions) (*Container, *Process, error) {
	panic("contract")
}

// Load finds an existing container; os.ErrNotExist if there is none.
func (r *Runtime) Load(id string) (*Container, error) { panic("contract") }

// List returns the ids of all containers.
func (r *Runtime) List() ([]string, error) { panic("contract") }

// Start executes the program of a created container and returns when it has been executed. If execve fails, the error
// wraps the errno (ENOENT, EACCES, …) and names the program; the process ends with 127 or 126.
func (c *Container) Start(ctx context.Context) error { panic("contract") }

// State is the specification's state; Status is recomputed from the kernel.
func (c *Container) State() (*specs.State, error) { panic("contract") }

// Created is when Create returned.
func (c *Container) Created() (time.Time, error) { panic("contract") }

// Exec runs another process in the container.
func (c *Container) Exec(ctx context.Context, process *specs.Process, stdio Stdio) (*Process, error) {
	panic("contract")
}

// Kill sends a signal to the first process through its pidfd, or to all.
func (c *Container) Kill(sig unix.Signal, all bool) error { panic("contract") }

// Pause and Resume freeze and thaw.
func (c *Container) Pause() error  { panic("contract") }
func (c *Container) Resume() error { panic("contract") }

// Update changes limits of a container that exists.
func (c *Container) Update(res *specs.LinuxResources) error { panic("contract") }

// Cgroup opens the container's cgroup: statistics, processes, OOM kills.
func (c *Container) Cgroup() (*cgroup.Group, error) { panic("contract") }

// Delete removes a stopped container: cgroup, state, mounts. With force a running one is killed first. Idempotent.
func (c *Container) Delete(ctx context.Context, force bool) error { panic("contract") }
