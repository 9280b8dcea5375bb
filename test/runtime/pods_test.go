package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCRI is the life of a pod: a sandbox with a network, containers that share it, and their end.
func TestCRI(t *testing.T) { beside(t, testCRI) }

func testCRI(t *testing.T, runtime string) {
	k := startCRI(t, runtime)
	pod, config := k.pod("pod1", func(c *cri.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81"}
		c.DnsConfig = &cri.DNSConfig{Servers: []string{"10.0.0.53"}}
	})
	status := must(k.PodSandboxStatus(k.context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod}))(t).Status
	if status.State != cri.PodSandboxState_SANDBOX_READY || !strings.HasPrefix(status.Network.Ip, "10.199.0.") {
		t.Errorf("the sandbox is %v with address %q", status.State, status.Network.Ip)
	}

	c := k.container(pod, config, "main", "trap 'exit 3' TERM; sleep 1000 & wait", func(c *cri.ContainerConfig) {
		c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("b")}}
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, OomScoreAdj: 500}
	})
	if s := k.status(c); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %v", s.State)
	}
	k.exec(c, 0, "b\n", "echo $A")
	k.exec(c, 9, "", "exit 9")
	k.exec(c, 0, "pod1", "hostname")
	k.exec(c, 0, "10.0.0.53", "cat /etc/resolv.conf")
	k.exec(c, 0, status.Network.Ip, "ip address")
	k.exec(c, 0, "81", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
	k.exec(c, 0, "500", "cat /proc/1/oom_score_adj")
	k.exec(c, 0, "67108864", limit("memory/memory.limit_in_bytes", "memory.max"))
	k.exec(c, 0, "50000", limit("cpu/cpu.cfs_quota_us", "cpu.max"))
	if _, err := k.ExecSync(k.context(), &cri.ExecSyncRequest{ContainerId: c, Cmd: []string{"sleep", "100"}, Timeout: 1}); err == nil {
		t.Error("exec ends late without an error")
	}
	if _, err := k.ExecSync(k.context(), &cri.ExecSyncRequest{ContainerId: c, Cmd: []string{"no-such-program"}}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("exec of a missing program: %v", err)
	}
	must(k.UpdateContainerResources(k.context(), &cri.UpdateContainerResourcesRequest{
		ContainerId: c, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuPeriod: 100000, CpuQuota: 70000, CpuShares: 512},
	}))(t)
	k.exec(c, 0, "134217728", limit("memory/memory.limit_in_bytes", "memory.max"))
	k.exec(c, 0, "70000", limit("cpu/cpu.cfs_quota_us", "cpu.max"))
	stats := must(k.ContainerStats(k.context(), &cri.ContainerStatsRequest{ContainerId: c}))(t).Stats
	if stats.Memory.GetWorkingSetBytes().GetValue() == 0 || stats.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Errorf("no statistics: %v", stats)
	}

	for _, ns := range []string{"net", "ipc", "uts"} { // are the pod's
		k.exec(c, 0, k.output(pod, config, "with-"+ns, "readlink /proc/self/ns/"+ns, nil), "readlink /proc/1/ns/"+ns)
	}
	must(k.StopContainer(k.context(), &cri.StopContainerRequest{ContainerId: c, Timeout: 10}))(t)
	if s := k.ended(c); s.ExitCode != 3 {
		t.Errorf("the stopped container's exit code is %d: %s", s.ExitCode, s.Message)
	}
	must(k.RemoveContainer(k.context(), &cri.RemoveContainerRequest{ContainerId: c}))(t)

	hungry := k.container(pod, config, "hungry", "hog memory 100M", func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
	})
	end := k.ended(hungry)
	for limit := time.Now().Add(patience); time.Now().Before(limit); { // containerd may hear of the end first
		if end = k.status(hungry); end.Reason == "OOMKilled" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if end.ExitCode != 137 || end.Reason != "OOMKilled" {
		t.Errorf("a container beyond its memory: exit code %d, %s", end.ExitCode, end.Reason)
	}
	missing := must(k.CreateContainer(k.context(), &cri.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "missing"}, Image: &cri.ImageSpec{Image: criImage}, Command: []string{"no-such-program"},
	}}))(t).ContainerId
	if _, err := k.StartContainer(k.context(), &cri.StartContainerRequest{ContainerId: missing}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("start a missing program: %v", err)
	}
	if s := k.ended(missing); s.ExitCode != 128 || s.Reason != "StartError" {
		t.Errorf("a container without a program: exit code %d, %s", s.ExitCode, s.Reason)
	}
	k.remove(pod)
	if pods := must(k.ListPodSandbox(k.context(), &cri.ListPodSandboxRequest{}))(t).Items; len(pods) != 0 {
		t.Errorf("pods are left: %v", pods)
	}
	k.called("create", "start", "exec", "update", "kill", "delete")
}

