package client

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ExitStatus is how somebody else's child ended: of a zombie by its stat, of one that its parent has reaped by the pidfd, if
// the kernel keeps it (PIDFD_INFO_EXIT, Linux 6.15). The process must have ended.
func ExitStatus(pid, pidfd int) (status int, known bool) {
	if ws, ok := zombieStatus(pid); ok && unix.PidfdSendSignal(pidfd, 0, nil, 0) == nil { // still the same one
		return StatusOf(ws), true
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
		return StatusOf(unix.WaitStatus(info.Exit_code)), true
	}
	return UnknownStatus, false
}

// StatusOf is a wait status as a shell gives it: 128+n for signal n.
func StatusOf(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// zombieStatus is the last field of /proc/PID/stat, exit_code; see proc_pid_stat(5).
func zombieStatus(pid int) (unix.WaitStatus, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const state, exitCode = 0, 49 // counted from the state, which is the third field
	if len(fields) <= exitCode || fields[state] != "Z" {
		return 0, false
	}
	n, err := strconv.ParseUint(fields[exitCode], 10, 32)
	return unix.WaitStatus(n), err == nil
}
