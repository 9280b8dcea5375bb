package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestCheckpointMounts: binds, one in another, read-only ones and files, what is masked and what is read-only.
func TestCheckpointMounts(t *testing.T) {
	outer, inner, file := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "file")
	for name, text := range map[string]string{filepath.Join(inner, "name"): "inner", file: "a file"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(to, from string, options ...string) specs.Mount {
		return specs.Mount{Destination: to, Source: from, Type: "bind", Options: append([]string{"bind"}, options...)}
	}
	subjects(t, "", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, bind("/outer", outer, "rw"), bind("/outer/in/side", inner, "ro"), bind("/etc/file", file, "ro"),
			specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}})
		s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/interrupts", "/outer/masked")
	}, func(c *subject) {
		if err := os.WriteFile(filepath.Join(outer, "masked"), []byte("secret"), 0o600); err != nil {
			c.t.Fatal(err)
		}
		look := func() (seen string) {
			c.t.Helper()
			root := fmt.Sprintf("/proc/%d/root", c.state(c.id, specs.StateRunning).Pid)
			for _, name := range []string{"/outer/in/side/name", "/etc/file", "/proc/interrupts", "/outer/masked", "/scratch/mark"} {
				text, err := os.ReadFile(root + name)
				seen += fmt.Sprintf("%s: %q %v\n", name, text, err)
			}
			for _, name := range []string{"/outer/x", "/outer/in/side/x", "/etc/file", "/proc/sys/vm/swappiness", "/tmp/x", "/sys/x", "/sys/firmware/x"} {
				f, err := os.OpenFile(root+name, os.O_CREATE|os.O_WRONLY, 0o600)
				if err == nil {
					err = f.Close()
				}
				seen += fmt.Sprintf("write %s: %v\n", name, errors.Is(err, unix.EROFS))
			}
			return strings.ReplaceAll(seen, root, "")
		}
		c.start()
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/scratch/mark", c.state(c.id, specs.StateRunning).Pid), []byte("kept"), 0o600); err != nil {
			c.t.Fatal(err)
		}
		before := look()
		for _, want := range []string{`"inner" <nil>`, `"a file" <nil>`, `/proc/interrupts: "" <nil>`, `/outer/masked: "" <nil>`, `"kept"`, "write /proc/sys/vm/swappiness: true", "write /outer/x: false"} {
			if !strings.Contains(before, want) {
				c.t.Errorf("before: %s, want %s", before, want)
			}
		}
		c.roundTrip()
		if after := look(); after != before {
			c.t.Errorf("after: %s\nbefore: %s", after, before)
		}
	})
}

// TestCheckpointCgroups: in every mode the container is in its new cgroup, with the limits of its configuration. strict
// wants no cgroup to be there, which the container's is.
func TestCheckpointCgroups(t *testing.T) {
	for _, mode := range []string{"", "soft", "full", "strict", "ignore"} {
		t.Run("mode "+mode, func(t *testing.T) {
			subjects(t, "", limited, func(c *subject) {
				var args []string
				if mode != "" {
					args = []string{"--manage-cgroups-mode", mode}
				}
				c.start()
				before := c.limits(c.id)
				if before != "67108864 77 50000 100000" {
					c.t.Errorf("limits: %s", before)
				}
				code, _, errs := c.do(append(append([]string{"checkpoint", "--image-path", c.image("image")}, args...), c.id)...)
				if code != 0 && strings.Contains(errs, "Invalid manage cgroups mode") {
					c.t.Skip("this runc does not know the mode")
				}
				if code != 0 {
					c.t.Fatalf("checkpoint: exit code %d: %s", code, errs)
				}
				last, id := c.count(), c.id+"-2"
				if filepath.Base(c.program) == "runc" {
					id = c.id // Debian's forgets the limits of another one
				}
				if mode == "strict" && id != c.id {
					c.want(1, append(append([]string{"restore", "-d", "-b", c.dir, "--image-path", c.image("image")}, args...), id)...)
					c.nothingLeft(id)
					return
				}
				c.back("image", id, args...)
				c.goesOn(last)
				if after := c.limits(id); after != before {
					c.t.Errorf("limits: %s, before: %s", after, before)
				}
				c.want(0, "exec", id, "/bin/true")
				c.want(0, "delete", "--force", id)
			})
		})
	}
}

func limited(s *specs.Spec) {
	memory, quota, period := int64(64<<20), int64(50000), uint64(100000)
	pids := int64(77)
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
}

// limits are those of the cgroup that the container's first process is in, which is the container's.
func (c *subject) limits(id string) string {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.state(id, specs.StateRunning).Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	path, v2 := strings.CutPrefix(strings.TrimSpace(string(text)), "0::")
	if !v2 {
		c.t.Skip("the limits of cgroup v1 are not read here")
	}
	if filepath.Base(path) != id {
		c.t.Errorf("it is in cgroup %s, not in that of %s", path, id)
	}
	var all []string
	for _, name := range []string{"memory.max", "pids.max", "cpu.max"} {
		text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", path, name))
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(string(text)))
	}
	return strings.Join(all, " ")
}

