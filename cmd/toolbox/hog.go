package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// hog uses up what a limit should bound, to see it at work. What it got it holds for ever, or for SECONDS.
func hog(args []string) error {
	help := usage("hog memory SIZE [SECONDS] | cpu [PROCESSORS] [SECONDS] | fork COUNT [SECONDS] | disk SIZE FILE")
	if len(args) < 2 {
		return help
	}
	rest := args[2:]
	switch {
	case args[1] == "memory" && len(rest) > 0:
		return hogMemory(rest)
	case args[1] == "cpu":
		return hogCPU(rest)
	case args[1] == "fork" && len(rest) > 0:
		return hogFork(rest)
	case args[1] == "disk" && len(rest) == 2:
		return hogDisk(rest[1], rest[0])
	}
	return help
}

// hold waits as many seconds, or until a signal ends the process if none are given.
func hold(seconds int) {
	for seconds == 0 {
		time.Sleep(time.Hour)
	}
	time.Sleep(time.Duration(seconds) * time.Second)
}

// argument is the i-th word as a number that is not negative.
func argument(words []string, i, byDefault int) (int, error) {
	if i >= len(words) {
		return byDefault, nil
	}
	n, err := strconv.Atoi(words[i])
	if err != nil || n < 0 {
		return 0, fmt.Errorf("invalid number %q", words[i])
	}
	return n, nil
}

// hogMemory touches every page, says so, and holds them.
func hogMemory(words []string) error {
	n, err := size(words[0])
	if err != nil {
		return err
	}
	seconds, err := argument(words, 1, 0)
	if err != nil {
		return err
	}
	const chunk = 1 << 20
	var held [][]byte
	for done := int64(0); done < n; done += chunk {
		page, err := unix.Mmap(-1, 0, int(min(chunk, n-done)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("allocate after %d bytes: %w", done, err)
		}
		for i := 0; i < len(page); i += 4096 {
			page[i] = 1
		}
		held = append(held, page)
	}
	fmt.Printf("holding %d bytes\n", n)
	hold(seconds)
	runtime.KeepAlive(held)
	return nil
}

// hogCPU keeps processors busy, one by default.
func hogCPU(words []string) error {
	threads, err := argument(words, 0, 1)
	if err != nil {
		return err
	}
	seconds, err := argument(words, 1, 0)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(threads + 1)
	for range threads {
		go func() {
			for n := uint64(1); ; n = n*6364136223846793005 + 1 {
				if n == 0 {
					fmt.Print()
				}
			}
		}()
	}
	hold(seconds)
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		return err
	}
	used := time.Duration(use.Utime.Nano() + use.Stime.Nano())
	fmt.Printf("used %.2f seconds of processor time in %d seconds\n", used.Seconds(), seconds)
	return nil
}

// hogFork starts processes that sleep, until it is refused one or has them all, and says which.
//
// They are bare copies of this thread: a program in Go has several threads, each of which counts against the limit, and
// ends with a dump when it cannot have one more. For the same reason this process asks nothing of Go's scheduler after.
func hogFork(words []string) error {
	n, err := argument(words, 0, 0)
	if err != nil {
		return err
	}
	seconds, err := argument(words, 1, 0)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the children end with this thread
	var started []int
	for range n {
		pid, errno := sleeper()
		if errno != 0 {
			complain("fork", errno)
			break
		}
		started = append(started, pid)
	}
	fmt.Printf("started %d of %d processes\n", len(started), n)
	wait := &unix.Timespec{Sec: int64(seconds)}
	if seconds == 0 {
		wait = nil
	}
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, uintptr(unsafe.Pointer(wait)), 0, 0, 0)
		if errno != unix.EINTR {
			break
		}
	}
	for _, pid := range started {
		_ = unix.Kill(pid, unix.SIGKILL)
		_ = rawfile.Retry(func() error {
			_, err := unix.Wait4(pid, nil, 0, nil)
			return err
		})
	}
	return nil
}

// cloneArgs is the first version of struct clone_args, clone(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64
}

// sleeper forks a process that does nothing, until a signal or the end of its parent ends it. The child may do raw
// system calls only.
func sleeper() (pid int, errno syscall.Errno) {
	args := cloneArgs{flags: unix.CLONE_CLEAR_SIGHAND, exitSignal: uint64(unix.SIGCHLD)}
	r, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno == unix.ENOSYS { // docker's seccomp profile hides clone3
		r, _, errno = unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	}
	if errno != 0 || r != 0 {
		return int(r), errno
	}
	_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	for {
		_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// hogDisk writes a file of that size, without holes.
func hogDisk(name, text string) error {
	n, err := size(text)
	if err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	block := bytes.Repeat([]byte("hog "), 16<<10)
	for done := int64(0); done < n; {
		k, err := file.Write(block[:min(int64(len(block)), n-done)])
		if done += int64(k); err != nil {
			_ = file.Close()
			return fmt.Errorf("after %d bytes: %w", done, err)
		}
	}
	if err := file.Sync(); err != nil {
		_ = file.Close()
		return err
	}
	fmt.Printf("wrote %d bytes\n", n)
	return file.Close()
}
