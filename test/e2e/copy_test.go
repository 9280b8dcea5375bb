package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// copiers are the clients that copy.
var copiers = []string{"gantry", "docker"}

func writeText(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// TestCopy copies both ways, while the container is created only, runs and is stopped.
func TestCopy(t *testing.T) {
	for _, name := range copiers {
		t.Run(name, func(t *testing.T) {
			do := func(args ...string) result { return command(name, shared, args...) }
			dir, volume := t.TempDir(), t.TempDir()
			writeText(t, dir+"/in/tree/file", "from the host")
			must(t, do("create", "--name", "box", "-v", volume+":/volume", "-v", dir+":/ro:ro", "toolbox", "sleep", "1000"))
			defer do("rm", "-f", "box")
			for _, state := range []string{"created", "running", "exited"} {
				if state == "running" {
					must(t, do("start", "box"))
				} else if state == "exited" {
					must(t, do("stop", "-t", "0", "box"))
				}
				if got := must(t, do("inspect", "-f", "{{.State.Status}}", "box")); got != state {
					t.Fatalf("it is %s, want %s", got, state)
				}
				out := filepath.Join(dir, state)
				must(t, do("cp", dir+"/in/tree", "box:/"+state))
				must(t, do("cp", dir+"/in/tree/file", "box:/volume/"+state))
				must(t, do("cp", "box:/"+state, out))
				must(t, do("cp", "box:/volume/"+state, out+"-volume"))
				for _, file := range []string{out + "/file", out + "-volume", volume + "/" + state} {
					if got := readText(t, file); got != "from the host" {
						t.Errorf("%s, %s: %q", state, file, got)
					}
				}
				for _, c := range []struct{ from, to, text string }{
					{"box:/no/such", dir, "Could not find the file /no/such in container"},
					{dir + "/in", "box:/no/such/dir", "Could not find the file"},
					{dir + "/in/tree/file", "box:/ro/file", "read-only"},
				} {
					if r := do("cp", c.from, c.to); r.code != 1 || !strings.Contains(r.err, c.text) {
						t.Errorf("%s, %s to %s: exit %d: %s", state, c.from, c.to, r.code, r.err)
					}
				}
			}
			must(t, do("start", "box"))
			if got := must(t, do("exec", "box", "cat", "/created/file", "/running/file", "/exited/file")); got != strings.Repeat("from the host", 3) {
				t.Errorf("inside: %q", got)
			}
		})
	}
}

func TestCopyStream(t *testing.T) {
	for _, name := range copiers {
		must(t, command(name, shared, "run", "-d", "--name", "stream-"+name, "--read-only", "--tmpfs", "/scratch", "toolbox", "sleep", "1000"))
		defer command(name, shared, "rm", "-f", "stream-"+name)
		cmd := client(t.Context(), name, shared, "cp", "-", "stream-"+name+":/scratch")
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		if err := w.WriteHeader(&tar.Header{Name: "x/y", Typeflag: tar.TypeReg, Size: 4, Mode: 0o640, Uid: 5}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("text")); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = &archive
		must(t, finish(cmd))
		out := must(t, command(name, shared, "cp", "stream-"+name+":/scratch/x/y", "-"))
		h, err := tar.NewReader(strings.NewReader(out)).Next()
		if err != nil || h.Name != "y" || h.Size != 4 || h.Mode != 0o640 || h.Uid != 5 {
			t.Errorf("%+v, %v", h, err)
		}
		writeText(t, filepath.Join(t.TempDir(), "f"), "x")
		if r := command(name, shared, "cp", bin("gantry-init"), "stream-"+name+":/root"); r.code != 1 || !strings.Contains(r.err, "read-only") {
			t.Errorf("into a read-only root: exit %d: %s", r.code, r.err)
		}
	}
}

func TestExportAndDiff(t *testing.T) {
	for _, name := range copiers {
		do := func(args ...string) result { return command(name, shared, args...) }
		volume := t.TempDir()
		writeText(t, volume+"/private", "of the volume")
		must(t, do("run", "-d", "--name", "changed-"+name, "-v", volume+":/volume", "toolbox", "sh", "-c", "mkdir /new; echo x > /new/file; rm /etc/group; sleep 1000"))
		defer do("rm", "-f", "changed-"+name)
		eventually(t, "it has changed its files", func() bool { return strings.Contains(do("diff", "changed-"+name).out, "D /etc/group") })
		if got := must(t, do("diff", "changed-"+name)); got != "C /etc\nD /etc/group\nA /new\nA /new/file" {
			t.Errorf("diff: %q", got)
		}
		for range 2 {
			var files []string
			reader := tar.NewReader(strings.NewReader(command(name, shared, "export", "changed-"+name).out))
			for {
				h, err := reader.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, h.Name)
			}
			for file, want := range map[string]bool{"new/file": true, "etc/passwd": true, "volume/": true, "volume/private": false, "etc/group": false, "proc/": true, "proc/1/": false} {
				if slices.Contains(files, file) != want {
					t.Errorf("export: %s is there: %v", file, !want)
				}
			}
			must(t, do("stop", "-t", "0", "changed-"+name))
		}
	}
}

// TestCopyLeavesNothing copies often from a container that does not run, for which its files are mounted each time.
func TestCopyLeavesNothing(t *testing.T) {
	must(t, command("gantry", shared, "create", "--name", "often", "-v", "/volume", "toolbox"))
	defer command("gantry", shared, "rm", "-fv", "often")
	proc := "/proc/" + strconv.Itoa(shared.cmd.Process.Pid)
	count := func() (fds int, mounts string) {
		entries, err := os.ReadDir(proc + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), readText(t, proc+"/mountinfo")
	}
	copies := func(n int) {
		for range n {
			must(t, command("gantry", shared, "cp", "often:/etc", t.TempDir()))
			must(t, command("gantry", shared, "cp", bin("gantry-init"), "often:/volume"))
			if r := command("gantry", shared, "cp", "often:/none", t.TempDir()); r.code == 0 {
				t.Error("what is not there was copied")
			}
		}
	}
	copies(3)
	before, mounts := count()
	copies(20)
	eventually(t, "every descriptor is closed", func() bool {
		after, _ := count()
		return after <= before+3 // connections that wait for another request
	})
	if _, after := count(); after != mounts {
		t.Errorf("the engine's mounts were\n%s\nand are\n%s", mounts, after)
	}
}
