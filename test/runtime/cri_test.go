package runtime

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	criImage  = "example.test/box:1"
	criConfig = `
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "` + criImage + `"
stream_server_address = "127.0.0.1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/run/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
privileged_without_host_devices = false
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "DIR/runtime"
Root = "DIR/runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gantry]
runtime_type = "io.containerd.gantry.v1"
`
	cniConfig = `{"cniVersion": "0.4.0", "name": "peers", "plugins": [{"type": "bridge", "bridge": "peers0", "isGateway": true,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.199.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}, {"type": "portmap", "capabilities": {"portMappings": true}}]}`
)

// kubelet calls containerd as Kubernetes does.
type kubelet struct {
	*peer
	handler string // of pods: a runtime of the configuration; "": the default
	cri.RuntimeServiceClient
}

func startCRI(t *testing.T, runtime string) *kubelet {
	if err := os.MkdirAll("/run/cni", 0o755); err != nil { // the tests' own /run
		t.Fatal(err)
	}
	if err := os.WriteFile("/run/cni/peers.conflist", []byte(cniConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	p := startContainerd(t, runtime, criConfig)
	p.want(0, "", "-n", "k8s.io", "images", "import", p.archive(criImage))
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.dir, "containerd.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	k := &kubelet{peer: p, RuntimeServiceClient: cri.NewRuntimeServiceClient(conn)}
	t.Cleanup(func() { // before the daemon ends
		pods, err := k.ListPodSandbox(context.Background(), &cri.ListPodSandboxRequest{})
		if err != nil {
			t.Error(err)
		}
		for _, pod := range pods.GetItems() {
			k.remove(pod.Id)
		}
	})
	for end := time.Now().Add(patience); time.Now().Before(end); { // the plugin loads after the daemon answers, the network's configuration after the plugin
		status := must(k.Status(k.context(), &cri.StatusRequest{}))(t)
		ready := 0
		for _, c := range status.Status.Conditions {
			if c.Status {
				ready++
			}
		}
		if ready == len(status.Status.Conditions) {
			return k
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("containerd's CRI plugin is not ready")
	return nil
}

// must ends the test when a call has failed.
func must[T any](answer T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

func (k *kubelet) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	k.t.Cleanup(cancel)
	return ctx
}

// pod runs a sandbox.
func (k *kubelet) pod(name string, edit func(*cri.PodSandboxConfig)) (id string, config *cri.PodSandboxConfig) {
	k.t.Helper()
	config = &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: k.id, Namespace: "default"}, Hostname: name,
		LogDirectory: k.dir, Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/kubepods/" + k.id,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
	if edit != nil {
		edit(config)
	}
	return must(k.RunPodSandbox(k.context(), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: k.handler}))(k.t).PodSandboxId, config
}

// container creates and starts a container with a shell script.
func (k *kubelet) container(pod string, podConfig *cri.PodSandboxConfig, name, script string, edit func(*cri.ContainerConfig)) string {
	k.t.Helper()
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: criImage}, Command: []string{"sh", "-c", script},
		LogPath: name + ".log", Linux: &cri.LinuxContainerConfig{
			Resources:       &cri.LinuxContainerResources{},
			SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: podConfig.Linux.SecurityContext.NamespaceOptions},
		},
	}
	if edit != nil {
		edit(config)
	}
	id := must(k.CreateContainer(k.context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: podConfig}))(k.t).ContainerId
	must(k.StartContainer(k.context(), &cri.StartContainerRequest{ContainerId: id}))(k.t)
	return id
}

// output runs a container to its end and returns what it wrote.
func (k *kubelet) output(pod string, podConfig *cri.PodSandboxConfig, name, script string, edit func(*cri.ContainerConfig)) string {
	k.t.Helper()
	id := k.container(pod, podConfig, name, script, edit)
	if status := k.ended(id); status.ExitCode != 0 {
		k.t.Errorf("%s: exit code %d, %s", name, status.ExitCode, status.Message)
	}
	text, err := os.ReadFile(filepath.Join(k.dir, name+".log"))
	if err != nil {
		k.t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) { // TIME STREAM TAG TEXT
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			out.WriteString(fields[3])
		}
	}
	must(k.RemoveContainer(k.context(), &cri.RemoveContainerRequest{ContainerId: id}))(k.t)
	return out.String()
}

func (k *kubelet) status(id string) *cri.ContainerStatus {
	k.t.Helper()
	return must(k.ContainerStatus(k.context(), &cri.ContainerStatusRequest{ContainerId: id}))(k.t).Status
}

// ended waits for a container's end.
func (k *kubelet) ended(id string) *cri.ContainerStatus {
	k.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if status := k.status(id); status.State == cri.ContainerState_CONTAINER_EXITED {
			return status
		}
		time.Sleep(50 * time.Millisecond)
	}
	k.t.Fatalf("container %s does not end", id)
	return nil
}

// exec runs a script in a container, and checks its exit code and that its output has a text.
func (k *kubelet) exec(id string, code int32, text, script string) {
	k.t.Helper()
	answer := must(k.ExecSync(k.context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 20}))(k.t)
	if out := string(answer.Stdout) + string(answer.Stderr); answer.ExitCode != code || !strings.Contains(out, text) {
		k.t.Errorf("%s: exit code %d, want %d; output %q, want %q", script, answer.ExitCode, code, out, text)
	}
}

func (k *kubelet) remove(pod string) {
	k.t.Helper()
	_, err := k.StopPodSandbox(k.context(), &cri.StopPodSandboxRequest{PodSandboxId: pod})
	if err == nil {
		_, err = k.RemovePodSandbox(k.context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
	}
	if err != nil {
		k.t.Errorf("remove pod %s: %v", pod, err)
	}
}

// limit is a script that shows a cgroup's limit, v1 or v2.
func limit(v1, v2 string) string {
	return "cat /sys/fs/cgroup/" + v1 + " 2>/dev/null || cat /sys/fs/cgroup/" + v2
}
