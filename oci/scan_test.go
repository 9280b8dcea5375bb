package oci

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// hostWord is in the environment of the test's process and in a file of the host, and nowhere in a container.
const hostWord = "GANTRY-TEST-OF-THE-HOST"

// TestScanner: a container that looks at all processes it sees, with CAP_SYS_PTRACE, finds nothing of the host's in those
// that come in, on every way in: no file, environment, memory, descriptor, namespace, cgroup, and no more capabilities than
// the container's.
func TestScanner(t *testing.T) {
	const word = "GANTRY_TEST_WORD"
	if os.Getenv(word) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestScanner$", "-test.v")
		cmd.Env = append(os.Environ(), word+"="+hostWord)
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestScanner")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	var all, most []string
	for i, c := range Capabilities() {
		if ownCapabilities()&(1<<i) == 0 {
			continue
		}
		all = append(all, c)
		if c != "CAP_SYS_ADMIN" {
			most = append(most, c)
		}
	}
	for name, kind := range map[string]struct {
		caps   []string
		change func(*bundle)
	}{
		"debugger":       {[]string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_PTRACE"}, func(*bundle) {}},
		"most rights":    {most, func(*bundle) {}},
		"all rights":     {all, func(*bundle) {}},
		"user namespace": {all, mapped(t)},
	} {
		t.Run(name, func(t *testing.T) {
			rounds = 10
			if name == "debugger" {
				rounds = 50
			}
			change := func(b *bundle) {
				kind.change(b)
				b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: kind.caps, Effective: kind.caps, Permitted: kind.caps}
			}
			seen := 0
			for way, enter := range waysIn {
				t.Run(way, func(t *testing.T) {
					report := scanned(t, change, func(s *sleeper, p *Process) { enter(t, s, p, change) })
					if way == byOlderKernel { // the helper's, which a filter keeps from using either
						report = regexp.MustCompile(`(?m)^FOUND (descriptor of anon_inode:.fscontext|more capabilities).*\n`).ReplaceAllString(report, "")
					}
					if strings.Contains(report, "FOUND") || !strings.Contains(report, "looked at: ") {
						t.Errorf("the scanner says\n%s", report)
					}
					_, waiting, _ := strings.Cut(report, "of the runtime: ")
					n, err := strconv.Atoi(strings.TrimSpace(waiting))
					if err != nil {
						t.Errorf("the scanner says\n%s", report)
					}
					seen += n
				})
			}
			// What is hidden from a user namespace cannot be told from what is not there.
			if seen == 0 && name != "user namespace" {
				t.Error("the scanner was too slow: it saw no process before it executed its program")
			}
		})
	}
}

// scanned runs a scanner in a container while something comes into it, and returns what it says.
func scanned(t *testing.T, change func(*bundle), during func(*sleeper, *Process)) string {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(hostWord), 0o644); err != nil {
		t.Fatal(err)
	}
	b := newBundle(t, "scan", secret, hostWord)
	for _, kind := range []string{"mnt", "net", "ipc", "uts", "cgroup"} {
		id, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		b.spec.Process.Args = append(b.spec.Process.Args, id)
	}
	change(b)
	c, p, r := b.start(t)
	defer r.Close()
	defer b.end(t, c, p)
	ready := make([]byte, len("ready\n"))
	if _, err := r.Read(ready); err != nil {
		t.Fatal(err)
	}
	during(&sleeper{b, c}, p)
	if err := c.Kill(unix.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := text.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

const byOlderKernel = "pid namespace, by an older kernel"

// rounds is how often each way is gone; exec, of which most can go wrong, four times as often.
var rounds int

// waysIn are how processes come into a container that runs.
var waysIn = map[string]func(t *testing.T, s *sleeper, p *Process, change func(*bundle)){
	"exec": func(t *testing.T, s *sleeper, _ *Process, _ func(*bundle)) {
		s.execMany(t, 4*rounds, func(*specs.Process) {})
	},
	"exec of a user": func(t *testing.T, s *sleeper, _ *Process, _ func(*bundle)) {
		s.execMany(t, 2*rounds, func(p *specs.Process) {
			p.User = specs.User{UID: 12, GID: 34}
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 1000, Hard: 1000}}
			p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}
		})
	},
	"exec under a filter": func(t *testing.T, s *sleeper, _ *Process, _ func(*bundle)) {
		spec := *s.container.known.decoded
		linux := *spec.Linux
		linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"clone3", "mknod"}, Action: specs.ActErrno}}}
		spec.Linux = &linux
		s.container.known.decoded = &spec
		s.execMany(t, rounds, func(*specs.Process) {})
		s.execMany(t, rounds, func(p *specs.Process) { p.NoNewPrivileges = true })
	},
	"exec that fails": func(t *testing.T, s *sleeper, _ *Process, _ func(*bundle)) {
		for range rounds {
			if _, _, err := s.exec(t, s.container, func(p *specs.Process) { p.Args = []string{"/nothing"} }); !errors.Is(err, unix.ENOENT) {
				t.Error(err)
			}
		}
	},
	"terminal": func(t *testing.T, s *sleeper, _ *Process, _ func(*bundle)) {
		for range rounds {
			process := *s.spec.Process
			process.Terminal, process.Args = true, []string{"probe", "exit", "0"}
			var master *os.File
			x, err := s.container.Exec(t.Context(), &process, Stdio{Console: func(f *os.File) error { master = f; return nil }})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := spawn.Reap(x.Pidfd); err != nil {
				t.Error(err)
			}
			if err := errors.Join(master.Close(), x.Pidfd.Close()); err != nil {
				t.Error(err)
			}
		}
	},
	"pid namespace": func(t *testing.T, _ *sleeper, p *Process, change func(*bundle)) {
		for range rounds / 2 {
			second := sharing(t, p, change, specs.PIDNamespace)
			second.output(t)
		}
		seesOthers(t, p, change)
	},
	byOlderKernel: func(t *testing.T, s *sleeper, p *Process, change func(*bundle)) {
		set := setPIDNamespace
		defer func() { setPIDNamespace = set }()
		asked := 0
		setPIDNamespace = func(int, int) error {
			asked++
			return unix.EINVAL
		}
		for range rounds / 2 {
			second := sharing(t, p, change, specs.PIDNamespace)
			second.output(t)
		}
		seesOthers(t, p, change)
		if asked != rounds/2+1 {
			t.Errorf("the kernel was asked %d times", asked)
		}
	},
	"all namespaces": func(t *testing.T, _ *sleeper, p *Process, change func(*bundle)) {
		for range rounds / 2 {
			second := sharing(t, p, change, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace)
			second.output(t)
		}
	},
	"created": func(t *testing.T, _ *sleeper, p *Process, change func(*bundle)) {
		second := sharing(t, p, change, specs.PIDNamespace)
		for range rounds / 2 {
			c, sp, err := second.lib.Create(t.Context(), "second", CreateOptions{Bundle: second.dir, Spec: second.spec})
			if err != nil {
				t.Fatal(err)
			}
			second.end(t, c, sp)
		}
	},
	"hooks": func(t *testing.T, _ *sleeper, p *Process, change func(*bundle)) {
		for range rounds / 2 {
			second := sharing(t, p, change, specs.PIDNamespace)
			second.setHook("createContainer", specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "read x; exit 0"}})
			second.setHook("startContainer", specs.Hook{Path: "/bin/probe", Args: []string{"probe", "exit", "0"}})
			second.output(t)
		}
	},
}

