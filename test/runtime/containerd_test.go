package runtime

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startContainerd starts Debian's containerd; settings are further lines of its configuration.
func startContainerd(t *testing.T, runtime, settings string) *peer {
	p := newPeer(t, runtime, "containerd", "ctr")
	config := filepath.Join(p.dir, "config.toml")
	text := strings.ReplaceAll("version = 2\nroot = \"DIR/root\"\nstate = \"DIR/state\"\n"+settings+"\n[grpc]\naddress = \"DIR/containerd.sock\"\n", "DIR", p.dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.command = []string{"ctr", "-a", filepath.Join(p.dir, "containerd.sock"), "-n", p.id}
	p.daemon([]string{"version"}, "containerd", "--config", config)
	return p
}

func TestContainerd(t *testing.T) { beside(t, testContainerd) }

func testContainerd(t *testing.T, runtime string) {
	p := startContainerd(t, runtime, `disabled_plugins = ["io.containerd.grpc.v1.cri"]`)
	root := p.rootfs()
	run := func(code int, out string, args ...string) {
		t.Helper()
		p.want(code, out, append([]string{"run", "--runc-binary", p.runtime, "--runc-root", filepath.Join(p.dir, "runc"), "--rootfs"}, args...)...)
	}
	run(0, "hello\n", "--rm", root, "a", "/bin/echo", "hello")
	run(7, "", "--rm", root, "a", "/bin/sh", "-c", "exit 7")
	run(0, "b\n", "--rm", "--env", "A=b", "--read-only", "--seccomp", root, "a", "/bin/sh", "-c", "echo $A")

	run(0, "", "-d", "--memory-limit", "67108864", root, "c", "/bin/sleep", "1000")
	p.want(0, "RUNNING", "tasks", "ls")
	p.want(0, "inside\n", "tasks", "exec", "--exec-id", "e1", "c", "/bin/echo", "inside")
	p.want(9, "", "tasks", "exec", "--exec-id", "e2", "c", "/bin/sh", "-c", "exit 9")
	p.want(0, "", "tasks", "pause", "c")
	p.want(0, "PAUSED", "tasks", "ls")
	p.want(0, "", "tasks", "resume", "c")
	p.want(0, "RUNNING", "tasks", "ls")
	p.want(0, "PID", "tasks", "ps", "c")
	p.want(0, "memory", "tasks", "metrics", "c")
	p.want(0, "", "tasks", "kill", "-s", "SIGKILL", "c")
	p.eventually("STOPPED", "tasks", "ls")
	p.want(0, "137", "tasks", "rm", "c")
	p.want(0, "", "containers", "rm", "c")

	run(0, "", "-d", "--net-host", "--cgroup", "/"+p.id+"/own", "--cpus", "0.5", "--mount", "type=bind,src="+p.dir+",dst=/mnt,options=rbind:ro", "--cwd", "/tmp", "--cap-drop", "CAP_CHOWN", "--cap-add", "CAP_NET_ADMIN", "--device", "/dev/null", root, "d", "/bin/sleep", "1000")
	p.want(0, "CapEff:\t00000000a80435fa\n", "tasks", "exec", "--exec-id", "e1", "d", "/bin/grep", "CapEff", "/proc/1/status")
	p.want(0, "uid=7", "tasks", "exec", "--exec-id", "e2", "--user", "7", "d", "/bin/id")
	p.want(0, ownNamespace(t, "net"), "tasks", "exec", "--exec-id", "e3", "d", "/bin/readlink", "/proc/self/ns/net")
	p.want(0, ":/"+p.id+"/own\n", "tasks", "exec", "--exec-id", "e4", "d", "/bin/cat", "/proc/self/cgroup")
	p.want(0, "/tmp\n", "tasks", "exec", "--exec-id", "e5", "--cwd", "/tmp", "d", "/bin/sh", "-c", "pwd")
	p.want(0, "calls", "tasks", "exec", "--exec-id", "e6", "d", "/bin/ls", "/mnt")
	p.want(1, "executable file not found", "tasks", "exec", "--exec-id", "e7", "d", "no-such-program")
	p.want(0, "", "tasks", "rm", "-f", "d")
	p.want(0, "", "containers", "rm", "d")

	run(137, "", "--rm", "--memory-limit", "16777216", root, "hungry", "/bin/hog", "memory", "100M")
	run(1, "executable file not found", "--rm", root, "missing", "no-such-program")
	terminal := func(want string, args ...string) {
		t.Helper()
		line := strings.Join(append(p.command, args...), " ")
		if out, err := exec.Command("script", "-qec", line, "/dev/null").CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v: %s", line, err, out)
		}
	}
	terminal("/dev/pts/0", "run", "--runc-binary", p.runtime, "--runc-root", filepath.Join(p.dir, "runc"), "--rm", "-t", "--rootfs", root, "t", "/bin/tty")
	run(0, "", "-d", root, "e", "/bin/sleep", "1000")
	terminal("/dev/pts/0", "tasks", "exec", "-t", "--exec-id", "e1", "e", "/bin/tty")
	p.want(0, "", "tasks", "rm", "-f", "e")
	p.want(0, "", "containers", "rm", "e")
	p.called("create", "start", "exec", "pause", "resume", "kill", "delete", "--console-socket")
}
