// Package isolate runs a program of tests in namespaces of its own: whatever is left in there is the tests', and ends with
// them. The program command/isolate is for `go test -exec`.
//
//	outer   makes a cgroup in every hierarchy and a directory for temporary files, starts init and waits; then removes them
//	init    process 1 of pid, mount, network, IPC, UTS and cgroup namespaces: sees that cgroup as /sys/fs/cgroup, and
//	        directories of its own at /run, /dev/shm, /etc, …; adopts the processes that tests leave. When the tests have
//	        ended, it reports what is left; when it ends, the kernel kills the rest
//	tests   the program, as a child of init
package isolate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Variables of init's and the tests' environment.
const (
	stage      = "GANTRY_ISOLATE_STAGE" // init or tests; unset outside
	cgroupName = "GANTRY_ISOLATE_CGROUP"
	outerDir   = "GANTRY_ISOLATE_DIR"
	leaks      = "GANTRY_ISOLATE_LEAKS"
)

// prefix begins the names of cgroups and directories; the process id and start time of outer follow.
const prefix = "gantry-test-"

// Inside reports whether this process is one of the tests'.
func Inside() bool { return os.Getenv(stage) == "tests" }

// Init does not return if this process was started to be init. A program that calls Run must call it first.
func Init() {
	if os.Getenv(stage) != "init" {
		return
	}
	code, err := initialize()
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		code = max(1, code)
	}
	os.Exit(code)
}

// Run runs a command in namespaces of its own and returns its exit code, or 1 if the command left something behind and
// leftovers is false.
func Run(command []string, leftovers bool) (code int, err error) {
	runtime.LockOSThread() // init gets its signal when the thread that started it ends
	defer runtime.UnlockOSThread()
	hierarchies, err := cgroupMounts()
	if err != nil {
		return 1, err
	}
	own, err := startTime(os.Getpid())
	if err != nil {
		return 1, err
	}
	removeStale(hierarchies)
	name := prefix + strconv.Itoa(os.Getpid()) + "-" + own
	dir := filepath.Join(os.TempDir(), name)
	defer func() { err = errors.Join(err, removeAll(hierarchies, dir)) }()
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o1777|os.ModeSticky)); err != nil {
		return 1, err
	}
	for _, h := range hierarchies {
		if err := h.make(name); err != nil {
			return 1, err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", command...)
	cmd.Cancel = func() error {
		err := cmd.Process.Kill()
		for _, h := range hierarchies {
			thaw(filepath.Join(h.at, name))
		}
		return err
	}
	cmd.Env = append(os.Environ(), stage+"=init", cgroupName+"="+name, outerDir+"="+dir, leaks+"=")
	if leftovers {
		cmd.Env = append(cmd.Env, leaks+"=ignore")
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		return 1, fmt.Errorf("start the tests in namespaces: %w", err)
	}
	if ctx.Err() != nil {
		return 1, errors.New("interrupted")
	}
	return cmd.ProcessState.ExitCode(), nil
}

// startTime is when a process was started, in ticks since the machine was; together with its id, it names the process.
func startTime(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // a name with this in it is not one of ours
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return "", fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields[19], nil
}

// removeStale removes what killed runs have left: nobody else has an interest in it, so what fails is tried by the next run.
func removeStale(hierarchies []hierarchy) {
	for _, top := range append([]hierarchy{{at: os.TempDir()}}, hierarchies...) {
		found, _ := filepath.Glob(filepath.Join(top.at, prefix+"*"))
		for _, path := range found {
			id, start, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), prefix), "-")
			pid, err := strconv.Atoi(id)
			if err != nil {
				continue
			}
			if now, err := startTime(pid); err == nil && now == start {
				continue
			}
			if top.kind == "" {
				_ = os.RemoveAll(path)
			} else {
				_ = removeCgroups(path)
			}
		}
	}
}

func removeAll(hierarchies []hierarchy, dir string) error {
	err := os.RemoveAll(dir)
	for _, h := range hierarchies {
		err = errors.Join(err, await(func() error { return removeCgroups(filepath.Join(h.at, filepath.Base(dir))) }))
	}
	return err
}

// initialize is init: it runs the tests and returns their exit code.
func initialize() (int, error) {
	runtime.LockOSThread() // the cgroup namespace is a thread's, and its children inherit it
	if err := enter(os.Getenv(cgroupName), os.Getenv(outerDir)); err != nil {
		return 1, err
	}
	defer thaw("/sys/fs/cgroup")
	for name, value := range map[string]string{stage: "tests", "TMPDIR": temporary, "GANTRY_ISOLATE_CGROUP_NS": machineCgroups, "GOPROXY": "off", "GOTOOLCHAIN": "local"} {
		if err := os.Setenv(name, value); err != nil {
			return 1, err
		}
	}
	before, err := look()
	if err != nil {
		return 1, err
	}
	path, err := exec.LookPath(os.Args[1])
	if err != nil {
		return 1, err
	}
	child, err := syscall.ForkExec(path, os.Args[1:], &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 1, fmt.Errorf("start %s: %w", path, err)
	}
	code := 0
	for pid := 0; pid != child; {
		var status syscall.WaitStatus
		pid, err = syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 1, fmt.Errorf("wait for %s: %w", path, err)
		case pid == child && status.Signaled():
			code, err = 1, fmt.Errorf("%s was ended by %v", path, status.Signal())
		case pid == child:
			code = status.ExitStatus()
		}
	}
	if os.Getenv(leaks) == "" {
		err = errors.Join(err, nothingLeft(before))
	}
	return code, err
}
