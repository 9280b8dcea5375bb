package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

var probe string // the compiled program of test containers

func TestMain(m *testing.M) {
	if os.Getenv(attackVariable) != "" {
		os.Exit(attack())
	}
	if left := os.Getenv(executing); left != "" {
		executeAgain(left)
		os.Exit(0)
	}
	if os.Getenv(rdtVictim) != "" { // its bundle is made
		os.Exit(m.Run())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gantry-oci-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	probe = filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the probe: %v\n%s", err, out)
		return 1
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Setenv("TMPDIR", dir)); err != nil { // so that mounts of ours are told from others'
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	for line := range strings.Lines(mountTable()) {
		if strings.Contains(line, dir) {
			fmt.Fprintf(os.Stderr, "a mount is left: %s", line)
			code = 1
		}
	}
	parent := fmt.Sprintf("/gantry-oci-test-%d", os.Getpid())
	if g, err := cgroup.Open(parent); err == nil {
		if err := g.Delete(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

func mountTable() string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return string(text)
}

// bundle is a test container's configuration with a root of one layer.
type bundle struct {
	dir  string
	spec *specs.Spec
	lib  *Runtime
}

func newBundle(t testing.TB, args ...string) *bundle {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"rootfs/bin", "rootfs/etc", "rootfs/tmp", "rootfs/proc", "rootfs/sys", "rootfs/dev", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(probe, filepath.Join(dir, "rootfs/bin/probe")); err != nil {
		text, err := os.ReadFile(probe)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "rootfs/bin/probe"), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/etc/passwd"), []byte("root:x:0:0::/root:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"}
	return &bundle{dir: dir, lib: &Runtime{Root: filepath.Join(dir, "state")}, spec: &specs.Spec{
		Version: specs.Version, Hostname: "probe", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: append([]string{"probe"}, args...), Env: []string{"PATH=/sbin:/bin", "A=b"}, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: fmt.Sprintf("/gantry-oci-test-%d/%s", os.Getpid(), strings.NewReplacer("/", "_", ":", "_").Replace(t.Name())),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/no-such"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/no-such"},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	}}
}

// overlay is the bundle's root as containers of the engine have it.
func (b *bundle) overlay() []Mount {
	return []Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + b.dir + "/rootfs", "upperdir=" + b.dir + "/upper", "workdir=" + b.dir + "/work", "volatile",
	}}}
}

// start creates and starts the container and returns its output as it comes.
func (b *bundle) start(t testing.TB, change ...func(*CreateOptions)) (*Container, *Process, *os.File) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(b.dir, "work/work")); err != nil { // a volatile overlay is mounted once
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	o := CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay(), Stdio: Stdio{Stdout: w, Stderr: w}}
	for _, f := range change {
		f(&o)
	}
	c, p, err := b.lib.Create(t.Context(), "probe", o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, p, r
}

// output runs the container to its end.
func (b *bundle) output(t testing.TB, change ...func(*CreateOptions)) (string, int) {
	t.Helper()
	c, p, r := b.start(t, change...)
	defer r.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	status, err := spawn.Reap(p.Pidfd)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Delete(t.Context(), false), p.Pidfd.Close()); err != nil {
		t.Fatal(err)
	}
	return text.String(), status.ExitStatus()
}

type report struct {
	UID, GID, Pid                                    int
	Groups                                           []int
	Env, Args                                        []string
	Cwd, Hostname, Status, Limits, Mountinfo, Cgroup string
	OOMScoreAdj                                      string `json:"oom_score_adj"`
	UIDMap                                           string `json:"uid_map"`
	NS                                               map[string]string
}

func (b *bundle) report(t *testing.T, change ...func(*CreateOptions)) report {
	t.Helper()
	text, code := b.output(t, change...)
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil || code != 0 {
		t.Fatalf("exit %d: %v: %s", code, err, text)
	}
	return r
}

