package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLogOptions: what is named goes into every entry, and logs --details shows it.
func TestLogOptions(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		id := must(t, do("run", "-d", "--name", "tagged", "--label", "kept=1", "--label", "not=2", "-e", "A=3", "-e", "AB=4", "-e", "C=5", "--log-opt", "labels=kept",
			"--log-opt", "env=C", "--log-opt", "env-regex=^A", "--log-opt", "tag={{.Name}}/{{.ID}}/{{.ImageName}}", "toolbox", "echo", "hello"))
		defer do("rm", "-f", id)
		must(t, do("wait", id))
		want := "A=3,AB=4,C=5,kept=1,tag=tagged%2F" + id[:12] + "%2Ftoolbox hello"
		if got := must(t, do("logs", "--details", id)); got != want {
			t.Errorf("logs --details: %q, want %q", got, want)
		}
		for _, bad := range []string{"tag={{.Wings}}", "tag={{", "labels-regex=(", "mode=non-blocking", "compress=true", "max-buffer-size=1m"} {
			if r := do("run", "--rm", "--log-opt", bad, "toolbox", "true"); r.code != 125 || !strings.Contains(r.err, strings.SplitN(bad, "=", 2)[0]) {
				t.Errorf("%s: exit %d: %s", bad, r.code, r.err)
			}
		}
	})
}

// TestPortRange publishes one port on any free one of a range, until there is none.
func TestPortRange(t *testing.T) {
	taken := takenBefore(t).Addr().(*net.TCPAddr).Port // a range whose first port is taken
	span := fmt.Sprintf("127.0.0.1:%d-%d:80", taken, taken+1)
	both(t, func(t *testing.T, do func(args ...string) result) {
		id := must(t, do("run", "-d", "-p", span, "toolbox", "sleep", "1000"))
		defer do("rm", "-f", id)
		if got, want := must(t, do("port", id, "80/tcp")), "127.0.0.1:"+strconv.Itoa(taken+1); got != want {
			t.Errorf("it is on %s, want %s", got, want)
		}
		if r := do("run", "--rm", "-p", span, "toolbox", "true"); r.code != 125 || !strings.Contains(r.err, strconv.Itoa(taken)) {
			t.Errorf("a range without a free port: exit %d: %s", r.code, r.err)
		}
	})
}

// TestReadOnlyBinds: a read-only bind is so with all that is mounted below it, unless that is not wanted.
func TestReadOnlyBinds(t *testing.T) {
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", below, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(below, 0); err != nil {
			t.Error(err)
		}
	}()
	source := "type=bind,dst=/x,src=" + dir
	both(t, func(t *testing.T, do func(args ...string) result) {
		for mount, code := range map[string]int{
			source + ",readonly": 1, source + ",readonly,bind-recursive=readonly,bind-propagation=rprivate": 1,
			source + ",readonly,bind-recursive=writable": 0, source: 0,
		} {
			if r := do("run", "--rm", "--mount", mount, "toolbox", "touch", "/x/below/file"); r.code != code {
				t.Errorf("%s: writing below ends with %d, want %d: %s", mount, r.code, code, r.err)
			}
		}
		if r := do("run", "--rm", "-v", dir+":/x:ro", "toolbox", "touch", "/x/below/file"); r.code != 1 {
			t.Errorf("-v: exit %d", r.code)
		}
		if got := must(t, do("run", "--rm", "--mount", source+",bind-recursive=disabled", "toolbox", "ls", "/x/below")); got != "" {
			t.Errorf("a bind of one mount has another: %q", got)
		}
	})
}

// TestSharedMemory: /dev/shm is the host's, or none, as the IPC mode says.
func TestSharedMemory(t *testing.T) {
	file, err := os.CreateTemp("/dev/shm", "gantry-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	both(t, func(t *testing.T, do func(args ...string) result) {
		must(t, do("run", "--rm", "--ipc", "host", "toolbox", "ls", file.Name()))
		if r := do("run", "--rm", "toolbox", "ls", file.Name()); r.code == 0 {
			t.Error("the host's /dev/shm is in every container")
		}
		if r := do("run", "--rm", "--ipc", "none", "toolbox", "sh", "-c", "mount | grep /dev/shm"); r.code == 0 {
			t.Errorf("without IPC there is %q", r.out)
		}
	})
}

// TestDetachOverAPI: the keys leave a terminal by which client ever; the container goes on.
func TestDetachOverAPI(t *testing.T) {
	id := must(t, command("gantry", shared, "run", "-dit", "toolbox"))
	defer command("gantry", shared, "rm", "-f", id)
	for keys, typed := range map[string]string{"": "\x10\x11", "ctrl-a,x": "\x01x"} {
		conn, err := net.Dial("unix", strings.TrimPrefix(shared.host, "unix://"))
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /containers/%s/attach?stream=1&stdin=1&stdout=1&detachKeys=%s HTTP/1.1\r\nHost: gantry\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", id, keys)
		in := bufio.NewReader(conn)
		if r, err := http.ReadResponse(in, nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("attach: %v %v", r, err)
		}
		fmt.Fprint(conn, "echo typed\n"+typed)
		for err = nil; err == nil; {
			_, err = in.ReadByte()
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if os.IsTimeout(err) {
			t.Errorf("the keys %q did not detach", keys)
		}
	}
	if got := must(t, command("gantry", shared, "inspect", "-f", "{{.State.Status}}", id)); got != "running" {
		t.Errorf("the container is %s", got)
	}
}

// TestImagesShare: what a container has of its image is shown as its own.
func TestImagesShare(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		id := must(t, do("create", "-e", "A=1", "--label", "mine=2", "toolbox"))
		defer do("rm", id)
		show := `{{.Config.Cmd}} {{.Config.Env}} {{.Config.WorkingDir}} {{index .Config.Labels "org.opencontainers.image.title"}} {{.Config.Labels.mine}}`
		if got, want := must(t, do("inspect", "-f", show, id)), "[sh] [A=1 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin] / toolbox 2"; got != want {
			t.Errorf("inspect: %q, want %q", got, want)
		}
		if got := must(t, do("ps", "-aq", "--no-trunc", "--filter", "label=org.opencontainers.image.title=toolbox")); got != id {
			t.Errorf("the image's label finds %q, want %q", got, id)
		}
		other := must(t, do("create", "--entrypoint", "", "--label", "org.opencontainers.image.title=x", "toolbox", "true"))
		defer do("rm", other)
		if got := must(t, do("inspect", "-f", `{{.Config.Entrypoint}}{{.Config.Cmd}}{{index .Config.Labels "org.opencontainers.image.title"}}`, other)); got != "[][true]x" {
			t.Errorf("inspect: %q", got)
		}
	})
}

// takenBefore listens on a port of loopback whose next one is free.
func takenBefore(t *testing.T) net.Listener {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port+1))
		if err == nil {
			if err := next.Close(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return l
		}
		_ = l.Close()
	}
}
