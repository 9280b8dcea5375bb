package runtime

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startDocker starts Debian's dockerd, and its containerd, with the runtime as a further one and the image "box". The
// daemon has a network namespace of its own, thus its own docker0 if settings, further flags, ask for networks.
func startDocker(t *testing.T, runtime string, settings ...string) *peer {
	p := newPeer(t, runtime, "dockerd", "/usr/bin/docker")
	socket := "unix://" + filepath.Join(p.dir, "docker.sock")
	p.command = []string{"/usr/bin/docker", "-H", socket}
	if len(settings) == 0 {
		settings = []string{"--bridge", "none", "--iptables=false"}
	}
	p.daemon([]string{"version"}, "unshare", append([]string{
		"--net", "dockerd", "--data-root", filepath.Join(p.dir, "data"), "--exec-root", filepath.Join(p.dir, "run"),
		"--pidfile", filepath.Join(p.dir, "pid"), "-H", socket, "--experimental", "--ip6tables=false",
		"--add-runtime", "gantry=" + p.runtime, "--default-runtime", "gantry",
	}, settings...)...)
	tar := exec.Command("tar", "-C", p.rootfs(), "-c", ".")
	var archive bytes.Buffer
	tar.Stdout = &archive
	if err := tar.Run(); err != nil {
		t.Fatal(err)
	}
	load := exec.Command(p.command[0], append(p.command[1:], "import", "-", "box")...)
	load.Stdin = &archive
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("import: %v: %s", err, out)
	}
	return p
}

func TestDocker(t *testing.T) { beside(t, testDocker) }

func testDocker(t *testing.T, runtime string) {
	p := startDocker(t, runtime)
	p.want(0, "gantry", "info", "--format", "{{.DefaultRuntime}}")
	p.want(0, "hello\n", "run", "--rm", "box", "echo", "hello")
	p.want(7, "", "run", "--rm", "box", "sh", "-c", "exit 7")
	p.want(127, "not found", "run", "--rm", "box", "no-such-program")
	p.want(126, "denied", "run", "--rm", "box", "/etc")
	p.want(0, "uid=5 gid=6", "run", "--rm", "--user", "5:6", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "box", "id")

	p.want(0, "", "run", "-d", "--name", "box1", "--memory", "64m", "-e", "A=b", "box", "sleep", "1000")
	p.want(0, "running gantry", "inspect", "-f", "{{.State.Status}} {{.HostConfig.Runtime}}", "box1")
	p.want(0, "b\n", "exec", "box1", "sh", "-c", "echo $A")
	p.want(9, "", "exec", "box1", "sh", "-c", "exit 9")
	p.want(0, "uid=5", "exec", "-u", "5", "-w", "/tmp", "box1", "id")
	p.want(0, "sleep", "top", "box1")
	p.want(0, "", "update", "--memory", "128m", "--memory-swap", "256m", "--pids-limit", "50", "box1")
	p.want(0, "134217728", "exec", "box1", "sh", "-c", "echo $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null)")
	p.want(0, "", "pause", "box1")
	p.want(0, "paused", "inspect", "-f", "{{.State.Status}}", "box1")
	p.want(1, "paused", "exec", "box1", "true")
	p.want(0, "", "unpause", "box1")
	p.want(0, "", "exec", "box1", "true")
	p.want(0, "box1", "stats", "--no-stream", "box1")
	p.want(0, "", "restart", "-t", "1", "box1")
	p.want(0, "", "kill", "-s", "KILL", "box1")
	p.eventually("exited 137", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "box1")
	p.want(0, "", "rm", "box1")
	p.called("create", "start", "exec", "ps", "update", "pause", "resume", "kill", "delete")
}

// TestDockerTerminal: the terminal is made by the runtime and passed over the console socket, also for exec.
func TestDockerTerminal(t *testing.T) { beside(t, testDockerTerminal) }

func testDockerTerminal(t *testing.T, runtime string) {
	p := startDocker(t, runtime)
	p.want(0, "", "run", "-d", "-t", "--name", "box1", "box", "sh", "-c", "test -t 0 && echo a terminal; sleep 1000")
	p.eventually("a terminal", "logs", "box1")
	cmd := exec.Command("script", "-qec", strings.Join(append(p.command, "exec", "-it", "box1", "sh", "-c", "'test -t 1 && echo another'"), " "), "/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "another") {
		t.Errorf("exec -it: %v: %s", err, out)
	}
	p.want(0, "", "rm", "-f", "box1")
	p.called("--console-socket")
}