// field is a line of /proc/self/status.
func (r report) field(name string) string {
	for line := range strings.Lines(r.Status) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestWhatTheProgramSees(t *testing.T) {
	b := newBundle(t)
	adj, umask := 123, uint32(0o027)
	p := b.spec.Process
	p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 9}, Umask: &umask}
	p.OOMScoreAdj, p.Cwd, p.NoNewPrivileges = &adj, "/tmp", true
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 333, Hard: 444}}
	p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_KILL"}}
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
	r := b.report(t)
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"uid", r.UID, 1000},
		{"gid", r.GID, 1001},
		{"pid", r.Pid, 1},
		{"cwd", r.Cwd, "/tmp"},
		{"hostname", r.Hostname, "probe"},
		{"groups", fmt.Sprint(r.Groups), "[7 9]"},
		{"env", fmt.Sprint(r.Env), "[PATH=/sbin:/bin A=b HOME=/]"},
		{"oom_score_adj", strings.TrimSpace(r.OOMScoreAdj), "123"},
		{"umask", r.field("Umask"), "0027"},
		{"no_new_privs", r.field("NoNewPrivs"), "1"},
		{"bounding set", r.field("CapBnd"), "0000000000000021"},
		{"effective set", r.field("CapEff"), "0000000000000000"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
	if !strings.Contains(r.Limits, " 444 ") { // a Go program raises its soft limit
		t.Errorf("limits:\n%s", r.Limits)
	}
	for _, kind := range []string{"pid", "net", "ipc", "uts", "mnt", "cgroup"} {
		if own, err := os.Readlink("/proc/self/ns/" + kind); err != nil || r.NS[kind] == own || r.NS[kind] == "" {
			t.Errorf("%s namespace: %q, the host's is %q (%v)", kind, r.NS[kind], own, err)
		}
	}
	if strings.Contains(r.Cgroup, "gantry-oci-test") {
		t.Errorf("the cgroup namespace shows the host's path:\n%s", r.Cgroup)
	}
	if strings.Contains(r.Mountinfo, "ext4") && strings.Count(r.Mountinfo, " / / ") > 1 {
		t.Errorf("the old root is in sight:\n%s", r.Mountinfo)
	}
}

func TestRootOfADirectory(t *testing.T) {
	b := newBundle(t, "ls", "/", "/dev")
	b.spec.Root.Readonly = true
	text, code := b.output(t, func(o *CreateOptions) { o.Rootfs = nil })
	for _, want := range []string{"bin", "etc", "null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "stdout", "stderr", "pts", "shm", "mqueue"} {
		if !slices.Contains(strings.Fields(text), want) {
			t.Errorf("exit %d: no %s in %q", code, want, strings.Fields(text))
		}
	}
	b.spec.Process.Args = []string{"probe", "write", "/x", "y"}
	if text, _ := b.output(t, func(o *CreateOptions) { o.Rootfs = nil }); !strings.Contains(text, "read-only file system") {
		t.Errorf("the root was written to: %q", text)
	}
	b.spec.Root.Readonly = false
	if text, _ := b.output(t, func(o *CreateOptions) { o.Rootfs, o.NoPivot = nil, true }); text != "" {
		t.Errorf("no pivot: %q", text)
	}
}

func TestMountsAndProtection(t *testing.T) {
	b := newBundle(t, "cat", "/data/file", "/etc/single", "/ro/file", "/proc/keys")
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("bound\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/data", Type: "bind", Source: source, Options: []string{"rbind", "rprivate"}},
		specs.Mount{Destination: "/etc/single", Type: "bind", Source: filepath.Join(source, "file"), Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: source, Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/scratch/deep", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}})
	if text, _ := b.output(t); text != "bound\nbound\nbound\n" {
		t.Errorf("binds and masks: %q", text)
	}
	for _, path := range []string{"/ro/x", "/proc/sys/kernel/hostname", "/sys/x", "/sys/fs/cgroup/x", "/etc/single"} {
		b.spec.Process.Args = []string{"probe", "write", path, "x"}
		if text, _ := b.output(t); !strings.Contains(text, "read-only file system") {
			t.Errorf("%s was written to: %q", path, text)
		}
	}
	b.spec.Process.Args = []string{"probe", "write", "/scratch/deep/x", "x"}
	if text, _ := b.output(t); text != "" {
		t.Errorf("tmpfs: %q", text)
	}
	b.spec.Process.Args = []string{"probe", "ls", "/sys/fs/cgroup", "/sys/firmware"}
	if text, _ := b.output(t); !strings.Contains(text, "memory") {
		t.Errorf("cgroup mount: %q", text)
	}
}

// TestLinksDoNotLeadOut lets the image's links point to the host: mounts must land in the container.
func TestLinksDoNotLeadOut(t *testing.T) {
	outside := t.TempDir()
	b := newBundle(t, "cat", "/trap/file")
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(b.dir, "rootfs/trap")); err != nil {
		t.Fatal(err)
	}
	for path, link := range map[string]string{"etc/hosts": "/hosts", "etc/resolv.conf": "/new/resolv.conf", "etc/mtab": "/mtab"} {
		writeTree(t, b.dir+"/rootfs", map[string]string{path: "->" + outside + link})
	}
	source := t.TempDir()
	writeTree(t, source, map[string]string{"added": "by the engine"})
	for _, file := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/mtab", "/trap/secret"} {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: file, Type: "bind", Source: source + "/added", Options: []string{"bind"}})
	}
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/made/by/us", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/trap/made/by/us", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/trap/bound", Type: "bind", Source: source, Options: []string{"bind"}})
	if text, _ := b.output(t); !strings.Contains(text, "no such file") {
		t.Errorf("the host was read: %q", text)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 || readFile(t, outside+"/file") != "host" {
		t.Errorf("made outside: %v (%v)", entries, err)
	}
	b.spec.Process.Args = []string{"probe", "cat", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab", "/trap/secret", "/trap/bound/added"}
	if text, _ := b.output(t); text != strings.Repeat("by the engine", 5) {
		t.Errorf("what was added is not there: %q", text)
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "work/work")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "rootfs/proc")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/tmp", filepath.Join(b.dir, "rootfs/proc")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.lib.Create(t.Context(), "trap", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()}); err == nil || !strings.Contains(err.Error(), "/proc must be mounted on ordinary directory") {
		t.Errorf("a linked /proc: %v", err)
	}
}