// TestCheckpointExecuted: what was executed in a restored container is saved and restored with it, if its parent is in there.
func TestCheckpointExecuted(t *testing.T) {
	subjects(t, "", nil, func(c *subject) {
		if filepath.Base(c.program) == "runc" {
			c.t.Skip("Debian's does not execute in the time namespace that criu gives, and cannot restore what it has saved; later ones do")
		}
		c.start()
		c.roundTrip()
		if errs, err := c.streams("exec", c.id, "/bin/subject", "-child", "-leave"); err != nil {
			c.t.Fatalf("exec: %v: %s", err, errs)
		}
		c.numberBeyond("tmp/child", 3)
		c.save("second")
		last, child := c.count(), c.number("tmp/child")
		c.back("second", c.id)
		c.goesOn(last)
		c.numberBeyond("tmp/child", child)
	})
}

func (c *subject) numberBeyond(name string, from int) {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if c.number(name) > from {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("%s does not get beyond %d", name, from)
}

// TestCheckpointPaused: a paused container is saved, and runs when it is restored.
func TestCheckpointPaused(t *testing.T) {
	subjects(t, "", nil, func(c *subject) {
		c.start()
		c.want(0, "pause", c.id)
		c.state(c.id, "paused")
		c.roundTrip()
		c.want(0, "pause", c.id)
		c.state(c.id, "paused")
		n := c.count()
		c.want(0, "resume", c.id)
		c.grow(n)
	})
}

// TestCheckpointUserNamespace: ids are mapped as they were.
func TestCheckpointUserNamespace(t *testing.T) {
	subjects(t, "", func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 200000, Size: 1000}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
	}, func(c *subject) {
		for dir := c.dir; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				c.t.Fatal(err)
			}
		}
		if err := filepath.Walk(c.file(""), func(path string, _ os.FileInfo, err error) error {
			return errors.Join(err, os.Lchown(path, 200000, 200000))
		}); err != nil {
			c.t.Fatal(err)
		}
		c.start()
		if filepath.Base(c.program) == "runc" { // whose directory criu cannot search when it is root in there only
			if err := errors.Join(os.Mkdir(c.image("image"), 0o711), os.Chmod(c.image("image"), 0o711)); err != nil {
				c.t.Fatal(err)
			}
		}
		c.roundTrip()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", c.state(c.id, specs.StateRunning).Pid))
		if want := "0 200000 1000"; err != nil || strings.Join(strings.Fields(string(text)), " ") != want {
			c.t.Errorf("map of user ids: %q, %v", text, err)
		}
	})
}

// TestCheckpointHooks: those that prepare a container run again when it is restored, poststop when it is deleted.
func TestCheckpointHooks(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	hook := func(kind string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo " + kind + " >>" + log}}}
	}
	subjects(t, "", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			//lint:ignore SA1019 deprecated is not gone
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), Poststart: hook("poststart"), Poststop: hook("poststop"),
		}
	}, func(c *subject) {
		heard := func(want string) {
			c.t.Helper()
			text, err := os.ReadFile(log)
			if got := strings.Join(strings.Fields(string(text)), " "); got != want {
				c.t.Errorf("hooks: %s, want %s: %v", got, want, err)
			}
			if err := os.Remove(log); err != nil {
				c.t.Error(err)
			}
		}
		c.start()
		heard("prestart createRuntime poststart")
		c.save("image")
		heard("poststop")
		c.back("image", c.id)
		heard("prestart createRuntime")
		c.want(0, "delete", "--force", c.id)
		heard("poststop")
	})
}

// TestRestoreFails: of a restore that fails nothing is left, and its error names criu's log.
func TestRestoreFails(t *testing.T) {
	subjects(t, "", nil, func(c *subject) {
		c.start()
		c.save("image")
		cores, err := filepath.Glob(c.image("image/core-*.img"))
		if err != nil || len(cores) == 0 {
			c.t.Fatalf("no images: %v", err)
		}
		if err := os.Truncate(cores[0], 20); err != nil {
			c.t.Fatal(err)
		}
		mounts := mountsOf(c.t)
		_, errs := c.want(1, "restore", "-d", "-b", c.dir, "--image-path", c.image("image"), c.id)
		if !strings.Contains(errs, "restore.log") {
			c.t.Errorf("the error does not name criu's log: %s", errs)
		}
		c.nothingLeft(c.id)
		if now := mountsOf(c.t); now != mounts {
			c.t.Errorf("mounts: %s\nbefore: %s", now, mounts)
		}
		if files, err := filepath.Glob(c.image("image/*.img")); err != nil || len(files) < 5 {
			c.t.Errorf("the images are gone: %v, %v", files, err)
		}
	})
}

func mountsOf(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// nothingLeft: no state, no cgroup, no process.
func (c *subject) nothingLeft(id string) {
	c.t.Helper()
	c.want(1, "state", id)
	if left, err := filepath.Glob(filepath.Join(c.root, "*")); err != nil || len(left) > 0 {
		c.t.Errorf("left of its state: %v, %v", left, err)
	}
	if left := cgroupsOf(c.t, id); len(left) > 0 {
		c.t.Errorf("cgroups: %v", left)
	}
	if left := processesOf(c.t); len(left) > 0 {
		c.t.Errorf("processes: %v", left)
	}
}

func cgroupsOf(t *testing.T, id string) (list []string) {
	t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), id) {
			list = append(list, path)
		}
		return nil // others make and remove cgroups meanwhile
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// processesOf are those of the container's program.
func processesOf(t *testing.T) (list []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		text, _ := os.ReadFile(file)
		if bytes.HasPrefix(text, []byte("/bin/subject")) {
			list = append(list, fmt.Sprintf("%s: %q", file, text))
		}
	}
	return list
}
