package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// interrupted is a container, or what one is restored of, with a criu that a script plays: it needs no kernel that criu
// knows. runc runs no criu but the one in PATH.
func interrupted(t *testing.T, change func(*specs.Spec)) *subject {
	t.Helper()
	made++
	c := &subject{
		under: under{program: filepath.Join(binaries, "gantry-runtime"), root: t.TempDir(), t: t},
		id:    fmt.Sprintf("gantry-test-%d-interrupted-%d", os.Getpid(), made), dir: bundle(t, "exec sleep 1000"), images: t.TempDir(),
	}
	if change != nil {
		rewrite(t, c.dir, change)
	}
	t.Cleanup(func() { c.do("delete", "--force", c.id) })
	return c
}

// criu makes a script that is run as criu.
func (c *subject) criu(script string) string {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "criu")
	script = strings.NewReplacer("RUNTIME", c.program+" --root "+c.root, "ID", c.id).Replace(script)
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// TestCheckpointInterrupted: a container is after a checkpoint that failed as it was before.
func TestCheckpointInterrupted(t *testing.T) {
	readOnly := t.TempDir()
	if err := unix.Mount("images", readOnly, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(readOnly, unix.MNT_DETACH) }()
	c := interrupted(t, nil)
	c.want(0, "run", "--detach", "-b", c.dir, c.id)
	fine := c.image("new/directory")
	for name, test := range map[string]struct{ criu, images, want string }{
		"no criu":                  {"/nonexistent/criu", fine, "/nonexistent/criu"},
		"a criu that does not run": {c.criu("echo no such kernel >&2; exit 1"), fine, "no such kernel"},
		"a criu that is killed":    {c.criu("kill -9 $$"), fine, "signal: killed"},
		"killed after freezing":    {c.criu("RUNTIME pause ID; kill -9 $$"), fine, "signal: killed"},
		"killed after thawing":     {c.criu("RUNTIME resume ID; kill -9 $$"), fine, "signal: killed"},
		"images in a file":         {c.criu(""), filepath.Join(c.dir, "config.json"), "config.json"},
		"images that are readonly": {c.criu(""), readOnly, "read-only file system"},
		"no room for images":       {c.criu(""), readOnly + "/new", "read-only file system"},
	} {
		for _, before := range []specs.ContainerState{specs.StateRunning, "paused"} {
			if before == "paused" {
				c.want(0, "pause", c.id)
			}
			if _, errs := c.want(1, "--criu", test.criu, "checkpoint", "--image-path", test.images, c.id); !strings.Contains(errs, test.want) {
				t.Errorf("%s: %s, want %q", name, errs, test.want)
			}
			c.state(c.id, before)
			if before == "paused" {
				c.want(0, "resume", c.id)
			}
			c.want(0, "exec", c.id, "/bin/true")
		}
	}
}

// contents are the names of all files below a directory.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