// TestCRISecurity: what Kubernetes sets for a container holds inside it.
func TestCRISecurity(t *testing.T) { beside(t, testCRISecurity) }

func testCRISecurity(t *testing.T, runtime string) {
	k := startCRI(t, runtime)
	shared := filepath.Join(k.dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shared, "file"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	propagated := filepath.Join(k.dir, "propagated")
	if err := errors.Join(os.Mkdir(propagated, 0o755), unix.Mount("none", propagated, "tmpfs", 0, ""), unix.Mount("", propagated, "", unix.MS_SHARED, ""),
		os.Mkdir(filepath.Join(propagated, "inner"), 0o755)); err != nil {
		t.Fatal(err)
	}
	host, hostConfig := k.pod("host", func(c *cri.PodSandboxConfig) {
		c.Hostname = ""
		c.Linux.SecurityContext.Privileged = true
		c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{
			Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE,
		}
	})
	pod, config := k.pod("pod", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}
	})
	for _, test := range []struct {
		name, script, want string
		host               bool
		edit               func(*cri.ContainerConfig)
	}{
		{"defaults", "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status", "NoNewPrivs:\t0\nSeccomp:\t0", false, nil},
		{"pod-processes", "ps", "sleep 100000", false, nil},
		{"user", "id", "uid=5 gid=6 groups=6,7", false, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 5}, &cri.Int64Value{Value: 6}
			c.Linux.SecurityContext.SupplementalGroups = []int64{7}
		}},
		{"no-capabilities", "grep CapBnd /proc/self/status", "0000000000000000", false, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}}
		}},
		{"one-capability", "grep CapEff /proc/self/status", "0000000000001000", false, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
		}},
		{"seccomp", "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", "NoNewPrivs:\t1\nSeccomp:\t2", false, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NoNewPrivs = true
			c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
		}},
		{"read-only", "echo x >/file || echo refused", "refused", false, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.ReadonlyRootfs = true
		}},
		{"masked", "cat /proc/keys; echo x >/proc/sys/kernel/hostname || echo refused", "refused", false, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.MaskedPaths, c.Linux.SecurityContext.ReadonlyPaths = []string{"/proc/keys"}, []string{"/proc/sys"}
		}},
		{"mount", "cat /data/file; echo x >/data/file || echo refused", "from the host\n", false, func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: shared, Readonly: true}}
		}},
		{"device", "stat -c %F /dev/own", "character special file", false, func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{ContainerPath: "/dev/own", HostPath: "/dev/null", Permissions: "rwm"}}
		}},
		{"terminal", "tty", "/dev/", false, func(c *cri.ContainerConfig) { c.Tty = true }},
		{"working-directory", "pwd", "/tmp", false, func(c *cri.ContainerConfig) { c.WorkingDir = "/tmp" }},
		{"host-namespaces", "readlink /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/ipc", ownNamespace(t, "net") + "\n" + ownNamespace(t, "pid") + "\n" + ownNamespace(t, "ipc"), true, nil},
		{"privileged", "grep Seccomp: /proc/self/status; echo x >/proc/sys/kernel/domainname && echo written", "written", true, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Privileged = true
		}},
		{"propagation", "mount -t tmpfs none /data/inner && echo mounted", "mounted", true, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Privileged = true
			c.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: propagated, Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
		}},
	} {
		if test.host {
			if got := k.output(host, hostConfig, test.name, test.script, test.edit); !strings.Contains(got, test.want) {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		} else if got := k.output(pod, config, test.name, test.script, test.edit); !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	if err := unix.Unmount(filepath.Join(propagated, "inner"), 0); err != nil {
		t.Errorf("what a container mounted is not on the host: %v", err)
	}
	k.remove(pod)
	k.remove(host)
}
