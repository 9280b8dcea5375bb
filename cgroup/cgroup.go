// Package cgroup limits, measures, freezes and kills groups of processes through cgroup v1, v2 or both (hybrid).
//
// A Group is one directory on v2, or one directory of the same path in every v1 hierarchy. Limits are the runtime
// specification's linux.resources; what the kernel lacks is an error that names the controller and the field.
package cgroup

import (
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Mode is how the host mounts its cgroup hierarchies.
type Mode int

const (
	V1     Mode = iota + 1 // every controller on v1
	V2                     // the unified hierarchy alone
	Hybrid                 // controllers on v1, a v2 tree beside them
)

// Detect reads /proc/self/mountinfo and /proc/cgroups once and returns the host's mode.
func Detect() (Mode, error) { panic("contract") }

// Group is a cgroup of the same path in every hierarchy.
type Group struct{}

// Create makes the group and what is missing of its parents (delegating controllers on v2) and applies res.
// Path is absolute within the hierarchies ("/gantry/4f5e…"). An existing group without processes is taken over.
// On failure nothing of the group is left.
func Create(path string, res *specs.LinuxResources) (*Group, error) { panic("contract") }

// Open returns a handle for an existing group; os.ErrNotExist if no hierarchy has it.
func Open(path string) (*Group, error) { panic("contract") }

// Path is the path given to Create or Open.
func (g *Group) Path() string { panic("contract") }

// Paths maps a v1 controller ("memory"), or "" for v2, to the group's directory.
func (g *Group) Paths() map[string]string { panic("contract") }

// Entry is how a new process gets into the group.
type Entry struct {
	// Unified is the v2 directory for CLONE_INTO_CGROUP, or nil.
	Unified *os.File
	// Tasks are the v1 "tasks" files: a single-threaded process that writes "0" to each moves itself. (Moving
	// oneself by "tasks" needs no lock on thread groups, so no RCU grace period as cgroup.procs does.)
	Tasks []*os.File
}

// Close closes the descriptors.
func (e *Entry) Close() { panic("contract") }

// Entry opens the group's entry. The caller closes it.
func (g *Group) Entry() (*Entry, error) { panic("contract") }

// Set applies limits; nil fields stay as they are.
func (g *Group) Set(res *specs.LinuxResources) error { panic("contract") }

// Procs lists the processes of the group and, if deep, of the groups below it.
func (g *Group) Procs(deep bool) ([]int, error) { panic("contract") }

// Freeze and Thaw stop and continue every process and return when the kernel says so.
func (g *Group) Freeze() error { panic("contract") }
func (g *Group) Thaw() error   { panic("contract") }

// Frozen reports whether the group is frozen.
func (g *Group) Frozen() (bool, error) { panic("contract") }

// Kill sends SIGKILL to every process below the group: cgroup.kill on v2, else freeze, kill, thaw.
func (g *Group) Kill() error { panic("contract") }

// OOMKills is how many processes of the group the kernel's out-of-memory killer has ended.
func (g *Group) OOMKills() (uint64, error) { panic("contract") }

// Delete removes the group and everything below it in every hierarchy, waiting a moment for dying processes.
// Deleting what is not there succeeds.
func (g *Group) Delete() error { panic("contract") }

// Stats is one reading. Byte counts are bytes, times are durations, counts since creation of the group.
type Stats struct {
	Read   time.Time
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
	Blkio  []BlkioEntry
}

type CPUStats struct {
	Usage, User, System       time.Duration
	PerCPU                    []time.Duration // v1 only
	Periods, ThrottledPeriods uint64
	Throttled                 time.Duration
}

type MemoryStats struct {
	Usage, MaxUsage, Limit uint64 // Limit is math.MaxUint64 if there is none
	SwapUsage, SwapLimit   uint64
	Failcnt, OOMKills      uint64
	Stat                   map[string]uint64 // memory.stat as the kernel gives it
}

type PidsStats struct{ Current, Limit uint64 } // Limit 0: none

// BlkioEntry is bytes and operations of one device; Op is "Read", "Write", ….
type BlkioEntry struct {
	Major, Minor uint64
	Op           string
	Bytes, Ops   uint64
}

// Stats reads the group's accounting.
func (g *Group) Stats() (*Stats, error) { panic("contract") }
