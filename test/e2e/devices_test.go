package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDevices makes devices of memory (null is 1:3, zero 1:5), which every machine has.
func TestDevices(t *testing.T) {
	dir := t.TempDir()
	for name, minor := range map[string]uint32{"one": 5, "two": 3} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o600, int(unix.Mkdev(1, minor))); err != nil {
			t.Fatal(err)
		}
	}
	kmsg := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mknod(kmsg, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))); err != nil {
		t.Fatal(err)
	}
	both(t, func(t *testing.T, do func(args ...string) result) {
		const anyFailure = -1 // docker takes a missing device for a missing command: 127
		for _, c := range []struct {
			name      string
			args      []string
			code      int
			out, text string
		}{
			{"renamed", []string{"--device", dir + "/one:/dev/mine", "toolbox", "sh", "-c", "head -c 3 /dev/mine | wc -c"}, 0, "3", ""},
			{"directory", []string{"--device", dir + ":/dev/all", "toolbox", "ls", "/dev/all"}, 0, "one\ntwo", ""},
			{"not allowed to write", []string{"--device", "/dev/kmsg:/dev/k:r", "toolbox", "sh", "-c", "echo x > /dev/k"}, 1, "", "permitted"},
			{"not given", []string{"-v", kmsg + ":/k", "toolbox", "sh", "-c", "echo -n > /k"}, 1, "", "permitted"},
			{"by rule", []string{"--device-cgroup-rule", "c 1:11 w", "-v", kmsg + ":/k", "toolbox", "sh", "-c", "echo -n > /k && echo opened"}, 0, "opened", ""},
			{"bad rule", []string{"--device-cgroup-rule", "x 1:11 w", "toolbox", "true"}, 125, "", "x 1:11 w"},
			{"missing", []string{"--device", "/dev/no-such", "toolbox", "true"}, anyFailure, "", `error gathering device information while adding custom device "/dev/no-such": no such file or directory`},
			{"not a device", []string{"--device", "/etc/passwd:/dev/x", "toolbox", "true"}, 125, "", "not a device node"},
			{"bad mode", []string{"--device", "/dev/null:/dev/x:q", "toolbox", "true"}, 125, "", "q"},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := do(append([]string{"run", "--rm"}, c.args...)...)
				if r.code != c.code && (c.code != anyFailure || r.code == 0) || strings.TrimSpace(r.out) != c.out || !strings.Contains(r.err, c.text) {
					t.Errorf("exit %d, want %d; output %q, want %q; %s", r.code, c.code, r.out, c.out, r.err)
				}
			})
		}
		must(t, do("create", "--name", "device-user", "--device", "/dev/full:/dev/mine:r", "toolbox", "true"))
		defer do("rm", "-f", "device-user")
		if got := must(t, do("inspect", "-f", "{{json .HostConfig.Devices}}", "device-user")); got != `[{"PathOnHost":"/dev/full","PathInContainer":"/dev/mine","CgroupPermissions":"r"}]` {
			t.Errorf("inspect: %s", got)
		}
	})
}

func TestPrivileged(t *testing.T) {
	name := "/dev/gantry-" + filepath.Base(t.TempDir()) + "-" + filepath.Base(shared.dir)
	if err := unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(name)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, capabilities, _ := strings.Cut(string(status), "CapPrm:")
	capabilities, _, _ = strings.Cut(capabilities, "\n")
	both(t, func(t *testing.T, do func(args ...string) result) {
		out := must(t, do("run", "--rm", "--privileged", "toolbox", "sh", "-c", `
			head -c 2 `+name+` | wc -c
			echo -n > /dev/kmsg && echo any device
			grep -E '^(CapEff|Seccomp):' /proc/self/status
			mkdir /tmp/m && mount -t tmpfs tmpfs /tmp/m && echo mounted
			grep -E ' (/sys|/sys/fs/cgroup) ' /proc/mounts
			echo end; grep -E ' (/proc/kcore|/proc/sys|/sys/firmware) ' /proc/mounts; true`))
		for _, want := range []string{"2\n", "any device\n", "mounted\n", "Seccomp:\t0\n", "CapEff:" + capabilities + "\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		mounts, masked, _ := strings.Cut(out, "end")
		for line := range strings.Lines(mounts) {
			if strings.Contains(line, " /sys") && !strings.Contains(line, " rw") {
				t.Errorf("not writable: %s", line)
			}
		}
		if strings.TrimSpace(masked) != "" {
			t.Errorf("masked in a privileged container: %s", masked)
		}
		if got := do("run", "--rm", "toolbox", "ls", name); got.code == 0 {
			t.Error("an ordinary container has the host's device")
		}
	})
}
