package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A script without its interpreter is a program that could not be executed: one bare line says so, as a shell would.
func TestRunOfAScriptWithoutInterpreter(t *testing.T) {
	each(t, func(u under, id string) {
		dir := bundle(t, "/run.sh")
		if err := os.WriteFile(filepath.Join(dir, "rootfs/run.sh"), []byte("#!/no/such/interpreter foo\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		change(t, dir, func(s *specs.Spec) { s.Process.Args = []string{"/run.sh"} })
		code, out, errs := u.do("run", "--bundle", dir, id)
		if code == 0 || out != "" || strings.TrimSpace(errs) != "exec /run.sh: no such file or directory" {
			t.Errorf("exit code %d, output %q, errors %q", code, out, errs)
		}
		if _, list, _ := u.do("list", "-q"); strings.TrimSpace(list) != "" {
			t.Errorf("left: %s", list)
		}
	})
}

// change rewrites a bundle's configuration.
func change(t *testing.T, dir string, f func(*specs.Spec)) {
	t.Helper()
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	var spec specs.Spec
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err == nil {
		f(&spec)
		text, err = json.Marshal(&spec)
	}
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The processors on which a process of exec begins are logged, as the mask that taskset(1) takes.
func TestExecLogsInitialAffinity(t *testing.T) {
	u := under{program: filepath.Join(binaries, "gantry-runtime"), root: t.TempDir(), t: t}
	id := fmt.Sprintf("gantry-test-%d-affinity", os.Getpid())
	dir := bundle(t, "sleep 1000")
	u.want(0, "run", "--detach", "--bundle", dir, id)
	defer u.do("delete", "--force", id)
	file := filepath.Join(dir, "process.json")
	if err := os.WriteFile(file, []byte(`{"args": ["/bin/true"], "cwd": "/", "execCPUAffinity": {"initial": "0"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs := u.want(0, "--debug", "exec", "--process", file, id); !strings.Contains(errs, ": affinity: 0x1\"") {
		t.Errorf("logged: %s", errs)
	}
	if _, errs := u.want(0, "exec", "--process", file, id); errs != "" {
		t.Errorf("without --debug: %s", errs)
	}
}

// spec's configurations: little of the host is in sight, and the one for a user without privileges asks for none.
func TestSpecs(t *testing.T) {
	if s := example(); !slices.Contains(s.Linux.MaskedPaths, "/sys/devices/virtual/powercap") || !slices.Contains(s.Linux.MaskedPaths, "/proc/interrupts") {
		t.Errorf("masked are %v", s.Linux.MaskedPaths)
	}
	each(t, func(u under, _ string) {
		dir := t.TempDir()
		u.want(0, "spec", "--rootless", "--bundle", dir)
		text, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var s specs.Spec
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		if s.Linux.Resources != nil || len(s.Linux.UIDMappings) != 1 || slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }) {
			t.Errorf("%s", text)
		}
		for _, m := range s.Mounts {
			if strings.Contains(strings.Join(m.Options, ","), "gid=") {
				t.Errorf("mount on %s: %v: there is one group", m.Destination, m.Options)
			}
			if m.Destination == "/sys" && (m.Source != "/sys" || m.Options[0] != "rbind") {
				t.Errorf("/sys is %+v", m)
			}
		}
	})
}

// A receiver that is started beside the runtime may be the slower of the two; one that never comes is an error.
func TestReachWaitsForTheReceiver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	if _, err := reach(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody is there: %v", err)
	}
	listening := make(chan error, 1)
	go func() {
		time.Sleep(20 * time.Millisecond)
		l, err := net.Listen("unix", path)
		if err == nil {
			defer func() { _ = l.Close() }()
			_, err = l.Accept()
		}
		listening <- err
	}()
	conn, err := reach(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := <-listening; err != nil {
		t.Error(err)
	}
}
