package runtime

import (
	"os"
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
	p.called("create", "start", "exec", "pause", "resume", "kill", "delete")
}
