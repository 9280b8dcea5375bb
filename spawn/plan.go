// Package spawn runs a Plan: the list of system calls that a new process makes between clone3(2) and execve(2).
//
// The parent prepares everything it can in ordinary Go, as file descriptors (detached mounts, open directories,
// namespaces). The child is a raw fork that interprets the list without allocating, locking or growing its
// stack, and has a copy of little else, so no second binary and no C stands between the runtime and the container.
//
// # Vocabulary
//
//   - A Step is one system call with its arguments and a name in words ("mount proc on /proc").
//   - A Slot keeps the result of one step for the arguments of a later one.
//   - A Sync step stops the child while the parent runs a function (write the id maps, run a hook).
//   - The Ready step makes Start return while the child goes on, which is how create is told from start.
//
// # Lifecycle
//
// Start clones the child and waits until it has passed the Ready step, or executed its program when the plan
// has none. A failing step comes back as a *StepError; by then the child has been reaped. A child past Ready
// reports through Process.Executed.
//
// # Limits
//
// The plan borrows its descriptors: they must stay open until Start returns, and the caller closes them. Every
// descriptor that no step mentions is closed in the child by its first calls (close_range(2)).
package spawn

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Plan is everything the kernel is told to make one process. The zero value forks and does nothing: add steps,
// the last of which is an execve.
type Plan struct {
	// Namespaces are the CLONE_NEW… flags of the namespaces to create with the process; see clone3(2).
	Namespaces uint64
	// Cgroup, if not nil, is the cgroup v2 directory that the child is born into (CLONE_INTO_CGROUP).
	Cgroup *FD
	// There is no such field for namespaces to join. Those have steps of their own; setns(2) moves a process with one
	// thread only into a time namespace, and into a pid namespace only the process's children: see Step.Succeed.

	// Steps are run in order by the child.
	Steps []Step
	// Meanwhile, if not nil, is what the parent does beside the child's first steps; it gets the child's pid. The child may
	// have failed, or a successor may take its place, before Start returns.
	Meanwhile func(pid int)

	args []Arg // room for those of steps to come
}

// FD is an open descriptor of this process, with the name under which the printer shows it ("rootfs", "proc").
type FD struct {
	Num  int
	Name string
}

// Slot names a place that keeps the result of a step. NoSlot keeps nothing.
type Slot int

// NoSlot is the zero Slot: the result of the step is not kept. Valid slots are 1 to MaxSlots.
const (
	NoSlot   Slot = 0
	MaxSlots Slot = 64
)

// Step is one system call of the child, or a point at which child and parent meet.
type Step struct {
	// Name says in words what the step does and on what: "mount proc on /proc". Errors open with it.
	Name string
	// Call is the system call's number (unix.SYS_MOUNT); Args are its arguments, trailing zeros left out.
	Call uintptr
	Args []Arg
	// Result keeps the call's result.
	Result Slot
	// Ignore lists errnos that do not end the plan; the next step follows.
	Ignore []unix.Errno
	// Exit is the child's exit status if this step ends the plan; 0: 255. (A shell tells a program that is not there,
	// 127, from one that cannot be executed, 126.)
	Exit uint8
	// Complain makes the child say "Name: error" on its standard error if this step ends the plan when nobody listens to
	// its reports any more: its creator has ended, or called CloseStatus.
	Complain bool
	// Skip is how many steps are passed over when this one succeeds: alternatives stand one after another.
	Skip int
	// Else is how many steps are passed over when this one fails by an errno of Ignore.
	Else int
	// Refuse, if it has a buffer, lets the step fail with EACCES if the call left a value in there.
	Refuse Refusal
	// Sync, if not nil, makes this a meeting point in place of a system call: the child waits while the parent
	// runs the function with the child's pid and pidfd. An error ends the plan.
	Sync func(child *Process) error
	// Pass is, for a Sync step, the slot whose value the function finds in child.Passed.
	Pass Slot
	// Succeed makes the child clone its successor, in place of a system call, and end. The successor runs the steps that
	// follow. It is born into new namespaces (Clone, CLONE_NEW… flags) of the user namespace that the child has joined by
	// then, and into the pid namespace that the child has joined, where others see it from here on. It is a child of the
	// calling process, and the Process that Start returns.
	Succeed bool
	Clone   uint64
	// Only, if not nil, makes the child close every descriptor but these, 0, 1, 2 and its ends of the parent's pipes, in
	// place of a system call.
	Only []FD
	// Ready makes this the point at which Start returns. No system call is made.
	Ready bool
}

