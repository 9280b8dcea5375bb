package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// subject is a container that runs testdata/subject, under one of the runtimes.
type subject struct {
	under
	id, dir, images string
	stdio           [3]*os.File // of run and of restore; nil: the null device
}

var subjectProgram = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("criu", "check").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("criu does not work on this kernel: %w: %s", err, out)
	}
	build := exec.Command("go", "build", "-o", binaries+"/", "gantry/cmd/gantry-runtime/testdata/subject")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	return filepath.Join(binaries, "subject"), nil
})

// subjects runs a test where criu works: with this runtime, and with runc. The container is not started yet.
func subjects(t *testing.T, flags string, change func(*specs.Spec), f func(c *subject)) {
	program, err := subjectProgram()
	if err != nil {
		t.Skip(err)
	}
	each(t, func(u under, id string) {
		c := &subject{under: u, id: id, dir: bundle(u.t, ""), images: u.t.TempDir()}
		if err := errors.Join(os.Link(program, c.file("bin/subject")), os.Mkdir(c.file("tmp"), 0o777), os.Chmod(c.file("tmp"), 0o777)); err != nil {
			u.t.Fatal(err)
		}
		rewrite(u.t, c.dir, func(s *specs.Spec) {
			s.Root.Readonly, s.Process.Args = false, append([]string{"/bin/subject"}, strings.Fields(flags)...)
			if change != nil {
				change(s)
			}
		})
		u.t.Cleanup(func() { u.do("delete", "--force", id+"-2") })
		f(c)
	})
}

// file is one of the container's.
func (c *subject) file(name string) string { return filepath.Join(c.dir, "rootfs", name) }

// image is a directory of criu's files.
func (c *subject) image(name string) string { return filepath.Join(c.images, name) }

// streams runs a command whose streams, which the container keeps, are none from outside that criu would refuse.
func (c *subject) streams(args ...string) (errs string, err error) {
	c.t.Helper()
	log := filepath.Join(c.t.TempDir(), "log")
	cmd := exec.Command(c.program, append([]string{"--root", c.root, "--log", log}, args...)...)
	if c.stdio[0] != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdio[0], c.stdio[1], c.stdio[2]
	}
	err = cmd.Run()
	text, _ := os.ReadFile(log)
	return string(text), err
}

func (c *subject) start() {
	c.t.Helper()
	if errs, err := c.streams("run", "-d", "-b", c.dir, c.id); err != nil {
		c.t.Fatalf("run: %v: %s", err, errs)
	}
	c.grow(3)
}

// save checkpoints to an image, and ends the test if that does not work.
func (c *subject) save(image string, args ...string) {
	c.t.Helper()
	if code, out, errs := c.do(append(append([]string{"checkpoint", "--image-path", c.image(image)}, args...), c.id)...); code != 0 {
		c.t.Fatalf("checkpoint %v: exit code %d: %s%s%s", args, code, out, errs, c.log(image, "dump.log"))
	}
}

// back restores an image under an id, and ends the test if that does not work.
func (c *subject) back(image, id string, args ...string) {
	c.t.Helper()
	all := append([]string{"restore", "-d", "-b", c.dir, "--image-path", c.image(image)}, args...)
	if errs, err := c.streams(append(all, id)...); err != nil {
		c.t.Fatalf("restore %v: %v: %s%s", args, err, errs, c.log(image, "restore.log"))
	}
}

// log is the end of a log of criu.
func (c *subject) log(image, name string) string {
	text, err := os.ReadFile(filepath.Join(c.image(image), name))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(text), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-15):], "\n")
}

func (c *subject) count() int { return c.number("tmp/n") }

func (c *subject) number(name string) int {
	text, _ := os.ReadFile(c.file(name))
	n, _ := strconv.Atoi(string(text))
	return n
}

// grow waits until it counts beyond from.
func (c *subject) grow(from int) int {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if n := c.count(); n > from {
			return n
		}
		time.Sleep(50 * time.Millisecond)
	}
	problem, _ := os.ReadFile(c.file("tmp/error"))
	c.t.Fatalf("it does not count on from %d: %s", from, problem)
	return 0
}

