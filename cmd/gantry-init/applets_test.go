package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// called is the program under another name.
func called(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	return exec.Command(link, args...)
}

func TestTrueAndFalse(t *testing.T) {
	for name, code := range map[string]int{"true": 0, "false": 1} {
		for _, args := range [][]string{nil, {"--help"}, {"--", "x"}} {
			cmd := called(t, name, args...)
			if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != code || len(out) > 0 {
				t.Errorf("%s %q: %d, %q", name, args, cmd.ProcessState.ExitCode(), out)
			}
		}
	}
}

// TestSleep: durations add up; what is no plain number is not slept (the toolbox's larger program is not here).
func TestSleep(t *testing.T) {
	for _, c := range []struct {
		args  []string
		code  int
		least time.Duration
	}{
		{args: []string{"0"}},
		{args: []string{"0.1"}, least: 100 * time.Millisecond},
		{args: []string{".15s", "0.05"}, least: 200 * time.Millisecond},
		{args: []string{"0.6", "0.6", "0"}, least: 1200 * time.Millisecond},
		{args: []string{"0.002m"}, least: 120 * time.Millisecond},
		{args: []string{"0.00003h"}, least: 108 * time.Millisecond},
		{args: []string{"0.000001d"}, least: 86400 * time.Microsecond},
		{args: []string{"1."}, least: time.Second},
		{args: nil, code: 1},
		{args: []string{""}, code: 1},
		{args: []string{"s"}, code: 1},
		{args: []string{"."}, code: 1},
		{args: []string{"-1"}, code: 1},
		{args: []string{"1e9"}, code: 1},
		{args: []string{"1x"}, code: 1},
		{args: []string{"1ss"}, code: 1},
		{args: []string{"1.2.3"}, code: 1},
		{args: []string{"0", "x"}, code: 1},
		{args: []string{"99999999999999999999999"}, code: 1},
		{args: []string{"2000000d"}, code: 1},
		{args: []string{"0.12345678901234567890"}, code: 1},
	} {
		cmd, began := called(t, "sleep", c.args...), time.Now()
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if took := time.Since(began); cmd.ProcessState.ExitCode() != c.code || took < c.least {
			t.Errorf("sleep %q: %d (%s) after %s", c.args, cmd.ProcessState.ExitCode(), out, took)
		}
	}
}

// TestSleepEndsBySignals: as any program, but as a first process, which the kernel protects, only by the last of them.
func TestSleepEndsBySignals(t *testing.T) {
	for _, first := range []bool{false, true} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			cmd := called(t, "sleep", "1000")
			if first {
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			awaitSleeping(t, cmd.Process.Pid)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Error(err)
			}
			ending := sig
			if first && sig != syscall.SIGKILL {
				awaitSleeping(t, cmd.Process.Pid)
				ending = syscall.SIGKILL
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
			_ = cmd.Wait()
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != ending {
				t.Errorf("%s (first: %v): %v", sig, first, cmd.ProcessState)
			}
		}
	}
}

// patience bounds what a test waits for: a machine may be slow and busy, but what takes longer hangs.
const patience = 2 * time.Minute

// awaitSleeping waits until the process is in the call in which it sleeps.
func awaitSleeping(t *testing.T, pid int) {
	t.Helper()
	want := []byte(strconv.Itoa(syscall.SYS_CLOCK_NANOSLEEP) + " ")
	for end := time.Now().Add(patience); time.Now().Before(end); {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/syscall")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(text, want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d does not sleep", pid)
}
