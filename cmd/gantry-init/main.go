// Command gantry-init is the first process of a container that was asked for one (--init): it runs a program, passes
// signals on to it, collects the orphans that the kernel gives to a first process, and ends as the program ended.
//
//	gantry-init -- PROGRAM [ARG...]
//
// It is there once a container, so it must cost next to nothing: the program is linked with -E main.entry and never
// starts the Go runtime. What runs is nosplit, allocates nothing, and speaks to the kernel by raw system calls.
//
// Under the names true, false and sleep it is that: the toolbox image has it for what containers run most.
package main

import (
	"os"
	"syscall"
	"unsafe"
)

var _ = run // by entry, in assembly

// main is reached only if the linker was not told to enter elsewhere.
func main() {
	_, _ = os.Stderr.WriteString("gantry-init: built without -ldflags '-E main.entry': see the Makefile\n")
	os.Exit(exitBroken)
}

// Exit codes where the program itself has none; docker's and the shells'.
const (
	exitBroken     = 125
	exitCannotRun  = 126
	exitNotFound   = 127
	exitSignalBase = 128
)

// faults are the signals that a process raises by its own error: they stay deliverable, or such a fault would loop.
const faults = 1<<(syscall.SIGFPE-1) | 1<<(syscall.SIGILL-1) | 1<<(syscall.SIGSEGV-1) | 1<<(syscall.SIGBUS-1) |
	1<<(syscall.SIGABRT-1) | 1<<(syscall.SIGTRAP-1) | 1<<(syscall.SIGSYS-1)

// Kept out of the stack, which nosplit functions have little of.
var (
	passed   uint64     = ^uint64(faults) // the signals that are waited for
	original uint64                       // the mask that the program gets back
	file     [4096]byte                   // PATH_MAX
)

// run is called by entry with the stack of execve: argc, the arguments, nil, the environment, nil. It does not return.
//
//go:nosplit
func run(stack unsafe.Pointer) {
	argc := *(*uintptr)(stack)
	args := unsafe.Add(stack, 8)
	env := unsafe.Add(args, 8*(argc+1))
	if argc > 0 {
		applet(args, env, argc)
	}
	if argc < 3 || !equal(argument(args, 1), "--\x00") {
		say("gantry-init: usage: gantry-init -- PROGRAM [ARG...]\n")
		exit(exitBroken)
	}
	_, _ = call(syscall.SYS_RT_SIGPROCMASK, 0, uintptr(unsafe.Pointer(&passed)), uintptr(unsafe.Pointer(&original)), 8) // 0: SIG_BLOCK
	child, errno := call(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0)
	switch {
	case errno != 0:
		say("gantry-init: no process can be made\n")
		exit(exitBroken)
	case child == 0:
		program(unsafe.Add(args, 16), env)
	default:
		look(child)
	}
}

// look passes signals on to the child and reaps, until the child has ended.
//
//go:nosplit
func look(child uintptr) {
	for {
		sig, errno := call(syscall.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&passed)), 0, 0, 8)
		switch {
		case errno != 0:
		case sig == uintptr(syscall.SIGCHLD):
			reap(child)
		default:
			_, _ = call(syscall.SYS_KILL, child, sig, 0, 0) // one that has just ended is reaped next
		}
	}
}

// reap collects every process that has ended, and ends as the child did.
//
//go:nosplit
func reap(child uintptr) {
	code, ended := uintptr(0), false
	for {
		var status uint32
		pid, errno := call(syscall.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&status)), syscall.WNOHANG, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 || pid == 0 {
			break
		}
		if pid != child {
			continue
		}
		ended, code = true, uintptr(status>>8&0xff)
		if sig := status & 0x7f; sig != 0 {
			code = exitSignalBase + uintptr(sig)
		}
	}
	if ended {
		exit(code)
	}
}