// TestNoDescriptorLeadsOut names every descriptor that may be open before the program is executed as the working
// directory, and as the way to a mount point: neither may reach the host (CVE-2024-21626).
func TestNoDescriptorLeadsOut(t *testing.T) {
	host, source := t.TempDir(), t.TempDir()
	secret := filepath.Join(host, "secret")
	if err := os.WriteFile(secret, []byte("HOST"), 0o600); err != nil {
		t.Fatal(err)
	}
	for n := 3; n < 40; n++ {
		b := newBundle(t, "cat", strings.TrimPrefix(secret, "/"))
		b.spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", n)
		if c, _, err := b.lib.Create(t.Context(), "cwd", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()}); err == nil {
			t.Errorf("descriptor %d was taken for the working directory", n)
			if err := c.Delete(t.Context(), true); err != nil {
				t.Error(err)
			}
		}
		b = newBundle(t, "exit", "0")
		if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d%s", n, host), filepath.Join(b.dir, "rootfs/data")); err != nil {
			t.Fatal(err)
		}
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/data/made", Type: "bind", Source: source, Options: []string{"bind"}})
		if c, _, err := b.lib.Create(t.Context(), "mount", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()}); err == nil {
			t.Errorf("descriptor %d was taken for a mount point", n)
			if err := c.Delete(t.Context(), true); err != nil {
				t.Error(err)
			}
		}
	}
	if entries, err := os.ReadDir(host); err != nil || len(entries) != 1 {
		t.Errorf("the host's directory has %v (%v)", entries, err)
	}
}

