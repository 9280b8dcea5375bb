package main

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
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const nsUser = 64321 // a user of no name

// asUsersRoot runs a program as root of a user namespace with the one id of an nsUser user.
func asUsersRoot(t *testing.T, home string, argv ...string) (int, string, string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home + "/run"}
	cmd.Dir = home
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: nsUser, Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: nsUser, Size: 1}},
		GidMappingsEnableSetgroups: false,
		Credential:                 &syscall.Credential{NoSetGroups: true},
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// nsBundle is a bundle of the nsUser user, in a directory that he may reach.
func nsBundle(t *testing.T, script string, change func(*specs.Spec)) (dir string) {
	t.Helper()
	home, err := os.MkdirTemp("", "gantry-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(filepath.Join(home, "rootfs"), os.DirFS(filepath.Join(bundle(t, script), "rootfs"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	spec := example()
	spec.Version, spec.Process.Terminal, spec.Process.Args = "1.0.2", false, []string{"/bin/sh", "-c", script}
	toRootless(spec)
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = nil, nil
	change(spec)
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(home, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nsUser, nsUser))
	})
	if err != nil {
		t.Fatal(err)
	}
	return home
}

// nsCopy is a program that the nsUser user may execute.
func nsCopy(t *testing.T, program, dir string) string {
	t.Helper()
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, filepath.Base(program))
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestNamespaceRootWithoutCgroup(t *testing.T) {
	limit := int64(100)
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		args   []string
		code   int
		errs   string
	}{
		"runs":           {func(*specs.Spec) {}, nil, 3, ""},
		"asked for none": {func(*specs.Spec) {}, []string{"--rootless=true"}, 3, ""},
		"must have one":  {func(*specs.Spec) {}, []string{"--rootless=false"}, 1, "permission denied"},
		"names one":      {func(s *specs.Spec) { s.Linux.CgroupsPath = "/gantry-rootless/x" }, nil, 1, "permission denied"},
		"limits": {func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
		}, nil, 1, "cgroup"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(u under, id string) {
				home := nsBundle(u.t, "id; cat /proc/self/uid_map; exit 3", c.change)
				program := nsCopy(u.t, u.program, home)
				code, out, errs := asUsersRoot(u.t, home, append(append([]string{program}, c.args...), "run", id)...)
				if code != c.code || !strings.Contains(errs, c.errs) {
					u.t.Fatalf("exit code %d, want %d: %s%s", code, c.code, out, errs)
				}
				if want := fmt.Sprintf("uid=0 gid=0 groups=0\n         0      %d          1\n", nsUser); code == 3 && out != want {
					u.t.Errorf("printed %q, want %q", out, want)
				}
				left, err := os.ReadDir(filepath.Join(home, "run", filepath.Base(program)))
				if err != nil || len(left) > 0 {
					u.t.Errorf("left in the state directory: %v, %v", left, err)
				}
			})
		})
	}
}

func TestNamespaceRootLifeWithoutCgroup(t *testing.T) {
	id := fmt.Sprintf("gantry-test-%d-life", os.Getpid())
	home := nsBundle(t, "sleep 100", func(*specs.Spec) {})
	r := nsCopy(t, filepath.Join(binaries, "gantry-runtime"), home)
	script := `r=$1 id=$2; trap '$r delete -f $id 2>/dev/null' EXIT
$r create $id </dev/null >/dev/null 2>&1 || exit 10
$r state $id | grep -q '"status": "created"' || exit 11
$r start $id || exit 12
$r exec $id /bin/sh -c 'exit 9'; [ $? = 9 ] || exit 13
$r pause $id && exit 14
$r kill $id KILL || exit 15
for i in $(seq 100); do $r state $id | grep -q '"status": "stopped"' && break; sleep 0.05; done
$r delete $id || exit 16
$r create $id </dev/null >/dev/null 2>&1 && $r delete -f $id || exit 17
$r state $id 2>/dev/null && exit 18; exit 0`
	if code, out, errs := asUsersRoot(t, home, "/bin/sh", "-c", script, "test", r, id); code != 0 {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	left, _ := exec.Command("ps", "-u", fmt.Sprint(nsUser), "-o", "stat=,args=").Output() // fails if there is none
	for line := range strings.Lines(string(left)) {
		if strings.Contains(line, id) && !strings.HasPrefix(line, "Z") {
			t.Errorf("delete --force has left %s", line)
		}
	}
}
