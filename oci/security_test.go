package oci

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// attackVariable makes this program, executed in a container by /proc/self/exe, the attacker of CVE-2019-5736: it
// keeps its own file open and lets another program open it again for writing.
const attackVariable = "GANTRY_OCI_TEST_ATTACK"

func attack() int {
	fd, err := unix.Open("/proc/self/exe", unix.O_PATH, 0)
	if err != nil {
		fmt.Println("open /proc/self/exe:", err)
		return 1
	}
	if _, err := unix.Open("/proc/self/exe", unix.O_WRONLY, 0); err != nil {
		fmt.Println("own file:", err)
	}
	err = unix.Exec("/bin/probe", []string{"probe", "overwrite", fmt.Sprintf("/proc/self/fd/%d", fd)}, nil)
	fmt.Println("execute the probe:", err)
	return 1
}

// TestRuntimeIsNotOverwritten: a container that executes the runtime's program cannot write to its file, as its first
// process or by exec, directly or as a script's interpreter (CVE-2019-5736).
func TestRuntimeIsNotOverwritten(t *testing.T) {
	sum := func() [32]byte {
		text, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(text)
	}
	before := sum()
	for _, program := range []string{"/proc/self/exe", "/bin/script"} {
		for _, prepare := range []func(*bundle){func(*bundle) {}, mapped(t)} {
			b := newBundle(t, "unused")
			if err := os.WriteFile(filepath.Join(b.dir, "rootfs/bin/script"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{"/lib", "/lib64"} { // this program may be dynamically linked
				if _, err := os.Stat(dir); err == nil {
					b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
				}
			}
			prepare(b)
			b.spec.Process.Env = append(b.spec.Process.Env, attackVariable+"=1")
			first := *b.spec.Process
			b.spec.Process.Args = []string{program}
			text, code := b.output(t)
			if code != 0 {
				t.Errorf("exit code %d: %q", code, text)
			}
			outputs := map[string]string{"first process": text}
			b.spec.Process = &first
			b.spec.Process.Args = []string{"probe", "sleep"}
			c, p, r := b.start(t)
			text, _, err := b.exec(t, c, func(p *specs.Process) { p.Args = []string{program} })
			if err != nil {
				t.Error(err)
			}
			outputs["exec"] = text
			b.end(t, c, p)
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			for who, text := range outputs {
				// Not "text file busy": that ends with the last process of the program.
				if !strings.Contains(text, "overwrite: ") || !strings.HasSuffix(text, "read-only file system\n") {
					t.Errorf("%s, %s: %q", program, who, text)
				}
			}
		}
	}
	if sum() != before {
		t.Error("this program's file has changed")
	}
}

// TestExecReachesNoDescriptor: no open descriptor of the runtime is a way out, as the working directory or in the path
// of the program of exec (CVE-2024-21626), and none but the standard ones is open in the program.
func TestExecReachesNoDescriptor(t *testing.T) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("HOST"), 0o600); err != nil {
		t.Fatal(err)
	}
	leaked, err := os.Open("/") // as a careless caller might have
	if err != nil {
		t.Fatal(err)
	}
	defer leaked.Close()
	if _, err := unix.FcntlInt(leaked.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	s, p, r := newSleeper(t)
	defer r.Close()
	defer s.end(t, s.container, p)
	for n := 3; n < 40; n++ {
		fd := fmt.Sprintf("/proc/self/fd/%d", n)
		for what, change := range map[string]func(*specs.Process){
			"directory":       func(p *specs.Process) { p.Cwd = fd },
			"directory below": func(p *specs.Process) { p.Cwd = fd + host },
			"thread's":        func(p *specs.Process) { p.Cwd = fmt.Sprintf("/proc/thread-self/fd/%d", n) },
			"program":         func(p *specs.Process) { p.Args[0] = fd + "/bin/true" },
		} {
			text, _, err := s.exec(t, s.container, func(p *specs.Process) {
				p.Args = []string{"/bin/probe", "cat", strings.TrimPrefix(host, "/") + "/secret"}
				change(p)
			})
			if err == nil {
				t.Errorf("%s %s was taken: %q", what, fd, text)
			}
		}
	}
	if err := os.Symlink("/proc/self/fd", filepath.Join(s.dir, "upper/link")); err != nil {
		t.Fatal(err)
	}
	if text, _, err := s.exec(t, s.container, func(p *specs.Process) { p.Args, p.Cwd = []string{"probe", "ls", "."}, "/link/7" }); err == nil {
		t.Errorf("a link to a descriptor was taken: %q", text)
	}
	text, _, err := s.exec(t, s.container, func(p *specs.Process) { p.Args = []string{"probe", "fds"} })
	if f := strings.Fields(text); err != nil || len(f) < 3 || strings.Join(f[:3], " ") != "0 1 2" || len(f) > 4 { // one is of the look
		t.Errorf("descriptors %v (%v)", f, err)
	}
}

// TestTooMuchToExecute: what is larger than the kernel takes is an error by name, quickly, and nothing is left (CVE-2021-43784).
func TestTooMuchToExecute(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	for name, change := range map[string]func(*specs.Process){
		"argument":    func(p *specs.Process) { p.Args = []string{"probe", "exit", "0", large} },
		"environment": func(p *specs.Process) { p.Env = append(p.Env, "X="+large) },
	} {
		b := newBundle(t, "exit", "0")
		change(b.spec.Process)
		c, p, err := b.lib.Create(t.Context(), "large", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); !errors.Is(err, unix.E2BIG) {
			t.Errorf("%s: start: %v", name, err)
		}
		b.end(t, c, p)
	}
	b := newBundle(t, "exit", "0")
	b.spec.Hostname = large
	c, p, err := b.lib.Create(t.Context(), "large", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
	if err == nil {
		b.end(t, c, p)
	}
	if err == nil || !strings.Contains(err.Error(), "set hostname") {
		t.Errorf("a long host name: %.200v", err)
	}
}

// TestHostsDevicesAreNotGivenAway: standard streams are given to the user, but not /dev/null, which is everybody's.
func TestHostsDevicesAreNotGivenAway(t *testing.T) {
	owner := func(path string) uint32 {
		var is unix.Stat_t
		if err := unix.Stat(path, &is); err != nil {
			t.Fatal(err)
		}
		return is.Uid
	}
	const user = 543210 // no other test's
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := newBundle(t, "exit", "0")
	b.spec.Process.User.UID = user
	b.output(t, func(o *CreateOptions) { o.Stdio = Stdio{Stdout: file, Stderr: null} }) // and standard input none
	if owner("/dev/null") == user {
		t.Errorf("/dev/null is of user %d", user)
		if err := os.Chown("/dev/null", 0, 0); err != nil {
			t.Error(err)
		}
	}
	if got := owner(file.Name()); got != user {
		t.Errorf("standard output is of user %d", got)
	}
}
