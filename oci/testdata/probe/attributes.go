package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attributes are those of this process that the kernel tells by system calls. Some are a thread's.
func attributes() map[string]any {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := map[string]any{}
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err == nil {
		out["boottime"] = since.Sec
	}
	if a, err := unix.SchedGetAttr(0, 0); err == nil {
		out["scheduler"] = fmt.Sprintf("%d nice %d priority %d", a.Policy, a.Nice, a.Priority)
	}
	const thisProcess, query = 1, 0xffffffff
	ioprio, _, _ := syscall.RawSyscall(unix.SYS_IOPRIO_GET, thisProcess, 0, 0)
	out["ioprio"] = fmt.Sprintf("%d %d", ioprio>>13, ioprio&7)
	personality, _, _ := syscall.RawSyscall(unix.SYS_PERSONALITY, query, 0, 0)
	out["personality"] = fmt.Sprint(personality)
	var mode int32
	var nodes [16]uint64
	_, _, errno := syscall.RawSyscall6(unix.SYS_GET_MEMPOLICY, uintptr(unsafe.Pointer(&mode)), uintptr(unsafe.Pointer(&nodes)), 1024, 0, 0, 0)
	out["mempolicy"] = fmt.Sprintf("%#x %d %d", mode, nodes[0], errno)
	if text, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, unix.KEY_SPEC_SESSION_KEYRING); err == nil {
		out["keyring"] = text
	}
	if id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); err == nil {
		out["keyringID"] = fmt.Sprint(id)
	}
	for name, number := range map[string]int{"rlimit_nproc": unix.RLIMIT_NPROC, "rlimit_core": unix.RLIMIT_CORE} {
		var limit unix.Rlimit
		if err := unix.Prlimit(0, number, nil, &limit); err == nil {
			out[name] = fmt.Sprintf("%d %d", limit.Cur, limit.Max)
		}
	}
	return out
}

// callPersonality calls personality(2) from a thread that is not the first one, and tells what became of it.
func callPersonality() {
	n, _ := strconv.ParseUint(os.Args[2], 0, 64)
	tid, answer := make(chan int), make(chan syscall.Errno, 1)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		_, _, errno := syscall.RawSyscall(unix.SYS_PERSONALITY, uintptr(n), 0, 0)
		answer <- errno
		select {} // the thread stays
	}()
	thread := fmt.Sprintf("/proc/self/task/%d", <-tid)
	for range 1000 {
		select {
		case errno := <-answer:
			fmt.Println(int(errno))
			return
		case <-time.After(5 * time.Millisecond):
		}
		if _, err := os.Stat(thread); err != nil {
			fmt.Println("thread killed")
			return
		}
	}
	fmt.Println("no answer")
}