// restorable gives the subject the directory of an image, and a bind of another directory that has one file.
func restorable(t *testing.T) (c *subject, bound string) {
	bound = t.TempDir()
	c = interrupted(t, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bound", Source: bound, Type: "bind", Options: []string{"rbind"}})
	})
	if err := errors.Join(os.Mkdir(c.image("image"), 0o700), os.WriteFile(c.image("image/descriptors.json"), []byte(`["","",""]`), 0o600),
		os.WriteFile(filepath.Join(bound, "precious"), nil, 0o600), os.WriteFile(c.file("precious"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return c, bound
}

// TestRestoreInterrupted: of a restore that failed nothing is left but the mount points in the root.
func TestRestoreInterrupted(t *testing.T) {
	for name, test := range map[string]struct {
		criu, want string
		damage     func(c *subject) error
	}{
		"no criu":                  {"/nonexistent/criu", "/nonexistent/criu", nil},
		"a criu that does not run": {"echo no such kernel >&2; exit 1", "no such kernel", nil},
		"a criu that is killed":    {"sleep 20 & kill -9 $$", "signal: killed", nil},
		"no images":                {"", "image: no such file", func(c *subject) error { return os.RemoveAll(c.image("image")) }},
		"nothing in the images":    {"", "descriptors.json", func(c *subject) error { return os.Remove(c.image("image/descriptors.json")) }},
		"damaged images":           {"", "descriptors.json", func(c *subject) error { return os.Truncate(c.image("image/descriptors.json"), 3) }},
		"no root":                  {"", "rootfs", func(c *subject) error { return os.RemoveAll(c.file("")) }},
	} {
		c, bound := restorable(t)
		if test.damage != nil {
			if err := test.damage(c); err != nil {
				t.Fatal(err)
			}
		}
		criu := test.criu
		if !filepath.IsAbs(criu) {
			criu = c.criu(criu)
		}
		mounts := mountsOf(t)
		if _, errs := c.want(1, "--criu", criu, "restore", "-d", "-b", c.dir, "--image-path", c.image("image"), c.id); !strings.Contains(errs, test.want) {
			t.Errorf("%s: %s, want %q", name, errs, test.want)
		}
		if now := mountsOf(t); now != mounts {
			t.Errorf("%s: mounts: %s\nbefore: %s", name, now, mounts)
		}
		c.nothingLeft(c.id)
		if _, err := os.Stat(c.image("image")); name == "no images" && err == nil {
			t.Errorf("%s: the directory of the images was made", name)
		}
		if got := contents(t, bound); got != bound+"\n"+filepath.Join(bound, "precious") {
			t.Errorf("%s: of what is bound there is %s", name, got)
		}
	}
}

// TestRestoreKilled: what a killed restore leaves is deleted, and nothing else: not the root, which is mounted in it.
func TestRestoreKilled(t *testing.T) {
	c, bound := restorable(t)
	mounts := mountsOf(t)
	cmd := exec.Command(c.program, "--root", c.root, "--criu", c.criu("sleep 20"), "restore", "-d", "-b", c.dir, "--image-path", c.image("image"), c.id)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(c.root, c.id, "criu-root")
	for end := time.Now().Add(patience); time.Now().Before(end); { // until criu runs
		if len(procs(c.id)) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	before, others := contents(t, c.file("")), contents(t, bound)
	left := procs(c.id)
	if len(left) == 0 {
		t.Fatal("no criu runs")
	}
	text, err := os.ReadFile("/proc/" + left[0] + "/mountinfo")
	if err != nil || !strings.Contains(string(text), root) {
		t.Errorf("nothing is mounted on %s: %v: %s", root, err, text)
	}
	if now := mountsOf(t); now != mounts {
		t.Errorf("mounts: %s\nbefore: %s", now, mounts)
	}
	c.want(0, "delete", "--force", c.id)
	if now := contents(t, c.file("")); now != before {
		t.Errorf("the root has\n%s\nit had\n%s", now, before)
	}
	if now := contents(t, bound); now != others {
		t.Errorf("what is bound has %s, it had %s", now, others)
	}
	if now := mountsOf(t); now != mounts {
		t.Errorf("mounts: %s\nbefore: %s", now, mounts)
	}
	c.nothingLeft(c.id)
	for _, pid := range left {
		for i := 0; ; i++ { // it may still be on its way out
			if _, err := os.Stat("/proc/" + pid); err != nil {
				break
			}
			if i == 5000 {
				t.Errorf("process %s is left", pid)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// TestDeleteUnfinished: what is left of a restore, or of a create, that was killed before it had a state.
func TestDeleteUnfinished(t *testing.T) {
	c := interrupted(t, nil)
	for _, files := range [][]string{nil, {"lock"}, {"lock", "state.json.new"}} {
		if err := os.Mkdir(filepath.Join(c.root, c.id), 0o711); err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if err := os.WriteFile(filepath.Join(c.root, c.id, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c.want(1, "create", "-b", c.dir, c.id)
		c.want(0, "delete", "--force", c.id)
		c.nothingLeft(c.id)
	}
	c.want(0, "delete", "--force", c.id)
	c.want(1, "delete", c.id)
}

// procs are the processes of a container's cgroups.
func procs(id string) (pids []string) {
	files, _ := filepath.Glob("/sys/fs/cgroup/*/gantry/" + id + "/cgroup.procs")
	for _, file := range append(files, "/sys/fs/cgroup/gantry/"+id+"/cgroup.procs") {
		text, _ := os.ReadFile(file)
		pids = append(pids, strings.Fields(string(text))...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}
