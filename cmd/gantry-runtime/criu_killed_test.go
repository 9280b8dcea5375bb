package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// killable are the processes that a checkpoint or a restore may lose: criu, or the runtime that has called it.
var killable = []string{"criu", "runtime"}

// killed runs a command, kills one of its processes after a while, and waits until criu has ended, too. It tells whether
// the command was done before.
func (c *subject) killed(who string, after time.Duration, args ...string) (done bool) {
	c.t.Helper()
	program := "criu"
	if who == "criu" {
		program = c.criu(fmt.Sprintf("(exec 3>&-; sleep %.2f; kill -9 $$) & exec criu \"$@\"", after.Seconds()))
	}
	cmd := exec.Command(c.program, append([]string{"--root", c.root, "--criu", program}, args...)...)
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	if who == "runtime" {
		time.Sleep(after)
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			c.t.Fatal(err)
		}
	}
	err := cmd.Wait()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if len(criuProcesses(c.t)) == 0 {
			return err == nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Errorf("%s killed after %v: criu goes on: %v", who, after, criuProcesses(c.t))
	return err == nil
}

func (c *subject) yards() []string {
	list, err := filepath.Glob(c.image("image/.criu*"))
	if err != nil {
		c.t.Fatal(err)
	}
	return list
}

func criuProcesses(t *testing.T) (list []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if text, _ := os.ReadFile(file); bytes.HasPrefix(text, []byte("criu\x00swrk")) {
			list = append(list, file)
		}
	}
	return list
}

// moments are when a process is killed: a checkpoint and a restore take half a second on a slow machine.
func moments(f func(after time.Duration)) {
	for after := 50 * time.Millisecond; after < 900*time.Millisecond; after += 90 * time.Millisecond {
		f(after)
	}
}

// ownSubjects are subjects of this runtime alone: with runc a container may stay frozen, and mounts stay.
func ownSubjects(t *testing.T, f func(c *subject)) {
	subjects(t, "", nil, func(c *subject) {
		if filepath.Base(c.program) != "runc" {
			f(c)
		}
	})
}

// TestCheckpointKilled: a container goes on whenever criu is killed, unless it has been saved.
func TestCheckpointKilled(t *testing.T) {
	for _, who := range killable {
		ownSubjects(t, func(c *subject) {
			c.start()
			moments(func(after time.Duration) {
				image := c.image(fmt.Sprintf("%s-%d", who, after))
				if done := c.killed(who, after, "checkpoint", "--image-path", image, c.id); !done {
					code, out, errs := c.do("state", c.id)
					if strings.Contains(out, `"running"`) {
						c.grow(c.count())
						return
					}
					if code != 0 {
						c.t.Fatalf("%s killed after %v: %s%s", who, after, out, errs)
					}
					c.want(0, "delete", "--force", c.id) // it was saved, the last that criu does, and nobody was there to delete it
				}
				last := c.count()
				c.back(filepath.Base(image), c.id)
				c.goesOn(last)
			})
		})
	}
}

// TestRestoreOfKilled: nothing is left of a restore that was killed, or nothing that is not deleted, and another one works.
func TestRestoreOfKilled(t *testing.T) {
	for _, who := range killable {
		ownSubjects(t, func(c *subject) {
			c.start()
			c.save("image")
			last, mounts, files := c.count(), mountsOf(c.t), contents(c.t, c.file(""))
			moments(func(after time.Duration) {
				done := c.killed(who, after, "restore", "-d", "-b", c.dir, "--image-path", c.image("image"), c.id)
				if done || who == "runtime" {
					c.want(0, "delete", "--force", c.id)
				}
				c.nothingLeft(c.id)
				if now := mountsOf(c.t); now != mounts {
					c.t.Errorf("%s killed after %v: mounts: %s\nbefore: %s", who, after, now, mounts)
				}
				if now := contents(c.t, c.file("")); now != files {
					c.t.Errorf("%s killed after %v: files: %s\nbefore: %s", who, after, now, files)
				}
				for _, dir := range c.yards() { // where a killed criu had mounted: only an empty directory is left
					if err := os.Remove(dir); err != nil {
						c.t.Errorf("%s killed after %v: %v", who, after, err)
					}
				}
			})
			c.back("image", c.id)
			c.goesOn(last)
		})
	}
}
