package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// systemdManages: in the machine of `vm.sh --peers` systemd does; where the tests are isolated, nobody is at /run.
func systemdManages(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/private"); err != nil {
		t.Skip("no systemd manages this machine: test/vm/vm.sh --peers is for that")
	}
}

// unit is what a systemd says of a unit; ctl asks it.
func (p *peer) unit(unit string, ctl ...string) string {
	p.t.Helper()
	argv := append(slices.Clone(ctl), "show", "--property=LoadState,ActiveState,MemoryMax,TasksMax,ControlGroup", unit)
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return string(out)
}

// started starts a container, and returns its id: behind podman's warnings.
func (p *peer) started(args ...string) string {
	p.t.Helper()
	lines := strings.Split(strings.TrimSpace(p.want(0, "", args...)), "\n")
	return lines[len(lines)-1]
}

// inUnit has a container with limits go through its life in a scope, which ends with it. start returns its id.
func (p *peer) inUnit(prefix, slice string, start func(args ...string) string, ctl ...string) {
	p.t.Helper()
	id := start("-d", "--name", "box1", "--memory", "64m", "--memory-swap", "96m", "--pids-limit", "50")
	unit := prefix + "-" + id + ".scope"
	shown := func(want ...string) {
		p.t.Helper()
		said := p.unit(unit, ctl...)
		for _, line := range want {
			if !strings.Contains(said, line+"\n") {
				p.t.Errorf("%s: %q, want %q", unit, said, line)
			}
		}
	}
	shown("ActiveState=active", "ControlGroup="+slice+"/"+unit, "MemoryMax=67108864", "TasksMax=50")
	p.want(0, "67108864", "exec", "box1", "cat", "/sys/fs/cgroup/memory.max")
	p.want(0, "0::/", "exec", "box1", "cat", "/proc/self/cgroup")
	p.want(0, "", "pause", "box1")
	p.want(0, "paused", "inspect", "-f", "{{.State.Status}}", "box1")
	p.want(0, "", "unpause", "box1")
	p.want(0, "", "update", "--memory", "128m", "--memory-swap", "256m", "box1")
	shown("MemoryMax=134217728", "TasksMax=50")
	p.want(0, "134217728", "exec", "box1", "cat", "/sys/fs/cgroup/memory.max")
	p.want(0, "", "restart", "-t", "0", "box1")
	p.want(0, "0::/", "exec", "box1", "cat", "/proc/self/cgroup")
	shown("ActiveState=active", "ControlGroup="+slice+"/"+unit)
	p.want(0, "", "kill", "-s", "KILL", "box1")
	p.eventually("exited 137", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "box1")
	p.want(0, "", "rm", "box1")
	shown("LoadState=not-found", "ActiveState=inactive")
	p.called("--systemd-cgroup", "create", "start", "exec", "update", "pause", "resume", "kill", "delete")
}

func TestDockerSystemd(t *testing.T) { systemdManages(t); beside(t, testDockerSystemd) }

func testDockerSystemd(t *testing.T, runtime string) {
	p := startDocker(t, runtime, "--bridge", "none", "--iptables=false", "--exec-opt", "native.cgroupdriver=systemd")
	p.want(0, "systemd", "info", "--format", "{{.CgroupDriver}}")
	p.inUnit("docker", "/system.slice", func(args ...string) string {
		return p.started(append(append([]string{"run"}, args...), "box", "sleep", "1000")...)
	}, "systemctl")
	p.want(7, "", "run", "--rm", "--cgroup-parent", p.id+".slice", "box", "sh", "-c", "exit 7")
}

func TestPodmanSystemd(t *testing.T) { systemdManages(t); beside(t, testPodmanSystemd) }

func testPodmanSystemd(t *testing.T, runtime string) {
	p := startPodman(t, runtime)
	p.podmanInUnit("/machine.slice", "systemctl")
}

// podmanInUnit runs a container whose cgroup podman has systemd make.
func (p *peer) podmanInUnit(slice string, ctl ...string) {
	p.t.Helper()
	p.command[slices.Index(p.command, "cgroupfs")] = "systemd"
	root := filepath.Join(p.dir, "rootfs")
	if _, err := os.Stat(root); err != nil {
		p.rootfs()
	}
	p.inUnit("libpod", slice, func(args ...string) string {
		args = append(append([]string{"run", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, args...), "--rootfs", root, "sleep", "1000")
		return p.started(args...)
	}, ctl...)
}

// TestPodmanUser: an ordinary user's podman, with the user's own systemd.
func TestPodmanUser(t *testing.T) { systemdManages(t); beside(t, testPodmanUser) }

func testPodmanUser(t *testing.T, runtime string) {
	const uid = 1000
	p := startPodman(t, runtime)
	p.rootfs()
	if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%[1]d", uid), p.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	own := fmt.Sprintf("/run/user/%d", uid)
	as := []string{
		"setpriv", "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups", "env", "HOME=" + p.dir,
		"XDG_RUNTIME_DIR=" + own, "DBUS_SESSION_BUS_ADDRESS=unix:path=" + own + "/bus",
	}
	p.command = append(slices.Clone(as), p.command...)
	p.podmanInUnit(fmt.Sprintf("/user.slice/user-%d.slice/user@%[1]d.service/user.slice", uid), append(as, "systemctl", "--user")...)
}