// seesOthers: the proc file system of a container that shares a pid namespace shows that one, mounted as asked for.
func seesOthers(t *testing.T, p *Process, change func(*bundle)) {
	t.Helper()
	second := sharing(t, p, change, specs.PIDNamespace)
	second.spec.Mounts[0].Options = append(second.spec.Mounts[0].Options, "subset=pid")
	second.spec.Linux.MaskedPaths, second.spec.Linux.ReadonlyPaths = nil, nil
	second.spec.Process.Args = []string{"probe", "cat", "/proc/1/comm", "/proc/self/comm", "/proc/self/mountinfo", "/proc/uptime"}
	text, _ := second.output(t)
	mounted := ""
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/proc" {
			mounted = strings.Join(f[5:], " ")
		}
	}
	if !strings.HasPrefix(text, "probe\nprobe\n") || !strings.HasSuffix(text, "/proc/uptime: no such file or directory\n") ||
		!strings.HasPrefix(mounted, "rw,nosuid,nodev,noexec,relatime ") || !strings.HasSuffix(mounted, "- proc proc rw,subset=pid") {
		t.Errorf("it sees\n%s", text)
	}
}

// execMany executes a program that ends at once, several at a time.
func (s *sleeper) execMany(t *testing.T, times int, change func(*specs.Process)) {
	t.Helper()
	var all sync.WaitGroup
	const together = 5
	for range together {
		all.Go(func() {
			for range times / together {
				if text, status, err := s.exec(t, s.container, func(p *specs.Process) { p.Args = []string{"probe", "exit", "0"}; change(p) }); err != nil || status != 0 {
					t.Errorf("status %v: %v: %s", status, err, text)
					return
				}
			}
		})
	}
	all.Wait()
}

// sharing is a container that joins namespaces of another one by their paths.
func sharing(t *testing.T, p *Process, change func(*bundle), kinds ...specs.LinuxNamespaceType) *bundle {
	t.Helper()
	b := newBundle(t, "exit", "0")
	if err := os.Chmod(filepath.Dir(b.dir), 0o755); err != nil { // the root of a user namespace must get there
		t.Fatal(err)
	}
	change(b)
	b.spec.Process.Args = []string{"probe", "exit", "0"}
	b.spec.Linux.CgroupsPath += "-second"
	files := map[specs.LinuxNamespaceType]string{
		specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.UserNamespace: "user",
	}
	for i := range b.spec.Linux.Namespaces {
		n := &b.spec.Linux.Namespaces[i]
		for _, kind := range append(kinds, specs.UserNamespace) {
			if n.Type == kind {
				n.Path = fmt.Sprintf("/proc/%d/ns/%s", p.Pid, files[kind])
			}
		}
	}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = nil, nil
	if n, shared := (&builder{spec: b.spec}).has(specs.UTSNamespace); shared && n.Path != "" {
		b.spec.Hostname = ""
	}
	return b
}