// Refusal is a value that must not be in the first 64 bits of the buffer which a call fills (what statfs(2) says of a
// file system's type). The buffer is that of a Bytes argument.
type Refusal struct {
	Buffer []byte
	Value  uint64
}

// Arg is one argument of a system call.
type Arg struct {
	kind argKind
	num  uint64         // itself, a descriptor or a slot
	str  string         // a string, a descriptor's name, or what the printer shows
	list unsafe.Pointer // to the first of num bytes, strings or instructions
}

type argKind uint8

const (
	argNumber argKind = iota
	argString
	argBytes
	argStrings
	argFD
	argSlot
	argFilter
	argRights
)

// Int is a number; negative values (AT_FDCWD) are sign-extended.
func Int(n int) Arg { return Arg{kind: argNumber, num: uint64(int64(n))} }

// Flags is a number that the printer shows as text ("MS_NOSUID|MS_NODEV").
func Flags(n uint64, text string) Arg { return Arg{kind: argNumber, num: n, str: text} }

// Nil is a null pointer.
func Nil() Arg { return Arg{kind: argNumber, str: "NULL"} }

// Str is a pointer to a NUL-terminated copy of s. A NUL inside s makes Start fail before the clone.
func Str(s string) Arg { return Arg{kind: argString, str: s} }

// Bytes is a pointer to a copy of b, one for all steps that name b, which calls may read and write; b holds no pointers.
// show is for the printer.
func Bytes(b []byte, show string) Arg {
	return Arg{kind: argBytes, num: uint64(len(b)), list: unsafe.Pointer(unsafe.SliceData(b)), str: show}
}

// Strs is a pointer to a NULL-terminated vector of strings, as execve(2) wants for argv and envp.
func Strs(list []string) Arg {
	return Arg{kind: argStrings, num: uint64(len(list)), list: unsafe.Pointer(unsafe.SliceData(list))}
}

// Desc is an open descriptor. Mentioning it keeps it open in the child (until execve, if it is close-on-exec).
func Desc(fd FD) Arg { return Arg{kind: argFD, num: uint64(fd.Num), str: fd.Name} }

// Of is the result that an earlier step left in slot.
func Of(slot Slot) Arg { return Arg{kind: argSlot, num: uint64(slot)} }

// Filter is a pointer to a struct sock_fprog over code, as seccomp(2) wants for SECCOMP_SET_MODE_FILTER.
func Filter(code []unix.SockFilter) Arg {
	return Arg{kind: argFilter, num: uint64(len(code)), list: unsafe.Pointer(unsafe.SliceData(code))}
}

// elements are those of a list of bytes, strings or instructions.
func elements[T any](a Arg) []T { return unsafe.Slice((*T)(a.list), int(a.num)) }

// Rights is a pointer to a struct msghdr without text that carries a descriptor, as sendmsg(2) wants for a socket that keeps
// the bounds of messages; see SCM_RIGHTS in unix(7). It does not keep the descriptor open.
func Rights(fd FD) Arg {
	return Arg{kind: argRights, num: uint64(fd.Num), str: "{SCM_RIGHTS, [" + fd.Name + "]}"}
}

// Add appends a step that makes one system call and returns it, to be completed. The pointer is good until the next Add.
func (p *Plan) Add(name string, call uintptr, args ...Arg) *Step {
	if len(p.args)+len(args) > cap(p.args) { // the steps keep what was there before
		p.args = make([]Arg, 0, max(64, 2*cap(p.args), len(args)))
	}
	n := len(p.args)
	p.args = append(p.args, args...)
	p.Steps = append(p.Steps, Step{Name: name, Call: call, Args: p.args[n:len(p.args):len(p.args)]})
	return &p.Steps[len(p.Steps)-1]
}
