package isolate_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/test/isolate"
)

const act = "GANTRY_ISOLATE_TEST" // this program is isolate; with the value leftovers, one that does not look for them

func TestMain(m *testing.M) {
	isolate.Init()
	kind := os.Getenv(act)
	if kind == "" {
		os.Exit(m.Run())
	}
	code, err := isolate.Run(os.Args[1:], kind == "leftovers")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(1, code)
	}
	os.Exit(code)
}

// program is isolate with a shell script.
func program(t *testing.T, kind, script string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "sh", "-c", script)
	cmd.Env = append(os.Environ(), act+"="+kind)
	return cmd
}

func run(t *testing.T, kind, script string) (out string, code int) {
	t.Helper()
	cmd := program(t, kind, script)
	text, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

func TestNamespacesOfItsOwn(t *testing.T) {
	out, code := run(t, "report", "for n in pid mnt net ipc uts cgroup; do readlink /proc/self/ns/$n; done; exit 7")
	if code != 7 {
		t.Errorf("exit %d: %s", code, out)
	}
	inside := strings.Fields(out)
	for i, kind := range []string{"pid", "mnt", "net", "ipc", "uts", "cgroup"} {
		mine, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		if i >= len(inside) || inside[i] == mine {
			t.Errorf("the %s namespace is this process's, %s: %q", kind, mine, out)
		}
	}
}

// TestSeesOnlyItsOwn: what is on this machine is not in there.
func TestSeesOnlyItsOwn(t *testing.T) {
	marker := exec.Command("sleep", "100000.25")
	if err := marker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = marker.Process.Kill(); _ = marker.Wait() })
	out, code := run(t, "report", "grep -l '10000[0].25' /proc/[0-9]*/cmdline; ls -A /run /dev/shm $TMPDIR; ls /sys/class/net")
	if code != 0 || strings.Contains(out, "/proc/") {
		t.Errorf("exit %d: %s", code, out)
	}
	if got, want := strings.Join(strings.Fields(out), " "), "/dev/shm: /run: machine tmp /run/tmp: eth0 lo wire"; got != want {
		t.Errorf("there is %q, want %q", got, want)
	}
}

func TestReportsWhatIsLeft(t *testing.T) {
	const leave = `
		sleep 100000 &
		mkdir $TMPDIR/dir && mount -t tmpfs x $TMPDIR/dir
		ip link add left0 type bridge
		iptables-nft -t nat -N LEFT
		for d in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/pids; do if [ -e $d/cgroup.procs ]; then mkdir $d/left; fi; done
		touch /run/left /dev/shm/left`
	t.Setenv("GANTRY_ISOLATE_PATIENCE", "1s")
	out, code := run(t, "report", leave)
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{"sleep 100000", "mount /run/tmp/dir", "file /run/tmp/dir", "interface left0", "nftables' table nat", "/left\n", "file /run/left", "file /dev/shm/left"} {
		if !strings.Contains(out, want) {
			t.Errorf("not reported: %s", want)
		}
	}
	if strings.Contains(out, "cgroup /sys/fs/cgroup\n") || strings.Contains(out, "interface lo") {
		t.Errorf("reported what was there before")
	}
	if t.Failed() {
		t.Log(out)
	}
	if out, code := run(t, "leftovers", leave); code != 0 {
		t.Errorf("not looking for leftovers: exit %d: %s", code, out)
	}
}

// TestWaitsForTheEnd: what ends by itself is no leftover.
func TestWaitsForTheEnd(t *testing.T) {
	if out, code := run(t, "report", "(sleep 0.5; rm $TMPDIR/file) & touch $TMPDIR/file"); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
}

// TestKilled: nothing runs on after the outer process was killed, and the next run removes what is left.
func TestKilled(t *testing.T) {
	cmd := program(t, "report", "touch $TMPDIR/file; sleep 100000 & echo ready; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(out)
	if line, err := reader.ReadString('\n'); err != nil {
		t.Fatalf("%q: %v: %s", line, err, &complaints)
	}
	traces := func() []string {
		var all []string
		name := fmt.Sprintf("gantry-test-%d-*", cmd.Process.Pid)
		for _, pattern := range []string{filepath.Join(os.TempDir(), name), "/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
			found, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, found...)
		}
		return all
	}
	if len(traces()) < 2 {
		t.Errorf("a directory and cgroups: %q", traces())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, reader); err != nil { // its end is that of the last process inside
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	gone := func() bool {
		if out, code := run(t, "report", "true"); code != 0 {
			t.Fatalf("the next run: exit %d: %s", code, out)
		}
		return len(traces()) == 0
	}
	for deadline := time.Now().Add(time.Minute); !gone(); {
		if time.Now().After(deadline) {
			t.Fatalf("left: %q", traces())
		}
	}
}

func TestNotWhereItHides(t *testing.T) {
	cmd := program(t, "report", "true")
	cmd.Dir = t.TempDir()
	if !strings.HasPrefix(cmd.Dir, "/run/") {
		dir, err := os.MkdirTemp("/dev/shm", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		cmd.Dir = dir
	}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot be run in "+cmd.Dir) {
		t.Errorf("%v: %s", err, out)
	}
}
