package runtime

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// criuWorks: Debian's criu does not know every kernel; the machine of `vm.sh --peers` has one that it knows.
func criuWorks(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("criu does not work on this kernel: %v: %s", err, out)
	}
}

// counting gives a root directory a /bin/subject that counts in memory, and tells the count in /tmp/n.
func (p *peer) counting(root string) string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(built, "subject"))
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(root, "bin/subject"), text, 0o755), os.Chmod(filepath.Join(root, "tmp"), 0o777))
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return root
}

// beyond waits until a command in the container tells of a count beyond from, and returns that.
func (p *peer) beyond(from int, args ...string) int {
	p.t.Helper()
	var out string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, out = p.do(args...); out != "" {
			if n, err := strconv.Atoi(strings.TrimSpace(out)); err == nil && n > from {
				return n
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.t.Fatalf("%s: %q, want more than %d", strings.Join(args, " "), out, from)
	return 0
}

// many is a count that a program which begins anew does not reach before it is looked at.
const many = 300

func TestPodmanCheckpoint(t *testing.T) { criuWorks(t); beside(t, testPodmanCheckpoint) }

func testPodmanCheckpoint(t *testing.T, runtime string) {
	p := startPodman(t, runtime)
	p.want(0, "", "load", "-i", p.archiveOf(p.counting(p.rootfs()), "localhost/box:latest"))
	p.want(0, "", "run", "-d", "--network", "none", "--name", "c", "localhost/box", "/bin/subject")
	n := p.beyond(many, "exec", "c", "cat", "/tmp/n")
	p.want(0, "", "container", "checkpoint", "--leave-running", "c")
	n = p.beyond(n, "exec", "c", "cat", "/tmp/n")
	p.want(0, "", "container", "checkpoint", "c")
	p.eventually("exited", "inspect", "-f", "{{.State.Status}}", "c")
	p.want(0, "", "container", "restore", "c")
	n = p.beyond(n, "exec", "c", "cat", "/tmp/n")
	export := filepath.Join(p.dir, "export.tar")
	p.want(0, "", "container", "checkpoint", "--compress", "none", "--export", export, "c")
	p.want(0, "", "rm", "c")
	p.want(0, "", "container", "restore", "--import", export, "--name", "d")
	p.beyond(n, "exec", "d", "cat", "/tmp/n")
	p.want(0, "", "rm", "-f", "-t", "0", "d")
	p.called("checkpoint", "restore")
}

func TestDockerCheckpoint(t *testing.T) { criuWorks(t); beside(t, testDockerCheckpoint) }

func testDockerCheckpoint(t *testing.T, runtime string) {
	p := startDocker(t, runtime)
	p.want(0, "", "load", "-i", p.archiveOf(p.counting(filepath.Join(p.dir, "rootfs")), "counting:latest"))
	p.want(0, "", "run", "-d", "--network", "none", "--security-opt", "apparmor=unconfined", "--name", "box1", "counting", "/bin/subject")
	n := p.beyond(many, "exec", "box1", "cat", "/tmp/n")
	p.want(0, "left", "checkpoint", "create", "--leave-running", "box1", "left")
	n = p.beyond(n, "exec", "box1", "cat", "/tmp/n")
	p.want(0, "last", "checkpoint", "create", "box1", "last")
	p.eventually("exited", "inspect", "-f", "{{.State.Status}}", "box1")
	p.want(0, "", "start", "--checkpoint", "last", "box1")
	p.beyond(n, "exec", "box1", "cat", "/tmp/n")
	p.want(0, "", "rm", "-f", "box1")
	p.called("checkpoint", "restore")
}

func TestContainerdCheckpoint(t *testing.T) { criuWorks(t); beside(t, testContainerdCheckpoint) }

func testContainerdCheckpoint(t *testing.T, runtime string) {
	p := startContainerd(t, runtime, `disabled_plugins = ["io.containerd.grpc.v1.cri"]`)
	p.want(0, "", "images", "import", p.archiveOf(p.counting(p.rootfs()), "localhost/box:latest"))
	p.want(0, "", "run", "-d", "--runc-binary", p.runtime, "localhost/box:latest", "c", "/bin/subject")
	n := p.beyond(many, "tasks", "exec", "--exec-id", "e1", "c", "/bin/cat", "/tmp/n")
	files := filepath.Join(p.dir, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		t.Fatal(err)
	}
	p.want(0, "", "tasks", "checkpoint", "--image-path", files, "c")
	if _, err := os.Stat(filepath.Join(files, "inventory.img")); err != nil {
		t.Error(err)
	}
	n = p.beyond(n, "tasks", "exec", "--exec-id", "e1", "c", "/bin/cat", "/tmp/n")
	p.want(0, "", "containers", "checkpoint", "--task", "--image", "c", "saved")
	remove := func() {
		t.Helper()
		p.want(0, "", "tasks", "kill", "-s", "SIGKILL", "c")
		p.eventually("STOPPED", "tasks", "ls")
		p.want(0, "137", "tasks", "rm", "c")
		p.want(0, "", "containers", "rm", "c")
	}
	remove()
	p.want(0, "", "containers", "restore", "--live", "c", "saved")
	p.beyond(n, "tasks", "exec", "--exec-id", "e1", "c", "/bin/cat", "/tmp/n")
	remove()
	p.called("checkpoint", "restore")
}
