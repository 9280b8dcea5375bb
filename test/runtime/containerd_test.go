package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestContainerd(t *testing.T) { beside(t, testContainerd) }

func testContainerd(t *testing.T, runtime string) {
	p := newPeer(t, runtime, "containerd", "ctr")
	socket, config := filepath.Join(p.dir, "containerd.sock"), filepath.Join(p.dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(p.dir, "root"), filepath.Join(p.dir, "state"), socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.command = []string{"ctr", "-a", socket, "-n", p.id}
	p.daemon([]string{"version"}, "containerd", "--config", config)
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