// program is what the child does: a process group of its own, in the foreground of the terminal if there is one, the
// original signal mask, and then the program, looked up as execvp does.
//
//go:nosplit
func program(args, env unsafe.Pointer) {
	_, _ = call(syscall.SYS_SETPGID, 0, 0, 0, 0)
	group, _ := call(syscall.SYS_GETPID, 0, 0, 0, 0)
	foreground := uint32(group)
	_, _ = call(syscall.SYS_IOCTL, 0, syscall.TIOCSPGRP, uintptr(unsafe.Pointer(&foreground)), 0) // SIGTTOU is still blocked
	_, _ = call(syscall.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(&original)), 0, 8)          // 2: SIG_SETMASK
	name := argument(args, 0)
	errno := syscall.ENOENT
	if has(name, '/') {
		_, errno = call(syscall.SYS_EXECVE, uintptr(name), uintptr(args), uintptr(env), 0)
	} else {
		errno = search(name, args, env)
	}
	say("exec ")
	sayC(name)
	if errno == syscall.ENOENT {
		say(" failed: No such file or directory\n")
		exit(exitNotFound)
	}
	say(" failed: it cannot be executed\n")
	exit(exitCannotRun)
}

// search executes the first program of that name on PATH. A name that is there but not allowed is remembered.
//
//go:nosplit
func search(name, args, env unsafe.Pointer) syscall.Errno {
	refused := syscall.ENOENT
	dirs := pathOf(env)
	for dirs != nil {
		dirs = join(dirs, name)
		_, errno := call(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(&file)), uintptr(args), uintptr(env), 0)
		switch errno {
		case syscall.ENOENT, syscall.ENOTDIR, syscall.ENAMETOOLONG:
		case syscall.EACCES:
			refused = errno
		default:
			return errno
		}
	}
	return refused
}

// join puts the first of the directories and the name into file, and returns the rest of the directories; nil at their
// end. What does not fit is left out: an empty path, which does not exist.
//
//go:nosplit
func join(dirs, name unsafe.Pointer) (rest unsafe.Pointer) {
	n := uintptr(0)
	for c := at(dirs); c != 0 && c != ':'; c = at(dirs) {
		n = put(n, c)
		dirs = unsafe.Add(dirs, 1)
	}
	n = put(n, '/')
	for ; at(name) != 0; name = unsafe.Add(name, 1) {
		n = put(n, at(name))
	}
	if n < uintptr(len(file)) {
		file[n] = 0
	} else {
		file[0] = 0
	}
	if at(dirs) == 0 {
		return nil
	}
	return unsafe.Add(dirs, 1)
}

//go:nosplit
func put(n uintptr, c byte) uintptr {
	if n < uintptr(len(file)) {
		file[n] = c
	}
	return n + 1
}

// pathOf is the value of PATH; nil if there is none.
//
//go:nosplit
func pathOf(env unsafe.Pointer) unsafe.Pointer {
	for ; ; env = unsafe.Add(env, 8) {
		entry := argument(env, 0)
		if entry == nil {
			return nil
		}
		if equal(entry, "PATH=") {
			return unsafe.Add(entry, 5)
		}
	}
}

// argument is the i-th C string of a list.
//
//go:nosplit
func argument(list unsafe.Pointer, i uintptr) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Add(list, 8*i))
}

//go:nosplit
func at(p unsafe.Pointer) byte { return *(*byte)(p) }

// equal reports whether what is at p begins with text.
//
//go:nosplit
func equal(p unsafe.Pointer, text string) bool {
	for i := range len(text) {
		if at(unsafe.Add(p, i)) != text[i] {
			return false
		}
	}
	return true
}

//go:nosplit
func has(p unsafe.Pointer, c byte) bool {
	for ; at(p) != 0; p = unsafe.Add(p, 1) {
		if at(p) == c {
			return true
		}
	}
	return false
}

//go:nosplit
func say(text string) {
	_, _ = call(syscall.SYS_WRITE, 2, uintptr(unsafe.Pointer(unsafe.StringData(text))), uintptr(len(text)), 0)
}

//go:nosplit
func sayC(p unsafe.Pointer) {
	n := uintptr(0)
	for at(unsafe.Add(p, n)) != 0 {
		n++
	}
	_, _ = call(syscall.SYS_WRITE, 2, uintptr(p), n, 0)
}

//go:nosplit
func exit(code uintptr) { _, _ = call(syscall.SYS_EXIT_GROUP, code, 0, 0, 0) }

//go:nosplit
func call(number, a, b, c, d uintptr) (uintptr, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(number, a, b, c, d, 0, 0)
	return r, errno
}
