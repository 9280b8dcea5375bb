package spawn

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// WriteTo prints the plan for people: the clone and then every step in order, in words and as the system call it is.
func (p *Plan) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "     make the process\n       %s\n", p.cloneText())
	for i := range p.Steps {
		s := &p.Steps[i]
		fmt.Fprintf(&b, "%4d %s\n", i+1, s.Name)
		switch {
		case s.Sync != nil:
			b.WriteString("       (wait for the parent)\n")
		case s.Succeed:
			fmt.Fprintf(&b, "       clone(%s, NULL)  and end\n", strings.Join(append(flagNames(s.Clone), "CLONE_PARENT"), "|"))
		case s.Only != nil:
			fmt.Fprintf(&b, "       close_range(0, ~0, 0)  but 0, 1, 2%s\n", keptNames(s.Only))
		case s.Ready:
			b.WriteString("       (tell the parent: created)\n")
		default:
			fmt.Fprintf(&b, "       %s\n", s.callText())
		}
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func (p *Plan) cloneText() string {
	flags := append(flagNames(p.Namespaces), "CLONE_PIDFD", "CLONE_CLEAR_SIGHAND")
	cgroup := ""
	if p.Cgroup != nil {
		flags = append(flags, "CLONE_INTO_CGROUP")
		cgroup = ", cgroup=" + p.Cgroup.Name
	}
	return fmt.Sprintf("clone3({flags=%s%s})", strings.Join(flags, "|"), cgroup)
}

func keptNames(list []FD) (names string) {
	for _, fd := range list {
		names += ", " + fd.Name
	}
	return names
}

func (s *Step) callText() string {
	args := make([]string, len(s.Args))
	for i, a := range s.Args {
		args[i] = a.text()
	}
	name, known := callNames[s.Call]
	if !known {
		name = "syscall_" + strconv.Itoa(int(s.Call))
	}
	text := fmt.Sprintf("%s(%s)", name, strings.Join(args, ", "))
	if s.Result != NoSlot {
		text = fmt.Sprintf("$%d = %s", s.Result, text)
	}
	for i, e := range s.Ignore {
		text += []string{"  unless ", ", "}[min(i, 1)] + unix.ErrnoName(e)
	}
	if s.Refuse.Buffer != nil {
		text += fmt.Sprintf("  refuse %#x", s.Refuse.Value)
	}
	if s.Skip > 0 {
		text += fmt.Sprintf("  then skip %d", s.Skip)
	}
	if s.Else > 0 {
		text += fmt.Sprintf("  else skip %d", s.Else)
	}
	return text
}

// text is the argument as strace(1) would show it.
func (a Arg) text() string {
	switch a.kind {
	case argStrings:
		list := elements[string](a)
		quoted := make([]string, len(list))
		for i, s := range list {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case argFilter:
		return fmt.Sprintf("{%d instructions}", a.num)
	case argBytes:
		if a.str == "" {
			return strconv.Quote(string(elements[byte](a)))
		}
	}
	switch {
	case a.kind == argString:
		return strconv.Quote(a.str)
	case a.kind == argFD, a.str != "":
		return a.str
	case a.kind == argSlot:
		return fmt.Sprintf("$%d", a.num)
	case a.num == atCWD:
		return "AT_FDCWD"
	case int64(a.num) < 0:
		return strconv.FormatInt(int64(a.num), 10)
	default:
		return strconv.FormatUint(a.num, 10)
	}
}

// atCWD is AT_FDCWD, a negative number, as an argument word.
const atCWD = ^uint64(-unix.AT_FDCWD - 1)

func flagNames(namespaces uint64) []string {
	var names []string
	for _, f := range []struct {
		bit  uint64
		name string
	}{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
		{unix.CLONE_NEWNS, "CLONE_NEWNS"},
		{unix.CLONE_NEWPID, "CLONE_NEWPID"},
		{unix.CLONE_NEWNET, "CLONE_NEWNET"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
		{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
		{unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	} {
		if namespaces&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return names
}

// callNames are the system calls that plans are made of. Both architectures have them all.
var callNames = map[uintptr]string{
	unix.SYS_ADD_KEY: "add_key", unix.SYS_CAPSET: "capset", unix.SYS_CHDIR: "chdir", unix.SYS_CHROOT: "chroot",
	unix.SYS_CLOSE: "close", unix.SYS_CLOSE_RANGE: "close_range", unix.SYS_DUP: "dup", unix.SYS_DUP3: "dup3",
	unix.SYS_EXECVE: "execve", unix.SYS_EXECVEAT: "execveat", unix.SYS_EXIT_GROUP: "exit_group",
	unix.SYS_FACCESSAT: "faccessat", unix.SYS_FACCESSAT2: "faccessat2", unix.SYS_FCHDIR: "fchdir", unix.SYS_FCHMOD: "fchmod",
	unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWN: "fchown", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_FCNTL: "fcntl",
	unix.SYS_FSTATFS: "fstatfs", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount", unix.SYS_FSOPEN: "fsopen", unix.SYS_FTRUNCATE: "ftruncate",
	unix.SYS_GETPID: "getpid", unix.SYS_IOCTL: "ioctl", unix.SYS_IOPRIO_SET: "ioprio_set", unix.SYS_KEYCTL: "keyctl",
	unix.SYS_KILL: "kill", unix.SYS_LINKAT: "linkat", unix.SYS_MMAP: "mmap", unix.SYS_MEMFD_CREATE: "memfd_create", unix.SYS_MKDIRAT: "mkdirat",
	unix.SYS_MKNODAT: "mknodat", unix.SYS_MOUNT: "mount", unix.SYS_MOUNT_SETATTR: "mount_setattr",
	unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_NANOSLEEP: "nanosleep", unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2",
	unix.SYS_OPEN_TREE: "open_tree", unix.SYS_PERSONALITY: "personality", unix.SYS_PIDFD_SEND_SIGNAL: "pidfd_send_signal", unix.SYS_PIPE2: "pipe2",
	unix.SYS_PIVOT_ROOT: "pivot_root", unix.SYS_PPOLL: "ppoll", unix.SYS_PRCTL: "prctl", unix.SYS_PRLIMIT64: "prlimit64", unix.SYS_READ: "read",
	unix.SYS_READLINKAT: "readlinkat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_RT_SIGPROCMASK: "rt_sigprocmask",
	unix.SYS_SCHED_SETAFFINITY: "sched_setaffinity", unix.SYS_SCHED_SETATTR: "sched_setattr", unix.SYS_SECCOMP: "seccomp",
	unix.SYS_SENDMSG: "sendmsg", unix.SYS_SETDOMAINNAME: "setdomainname", unix.SYS_SETGID: "setgid",
	unix.SYS_SETGROUPS: "setgroups", unix.SYS_SETHOSTNAME: "sethostname", unix.SYS_SETNS: "setns", unix.SYS_SETPGID: "setpgid",
	unix.SYS_SETPRIORITY: "setpriority", unix.SYS_SETRESGID: "setresgid", unix.SYS_SETRESUID: "setresuid",
	unix.SYS_SETSID: "setsid", unix.SYS_SETUID: "setuid", unix.SYS_SOCKET: "socket", unix.SYS_SET_MEMPOLICY: "set_mempolicy",
	unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_UMASK: "umask", unix.SYS_UMOUNT2: "umount2", unix.SYS_UNLINKAT: "unlinkat",
	unix.SYS_UNSHARE: "unshare", unix.SYS_WRITE: "write",
}
