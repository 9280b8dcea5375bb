package runtime

import (
	"os"
	"path/filepath"
	"testing"
)

// startPodman returns a podman with directories of its own.
func startPodman(t *testing.T, runtime string) *peer {
	p := newPeer(t, runtime, "podman", "conmon")
	// Its locks are the machine's otherwise, and two podmans that start at once may both want to make them.
	conf := filepath.Join(p.dir, "containers.conf")
	if err := os.WriteFile(conf, []byte("[engine]\nlock_type = \"file\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.command = []string{
		"env", "CONTAINERS_CONF=" + conf, "podman", "--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--tmpdir", filepath.Join(p.dir, "tmp"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", p.runtime,
	}
	t.Cleanup(func() { p.do("rm", "-af", "-t", "0") })
	return p
}

func TestPodman(t *testing.T) { beside(t, testPodman) }

func testPodman(t *testing.T, runtime string) {
	p := startPodman(t, runtime)
	root := p.rootfs()
	run := func(code int, out string, args ...string) {
		t.Helper()
		p.want(code, out, append([]string{"run", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, args...)...)
	}
	run(0, "hello\n", "--rm", "--rootfs", root, "echo", "hello")
	run(7, "", "--rm", "--rootfs", root, "sh", "-c", "exit 7")
	run(127, "not found", "--rm", "--rootfs", root, "no-such-program")
	run(126, "denied", "--rm", "--rootfs", root, "/etc")

	run(0, "", "-d", "--name", "c", "--memory", "64m", "-e", "A=b", "--rootfs", root, "sleep", "1000")
	p.want(0, "running "+p.runtime, "inspect", "-f", "{{.State.Status}} {{.OCIRuntime}}", "c")
	p.want(0, "b\n", "exec", "c", "sh", "-c", "echo $A")
	p.want(9, "", "exec", "c", "sh", "-c", "exit 9")
	p.want(0, "uid=5", "exec", "-u", "5", "-w", "/tmp", "c", "id")
	p.want(0, "", "pause", "c")
	p.want(0, "paused", "inspect", "-f", "{{.State.Status}}", "c")
	p.want(0, "", "unpause", "c")
	p.want(0, "", "update", "--memory", "128m", "c")
	p.want(0, "134217728", "exec", "c", "sh", "-c", "echo $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null)")
	p.want(0, "", "stop", "-t", "1", "c")
	p.eventually("exited", "inspect", "-f", "{{.State.Status}}", "c")
	p.want(0, "", "start", "c")
	p.want(0, "", "kill", "-s", "KILL", "c")
	p.eventually("exited 137", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "c")
	p.want(0, "", "rm", "c")
	p.called("create", "start", "exec", "update", "pause", "resume", "kill", "delete")
}
