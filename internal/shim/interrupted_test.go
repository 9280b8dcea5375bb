package shim

import (
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Signals that arrive all the time do not make a living process look as if it had ended, whoever's child it is.
func TestLivingProcessUnderSignals(t *testing.T) {
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	pidfd, err := unix.PidfdOpen(child.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var over atomic.Bool
	done := make(chan int)
	pid, tid := unix.Getpid(), unix.Gettid()
	go func() {
		sent := 0
		for ; !over.Load(); sent++ {
			_ = unix.Tgkill(pid, tid, unix.SIGURG) // which Go's runtime takes for a wish to preempt
		}
		done <- sent
	}()
	wrong := 0
	for range 200_000 {
		status := unknownStatus
		if ended(child.Process.Pid, pidfd, &status) || foreignEnded(child.Process.Pid, pidfd, &status) {
			wrong++
		}
	}
	over.Store(true)
	if sent := <-done; wrong > 0 || sent < 1000 {
		t.Errorf("the process was said to have ended %d times, under %d signals", wrong, sent)
	}
}
