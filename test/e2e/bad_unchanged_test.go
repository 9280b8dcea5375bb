package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const bridgePort = "port of the bridge"

// traces is everything that an engine has on the machine: one line a piece.
func (d *daemon) traces(t *testing.T) []string {
	t.Helper()
	var list []string
	add := func(kind string, name ...string) {
		for _, n := range name {
			list = append(list, kind+" "+n)
		}
	}
	add("container", lines(must(t, command("gantry", d, "ps", "-aq", "--no-trunc")))...)
	add("volume", lines(must(t, command("gantry", d, "volume", "ls", "-q")))...)
	add("image", lines(must(t, command("gantry", d, "images", "-aq", "--no-trunc")))...)
	bridge := must(t, command("gantry", d, "network", "inspect", "-f", `{{index .Options "com.docker.network.bridge.name"}}`, "bridge"))
	suffix := strings.TrimPrefix(bridge, "gt")
	if suffix == "" || suffix == bridge {
		t.Fatalf("the engine's bridge is %q", bridge)
	}
	ports, err := os.ReadDir("/sys/class/net/" + bridge + "/brif")
	if err != nil {
		t.Fatal(err)
	}
	for range ports {
		add(bridgePort, "") // of a pool: their names are new after each use
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/gantry-" + suffix + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if info, err := os.Stat(g); err == nil && info.IsDir() {
			add("cgroup", g)
		}
	}
	for _, m := range lines(read(t, "/proc/self/mountinfo")) {
		if strings.Contains(m, d.dir) {
			add("mount", strings.Fields(m)[4])
		}
	}
	add("process", d.processes(t)...)
	add("descriptor", d.descriptors(t)...)
	add("file", d.files(t)...)
	slices.Sort(list)
	return list
}

// processes are those whose command line names the engine's directory, but for clients and the supervisor, which ends in its own time.
func (d *daemon) processes(t *testing.T) []string {
	t.Helper()
	var list []string
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		text, err := os.ReadFile(file)
		words := strings.Split(string(text), "\x00")
		if err != nil || !strings.Contains(string(text), d.dir) || strings.HasSuffix(words[0], "containerd-shim-gantry-v1") && slices.Contains(words, "serve") {
			continue
		}
		list = append(list, strings.Join(words, " "))
	}
	return list
}

// descriptors are the engine's open files and namespaces; connections come and go, and so does its supervisor (pidfd).
func (d *daemon) descriptors(t *testing.T) []string {
	t.Helper()
	var list []string
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		to, err := os.Readlink(file)
		if err != nil || strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "anon_inode:[event") || to == "anon_inode:[pidfd]" || strings.HasPrefix(to, "pipe:") {
			continue
		}
		if kind, _, found := strings.Cut(to, ":["); found {
			to = kind // of a namespace of the pool, whose number is new after each use
		}
		list = append(list, to)
	}
	return list
}

// files are those under the engine's own directories, but for the supervisor's.
func (d *daemon) files(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, top := range []string{"root", "run"} {
		err := filepath.WalkDir(filepath.Join(d.dir, top), func(path string, entry fs.DirEntry, err error) error {
			switch {
			case os.IsNotExist(err):
				return nil
			case err != nil:
				return err
			case entry.IsDir() && (path == filepath.Join(d.dir, "run", "shim") || filepath.Base(path) == "fs" && filepath.Base(filepath.Dir(filepath.Dir(path))) == "layers"):
				return filepath.SkipDir
			}
			if path != filepath.Join(d.dir, "run", "runtime") { // made for the first container, for good
				list = append(list, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	io, _ := filepath.Glob(filepath.Join(d.dir, "run", "shim", "io", "*"))
	return append(list, io...)
}

func lines(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// unchanged fails the test unless the engine has, when the test ends, on the machine exactly what it has now. What is taken
// away in the background is waited for.
func unchanged(t *testing.T, d *daemon) {
	t.Helper()
	must(t, command("gantry", d, "image", "prune", "-f"))             // what was garbage before is none of this test's
	must(t, command("gantry", d, "run", "--plan", "toolbox", "true")) // the engine keeps a view of its own program from now on
	before := d.traces(t)
	t.Cleanup(func() {
		var left, lost []string
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			after := d.traces(t)
			left, lost = beyond(after, before), beyond(before, after)
			lost = slices.DeleteFunc(lost, func(s string) bool { return s == bridgePort+" " }) // of a container that had just ended
			if len(left)+len(lost) == 0 {
				return
			}
		}
		t.Errorf("left behind:\n\t%s\nlost:\n\t%s", strings.Join(left, "\n\t"), strings.Join(lost, "\n\t"))
	})
}

// beyond is what a has and b has not; both are sorted and may have an element several times.
func beyond(a, b []string) []string {
	var rest []string
	for _, s := range a {
		i, found := slices.BinarySearch(b, s)
		if !found {
			rest = append(rest, s)
			continue
		}
		b = slices.Delete(slices.Clone(b), i, i+1)
	}
	return rest
}
