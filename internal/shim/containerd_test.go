package shim_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An unmodified containerd starts the supervisor by its name and runs containers with it.
func TestContainerd(t *testing.T) {
	daemon, err := exec.LookPath("containerd")
	if err != nil {
		t.Fatal("containerd is not installed (test/test.sh installs it)")
	}
	dir, err := os.MkdirTemp("", "ctrd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	rootfs, socket := filepath.Join(dir, "rootfs"), filepath.Join(dir, "c.sock")
	for _, d := range []string{"bin", "proc", "dev", "sys", "run"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(rootfs, "bin/sh"), "gantry/cmd/toolbox")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the toolbox: %v\n%s", err, out)
	}
	config := `version = 2
root = "` + dir + `/root"
state = "` + dir + `/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "` + socket + `"
`
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(daemon, "-c", dir+"/config.toml")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	namespace := filepath.Base(dir) // and the parent of its cgroups, which containerd leaves
	t.Cleanup(func() {
		_ = os.Remove("/sys/fs/cgroup/" + namespace)
		parents, _ := filepath.Glob("/sys/fs/cgroup/*/" + namespace)
		for _, parent := range parents {
			_ = os.Remove(parent)
		}
	})
	ctr := func(args ...string) (string, error) {
		out, err := exec.Command("ctr", append([]string{"-a", socket, "-n", namespace}, args...)...).CombinedOutput()
		return string(out), err
	}
	run := []string{"run", "--runtime", "io.containerd.gantry.v1", "--rootfs"}
	out, err := ctr(append(run, "--rm", rootfs, "one", "/bin/sh", "-c", "echo hello; exit 5")...)
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 5 || out != "hello\n" {
		t.Errorf("run: %q, %v", out, err)
	}
	if out, err := ctr(append(run, "-d", rootfs, "two", "/bin/sh", "-c", "while true; do :; done")...); err != nil {
		t.Fatalf("run: %s, %v", out, err)
	}
	if address, err := os.ReadFile(dir + "/state/io.containerd.runtime.v2.task/" + namespace + "/two/address"); err != nil {
		t.Error(err)
	} else {
		defer func() { _ = os.RemoveAll(filepath.Dir(strings.TrimPrefix(string(address), "unix://"))) }()
	}
	if out, err := ctr("task", "exec", "--exec-id", "e", "two", "/bin/sh", "-c", "echo in"); err != nil || out != "in\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	for _, args := range [][]string{{"task", "pause", "two"}, {"task", "resume", "two"}, {"task", "delete", "--force", "two"}, {"container", "delete", "two"}} {
		if out, err := ctr(args...); err != nil {
			t.Errorf("%s: %s, %v", strings.Join(args, " "), out, err)
		}
	}
}
