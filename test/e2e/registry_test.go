package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// debianRegistry serves a Debian that debootstrap made, with nginx, from Debian's docker-registry on loopback; skopeo pushed
// it there, with two commands. It returns the registry's address.
func debianRegistry(t *testing.T) string {
	t.Helper()
	archive := os.Getenv("GANTRY_TEST_DEBIAN")
	if archive == "" {
		t.Fatal("set GANTRY_TEST_DEBIAN to what test/prepare.sh makes, bin/test/debian.tar")
	}
	dir := t.TempDir()
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, "tar", "-C", rootfs, "-xpf", archive)
	address := serveRegistry(t, filepath.Join(dir, "registry"))
	push(t, dir, rootfs, address+"/debian:12", "bash")
	push(t, dir, rootfs, address+"/nginx:1", "nginx", "-g", "daemon off;")
	return address
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// push packs a directory as an image of one layer and pushes it.
func push(t *testing.T, dir, rootfs, name string, command ...string) {
	t.Helper()
	layout := filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(name))
	if err := writeLayout(layout, rootfs, command); err != nil {
		t.Fatal(err)
	}
	tool(t, "skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", "oci:"+layout, "docker://"+name)
}

func serveRegistry(t *testing.T, dir string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", dir, address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, "the registry answers", func() bool {
		r, err := http.Get("http://" + address + "/v2/")
		if err != nil {
			return false
		}
		return r.Body.Close() == nil && r.StatusCode == http.StatusOK
	})
	return address
}

func TestRealImages(t *testing.T) {
	registry := debianRegistry(t)
	both(t, func(t *testing.T, do func(args ...string) result) {
		debian, nginx := registry+"/debian:12", registry+"/nginx:1"
		must(t, do("pull", debian))
		if got := must(t, do("images", "--format", "{{.Repository}}:{{.Tag}}")); !strings.Contains(got, debian) {
			t.Errorf("images: %q", got)
		}
		if got := must(t, do("run", "--rm", debian, "sh", "-c", ". /etc/os-release; echo $ID")); got != "debian" {
			t.Errorf("the image is %q", got)
		}
		t.Run("shell", func(t *testing.T) { debianShell(t, clientName(t), debian) })
		t.Run("nginx", func(t *testing.T) { serveNginx(t, do, nginx) })
		must(t, do("rmi", "-f", debian, nginx))
		if r := do("pull", registry+"/none:1"); r.code == 0 || !strings.Contains(r.err, "not found") && !strings.Contains(r.err, "unknown") {
			t.Errorf("an unknown image: exit %d: %s", r.code, r.err)
		}
	})
}

func clientName(t *testing.T) string {
	if strings.Contains(t.Name(), "docker") {
		return "docker"
	}
	return "gantry"
}

// debianShell types into bash on a terminal.
func debianShell(t *testing.T, client, image string) {
	r := terminal(t, client, "tty\nstty size\nexit 5\n", "run", "--rm", "-it", image)
	if r.code != 5 || !strings.Contains(r.out, "/dev/pts/0") {
		t.Errorf("exit %d: %q", r.code, r.out)
	}
}

// serveNginx reaches a published port from loopback and by the host's address, follows the log, and stops it.
func serveNginx(t *testing.T, do func(args ...string) result, image string) {
	id := must(t, do("run", "-d", "-p", "8080", "-p", "127.0.0.1:0:80", image))
	defer do("rm", "-f", id)
	port := must(t, do("port", id, "80/tcp"))
	eventually(t, "nginx serves on loopback", func() bool { return strings.Contains(get(port), "nginx") })
	must(t, do("rm", "-f", id))

	id = must(t, do("run", "-d", "-p", "80", image))
	defer do("rm", "-f", id)
	_, number, err := net.SplitHostPort(strings.Fields(must(t, do("port", id, "80/tcp")))[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", hostAddress(t)} {
		eventually(t, "nginx serves on "+host, func() bool { return strings.Contains(get(net.JoinHostPort(host, number)), "nginx") })
	}
	if got := must(t, do("exec", id, "cat", "/proc/1/comm")); got != "nginx" {
		t.Errorf("the first process is %q", got)
	}
	if r := do("run", "--rm", "-p", number+":80", image, "true"); r.code != 125 || !strings.Contains(r.err, number) {
		t.Errorf("a taken port: exit %d: %s", r.code, r.err)
	}
	must(t, do("stop", id))
	if got := must(t, do("inspect", "-f", "{{.State.ExitCode}}", id)); got != "0" {
		t.Errorf("nginx ended with %s", got)
	}
}

func get(address string) string {
	c := http.Client{Timeout: 5 * time.Second * slowness()}
	r, err := c.Get("http://" + address + "/")
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(bufio.NewReader(r.Body))
	return string(text)
}
