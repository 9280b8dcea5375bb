package oci

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
)

const executing = "GANTRY_TEST_EXECUTING"

// TestExecutingIsRunning: a process one of whose threads executes a program, which takes the first thread's place, is
// there at every moment.
func TestExecutingIsRunning(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), executing+"=100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, _, err := processStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	rec := &record{Pid: cmd.Process.Pid, StartTime: start}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for looks := 0; ; looks++ {
		pidfd, err := rec.pidfd()
		if err == nil {
			over := hasEnded(pidfd)
			_ = syscall.Close(pidfd)
			if !over {
				continue
			}
		}
		select {
		case err := <-ended:
			if err != nil || looks == 0 {
				t.Errorf("%d looks; it ended: %v", looks, err)
			}
			return
		case <-time.After(time.Minute):
			t.Errorf("look %d: %v, but it has not ended", looks, err)
			_ = cmd.Process.Kill()
			if err := <-ended; err != nil {
				t.Log(err)
			}
			return
		}
	}
}

// executeAgain is the program instead of tests: it executes itself, from another than the first thread, so many times.
func executeAgain(left string) {
	n, err := strconv.Atoi(left)
	if err != nil || n == 0 {
		return
	}
	for range 3 { // threads to choose from
		go func() {
			runtime.LockOSThread()
			time.Sleep(time.Hour)
		}()
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		_ = os.Setenv(executing, strconv.Itoa(n-1))
		failed <- syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}()
	panic(<-failed)
}
