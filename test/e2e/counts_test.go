package e2e

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestCounts bounds what a start costs in page faults and system calls, which a busy machine does not change. The bounds are
// a fifth to a third above what is needed, for other kernels; whoever is beyond one has made each start slower.
func TestCounts(t *testing.T) {
	bundle, root := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyProgram(t, bin("gantry-init"), filepath.Join(bundle, "rootfs/bin/true"))
	tool(t, bin("gantry-runtime"), "spec", "--bundle", bundle)
	config := filepath.Join(bundle, "config.json")
	text := strings.NewReplacer(`"terminal": true`, `"terminal": false`, `"sh"`, `"/bin/true"`, `"linux": {`, `"linux": {"cgroupsPath": "/gantry-counted",`).Replace(read(t, config))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name          string
		argv          []string
		faults, calls int64
	}{
		{"gantry --version", []string{bin("gantry"), "--version"}, 420, 240},
		{"gantry-runtime run", []string{bin("gantry-runtime"), "--root", root, "run", "--bundle", bundle, "counted"}, 500, 1100},
	} {
		faults, calls := int64(1<<62), int64(1<<62)
		for range 5 {
			faults, calls = min(faults, faultsOf(t, c.argv)), min(calls, callsOf(t, c.argv))
		}
		t.Logf("%s: %d page faults, %d system calls", c.name, faults, calls)
		if faults > c.faults || calls > c.calls {
			t.Errorf("%s: %d page faults and %d system calls, want at most %d and %d", c.name, faults, calls, c.faults, c.calls)
		}
	}
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// faultsOf are a command's and its children's faults that memory served.
func faultsOf(t *testing.T, argv []string) int64 {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // which also takes pages
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		t.Fatal("wait4 tells no usage")
	}
	return usage.Minflt
}

// callsOf are a command's and its children's system calls, but those by which threads wait for and wake each other.
func callsOf(t *testing.T, argv []string) int64 {
	t.Helper()
	table, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	cmd := exec.Command("strace", append([]string{"-f", "-c", "-U", "calls,name", "-o", "/proc/self/fd/3", "--"}, argv...)...)
	cmd.Env, cmd.ExtraFiles = []string{"PATH=" + os.Getenv("PATH")}, []*os.File{write}
	err = cmd.Start()
	if err = errors.Join(err, write.Close()); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(table)
	if err = errors.Join(err, cmd.Wait()); err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	var sum int64
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || strings.Contains(" total futex nanosleep sched_yield restart_syscall epoll_pwait tgkill getpid rt_sigreturn ", " "+fields[1]+" ") {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			sum += n
		}
	}
	return sum
}