// goesOn: it counts on from where it was saved, and not from the beginning.
func (c *subject) goesOn(last int) {
	c.t.Helper()
	c.grow(last)
	if err := os.WriteFile(c.file("tmp/n"), []byte("0"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if n := c.grow(0); n <= last || n > last+2000 {
		c.t.Errorf("it counts %d, after %d", n, last)
	}
}

// roundTrip saves and restores it under the same id.
func (c *subject) roundTrip(args ...string) {
	c.t.Helper()
	c.save("image", args...)
	last := c.count()
	c.want(1, "state", c.id)
	c.back("image", c.id, args...)
	c.state(c.id, specs.StateRunning)
	c.goesOn(last)
}

// rewrite changes a bundle's configuration.
func rewrite(t *testing.T, dir string, change func(*specs.Spec)) {
	t.Helper()
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	change(&spec)
	if text, err = json.Marshal(&spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCheckpointGoesOn: as it was, after a checkpoint that left it running, and as another container of a bundle elsewhere.
func TestCheckpointGoesOn(t *testing.T) {
	subjects(t, "-child", nil, func(c *subject) {
		c.start()
		c.save("left", "--leave-running")
		c.state(c.id, specs.StateRunning)
		c.grow(c.count())
		c.roundTrip()
		c.save("last")
		last, child := c.count(), c.number("tmp/child")
		from := c.dir
		c.dir = filepath.Join(c.images, "bundle")
		if out, err := exec.Command("cp", "-a", from, c.dir).CombinedOutput(); err != nil {
			c.t.Fatalf("%v: %s", err, out)
		}
		pidFile := filepath.Join(c.images, "pid")
		c.back("last", c.id+"-2", "--pid-file", pidFile)
		s := c.state(c.id+"-2", specs.StateRunning)
		if text, err := os.ReadFile(pidFile); err != nil || string(text) != strconv.Itoa(s.Pid) {
			c.t.Errorf("pid file: %q, %v; state: %d", text, err, s.Pid)
		}
		c.goesOn(last)
		if n := c.number("tmp/child"); n <= child {
			c.t.Errorf("the child counts %d, after %d", n, child)
		}
		c.want(0, "exec", c.id+"-2", "/bin/true")
		c.want(1, "state", c.id)
		c.want(0, "kill", c.id+"-2", "KILL")
		c.stopped(c.id + "-2")
		c.want(0, "delete", c.id+"-2")
	})
}

// pages is the size of an image's memory on disk, in KiB.
func (c *subject) pages(image string) int {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.image(image), "pages-*.img"))
	if err != nil || len(files) == 0 {
		c.t.Fatalf("%s: no images of pages: %v", image, err)
	}
	out, err := exec.Command("du", append([]string{"-kc"}, files...)...).Output()
	if err != nil {
		c.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	n, err := strconv.Atoi(strings.Fields(lines[len(lines)-1])[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// TestCheckpointInParts: after two saves of memory the last one has little left to save, and nothing is lost.
func TestCheckpointInParts(t *testing.T) {
	subjects(t, "-mib 16", nil, func(c *subject) {
		c.start()
		c.save("1", "--pre-dump")
		c.state(c.id, specs.StateRunning)
		c.grow(c.count())
		c.save("2", "--pre-dump", "--parent-path", "../1")
		c.grow(c.count())
		c.save("3", "--parent-path", "../2")
		last := c.count()
		c.want(1, "state", c.id)
		if first, third := c.pages("1"), c.pages("3"); third > first/2 {
			c.t.Errorf("memory: %d KiB first, %d KiB last", first, third)
		}
		c.back("3", c.id)
		c.goesOn(last)
	})
}

// TestCheckpointDedup: what a later image has is punched out of the one before.
func TestCheckpointDedup(t *testing.T) {
	subjects(t, "-mib 16", nil, func(c *subject) {
		c.start()
		c.save("1", "--pre-dump", "--auto-dedup")
		before := c.pages("1")
		c.grow(c.count() + 10)
		c.save("2", "--parent-path", "../1", "--auto-dedup")
		last, after := c.count(), c.pages("1")
		if after >= before {
			c.t.Errorf("the first image has %d KiB, and had %d", after, before)
		}
		c.back("2", c.id, "--auto-dedup")
		c.goesOn(last)
	})
}

// TestCheckpointLazily: memory is fetched from the checkpoint, which waits, when the restored container needs it.
func TestCheckpointLazily(t *testing.T) {
	subjects(t, "-mib 16", nil, func(c *subject) {
		c.start()
		read, write, err := os.Pipe()
		if err != nil {
			c.t.Fatal(err)
		}
		defer read.Close()
		port := strconv.Itoa(27000 + os.Getpid()%1000)
		dump := exec.Command(c.program, "--root", c.root, "checkpoint", "--lazy-pages", "--page-server", "127.0.0.1:"+port,
			"--status-fd", "3", "--image-path", c.image("lazy"), c.id)
		dump.ExtraFiles = []*os.File{write}
		dump.Stderr = os.Stderr
		if err := errors.Join(dump.Start(), write.Close()); err != nil {
			c.t.Fatal(err)
		}
		if n, err := read.Read(make([]byte, 1)); n != 1 {
			c.t.Fatalf("no word of lazy pages being served: %v, %v%s", err, dump.Wait(), c.log("lazy", "dump.log"))
		}
		last := c.count()
		pages := exec.Command("criu", "lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", port, "-D", c.image("lazy"), "-o", "pages.log")
		if err := pages.Start(); err != nil {
			c.t.Fatal(err)
		}
		for end := time.Now().Add(patience); time.Now().Before(end); { // until it takes what a restore tells it
			if _, err := os.Stat(c.image("lazy/lazy-pages.socket")); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		c.back("lazy", c.id+"-2", "--lazy-pages")
		c.goesOn(last)
		if err := pages.Wait(); err != nil {
			c.t.Errorf("criu lazy-pages: %v%s", err, c.log("lazy", "pages.log"))
		}
		if err := dump.Wait(); err != nil {
			c.t.Errorf("checkpoint: %v%s", err, c.log("lazy", "dump.log"))
		}
		c.goesOn(last)
		c.state(c.id+"-2", specs.StateRunning)
		c.want(1, "state", c.id)
	})
}

// TestCheckpointExitCode: of a restored container in the foreground.
func TestCheckpointExitCode(t *testing.T) {
	subjects(t, "", nil, func(c *subject) {
		c.start()
		c.save("image")
		if err := os.WriteFile(c.file("tmp/exit"), []byte("7"), 0o600); err != nil {
			c.t.Fatal(err)
		}
		errs, err := c.streams("restore", "-b", c.dir, "--image-path", c.image("image"), c.id)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			c.t.Errorf("restore: %v, want exit code 7: %s%s", err, errs, c.log("image", "restore.log"))
		}
		c.want(1, "state", c.id)
	})
}