// TestWaitingProcessIsHidden: a process of a shared pid namespace must not reach into one that is being made (CVE-2016-9962).
func TestWaitingProcessIsHidden(t *testing.T) {
	a := newBundle(t, "sleep")
	c, p, out := a.start(t)
	defer out.Close()
	b := newBundle(t, "exit", "0")
	b.spec.Linux.CgroupsPath += "-b"
	b.spec.Linux.Namespaces[0].Path = fmt.Sprintf("/proc/%d/ns/pid", p.Pid)
	waiting, second, err := b.lib.Create(t.Context(), "waiting", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", second.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, inside, _ := strings.Cut(string(status), "NSpid:")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	process := *a.spec.Process
	process.Args = []string{"probe", "cat", "/proc/" + strings.Fields(inside)[1] + "/exe"}
	x, err := c.Exec(t.Context(), &process, Stdio{Stdout: w, Stderr: w})
	if cerr := w.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := text.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text.String(), "error: ") {
		t.Errorf("the host's program was read: %.20q", text.String())
	}
	for _, end := range []func() error{
		func() error { _, err := spawn.Reap(x.Pidfd); return err },
		func() error { return waiting.Delete(t.Context(), true) },
		func() error { _, err := spawn.Reap(second.Pidfd); return err },
		func() error { return c.Delete(t.Context(), true) },
		func() error { _, err := spawn.Reap(p.Pidfd); return err },
	} {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
}

func TestUserAndTimeNamespace(t *testing.T) {
	b := newBundle(t)
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	b.spec.Linux.GIDMappings = b.spec.Linux.UIDMappings
	if err := filepath.WalkDir(b.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/state") {
			return err
		}
		return os.Lchown(path, 100000, 100000)
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(probe, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := b.report(t)
	if r.UID != 0 || !strings.Contains(r.UIDMap, "100000") {
		t.Errorf("uid %d, map %q", r.UID, r.UIDMap)
	}
	for _, kind := range []string{"user", "time"} {
		if own, err := os.Readlink("/proc/self/ns/" + kind); err != nil || r.NS[kind] == own {
			t.Errorf("%s namespace: %q, the host's is %q (%v)", kind, r.NS[kind], own, err)
		}
	}
}

func TestLifeCycle(t *testing.T) {
	b := newBundle(t, "sleep")
	c, p, r := b.start(t)
	defer r.Close()
	status := func() string {
		s, err := c.State()
		if err != nil {
			t.Fatal(err)
		}
		return string(s.Status)
	}
	if got := status(); got != "running" {
		t.Errorf("status %s", got)
	}
	if err := c.Start(t.Context()); err == nil {
		t.Error("it was started twice")
	}
	if err := c.Delete(t.Context(), false); err == nil {
		t.Error("a running container was deleted")
	}
	if _, _, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec}); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second of the same id: %v", err)
	}
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	if got := status(); got != "paused" {
		t.Errorf("status %s", got)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64)}}); err != nil {
		t.Error(err)
	}
	again, err := b.lib.Load("probe") // as another process would
	if err != nil {
		t.Fatal(err)
	}
	if s, err := again.State(); err != nil || s.Status != specs.StateRunning || s.Pid != p.Pid {
		t.Errorf("another process sees %+v (%v)", s, err)
	}
	if err := c.Kill(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if ws, err := spawn.Reap(p.Pidfd); err != nil || ws.Signal() != unix.SIGKILL {
		t.Errorf("it ended by %v (%v)", ws.Signal(), err)
	}
	if got := status(); got != "stopped" {
		t.Errorf("status %s", got)
	}
	if err := c.Kill(unix.SIGTERM, false); !errors.Is(err, ErrNotRunning) {
		t.Errorf("kill of a stopped container: %v", err)
	}
	for range 2 {
		if err := c.Delete(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
	if _, err := b.lib.Load("probe"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("load after delete: %v", err)
	}
}

func TestExec(t *testing.T) {
	b := newBundle(t, "sleep")
	c, p, out := b.start(t)
	defer out.Close()
	defer func() {
		if err := c.Delete(t.Context(), true); err != nil {
			t.Error(err)
		}
		if _, err := spawn.Reap(p.Pidfd); err != nil {
			t.Error(err)
		}
	}()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	process := *b.spec.Process
	process.Args, process.User = []string{"probe"}, specs.User{UID: 5, GID: 6}
	x, err := c.Exec(t.Context(), &process, Stdio{Stdout: w})
	if cerr := w.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.NewDecoder(r).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if _, err := spawn.Reap(x.Pidfd); err != nil {
		t.Fatal(err)
	}
	if got.UID != 5 || got.GID != 6 || got.Pid < 2 || got.Hostname != "probe" {
		t.Errorf("uid %d, gid %d, pid %d, host name %s", got.UID, got.GID, got.Pid, got.Hostname)
	}
	process.Args = []string{"missing"}
	if _, err := c.Exec(t.Context(), &process, Stdio{}); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), `exec: "missing": executable file not found in $PATH`) {
		t.Errorf("a missing program: %v", err)
	}
	process.Args = []string{"probe", "exit", "9"}
	x, err = c.Exec(t.Context(), &process, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if ws, err := spawn.Reap(x.Pidfd); err != nil || ws.ExitStatus() != 9 {
		t.Errorf("exit %d (%v)", ws.ExitStatus(), err)
	}
}

func TestTerminal(t *testing.T) {
	b := newBundle(t, "cat", "/proc/self/fdinfo/0", "/dev/console-no-such")
	b.spec.Process.Terminal, b.spec.Process.ConsoleSize = true, &specs.Box{Height: 10, Width: 40}
	var master *os.File
	c, p, r := b.start(t, func(o *CreateOptions) {
		o.Stdio = Stdio{Console: func(f *os.File) error { master = f; return nil }}
	})
	defer r.Close()
	defer master.Close()
	size, err := unix.IoctlGetWinsize(int(master.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row != 10 || size.Col != 40 {
		t.Errorf("size %+v (%v)", size, err)
	}
	var text bytes.Buffer
	_, _ = text.ReadFrom(master) // ends with EIO
	if !strings.Contains(text.String(), "pos:") || !strings.Contains(text.String(), "\r\n") {
		t.Errorf("the terminal showed %q", text.String())
	}
	if _, err := spawn.Reap(p.Pidfd); err != nil {
		t.Error(err)
	}
	if err := c.Delete(t.Context(), false); err != nil {
		t.Error(err)
	}
}

func TestPreservedDescriptors(t *testing.T) {
	b := newBundle(t, "fds")
	extra, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	text, _ := b.output(t, func(o *CreateOptions) { o.PreserveFDs = []*os.File{extra} })
	if got := strings.Fields(text); !slices.Equal(got[:4], []string{"0", "1", "2", "3"}) || len(got) > 5 {
		t.Errorf("descriptors %v", got)
	}
}

// TestBadInput: each is refused with a word about what is wrong, and nothing is left.
func TestBadInput(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   string
	}{
		"missing program": {func(s *specs.Spec) { s.Process.Args = []string{"missing"} }, `exec: "missing": executable file not found in $PATH`},
		"missing path":    {func(s *specs.Spec) { s.Process.Args = []string{"/no/such"} }, `exec: "/no/such": no such file or directory`},
		"not executable":  {func(s *specs.Spec) { s.Process.Args = []string{"/etc/passwd"} }, "permission denied"},
		"no args":         {func(s *specs.Spec) { s.Process.Args = nil }, "process.args"},
		"no linux":        {func(s *specs.Spec) { s.Linux = nil }, "linux must be set"},
		"relative cwd":    {func(s *specs.Spec) { s.Process.Cwd = "x" }, "absolute"},
		"missing cwd": {
			func(s *specs.Spec) { s.Process.Cwd = "/proc/no-such" },
			`chdir to cwd ("/proc/no-such") set in config.json failed: no such file or directory`,
		},
		"unknown rlimit":    {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}} }, "RLIMIT_FUN"},
		"host's sysctl":     {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} }, "kernel.panic"},
		"unknown namespace": {func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "dream" }, "dream"},
		"namespace twice":   {func(s *specs.Spec) { s.Linux.Namespaces[0].Type = specs.MountNamespace }, "twice"},
		"missing namespace": {func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/no/such" }, "/no/such"},
		"missing source": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such", Options: []string{"bind"}})
		}, "/no/such"},
		"unknown file system": {func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "dreamfs"}) }, "mount dreamfs on /x: no such device"},
		"bad mount data":      {func(s *specs.Spec) { s.Mounts[1].Options = []string{"size=fun"} }, "mount tmpfs on /dev: invalid argument"},
		"NUL in argument":     {func(s *specs.Spec) { s.Process.Args = []string{"probe", "a\x00b"} }, "NUL"},
		"AppArmor":            {func(s *specs.Spec) { s.Process.ApparmorProfile = "docker-default" }, "AppArmor"},
		"limit":               {func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "4000"} }, "cpu.cpus"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t)
			c.change(b.spec)
			_, _, err := b.lib.Create(t.Context(), "bad", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := b.lib.Load("bad"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state is left: %v", err)
			}
			if b.spec.Linux != nil {
				if _, err := cgroup.Open(b.spec.Linux.CgroupsPath); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("a cgroup is left: %v", err)
				}
			}
		})
	}
	for _, id := range []string{"", ".", "..", "a/b", "a b"} {
		b := newBundle(t)
		if _, _, err := b.lib.Create(t.Context(), id, CreateOptions{Bundle: b.dir, Spec: b.spec}); err == nil {
			t.Errorf("id %q was taken", id)
		}
	}
}

func TestHooks(t *testing.T) {
	b := newBundle(t, "exit", "0")
	trace := filepath.Join(t.TempDir(), "trace")
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >/dev/null; echo " + name + " >> " + trace}}}
	}
	b.spec.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), Poststart: hook("poststart"), Poststop: hook("poststop")}
	b.output(t)
	got, err := os.ReadFile(trace)
	if err != nil || strings.Join(strings.Fields(string(got)), " ") != "createRuntime createContainer poststart poststop" {
		t.Errorf("%q (%v)", got, err)
	}
	b = newBundle(t)
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
	if _, _, err := b.lib.Create(t.Context(), "bad", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()}); err == nil || !strings.Contains(err.Error(), "hook /bin/false") {
		t.Errorf("a failing hook: %v", err)
	}
}

func TestPlanIsPrinted(t *testing.T) {
	b := newBundle(t)
	plan, err := Compile(b.dir, b.spec, b.overlay())
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if _, err := plan.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mount proc on /proc", "pivot_root(\".\", \".\")", "mask /proc/keys", "execve(\"/bin/probe\", [\"probe\"]"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}

func BenchmarkCreateStart(b *testing.B) {
	bundle := newBundle(b, "exit", "0")
	for range b.N {
		bundle.output(b)
	}
}
