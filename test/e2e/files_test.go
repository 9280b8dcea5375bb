package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestCopyKernelFiles copies files whose size nobody knows before they are read, out of a container and into one.
func TestCopyKernelFiles(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		must(t, do("run", "-d", "--name", "kernel", "toolbox", "sleep", "1000"))
		defer do("rm", "-f", "kernel")
		out := filepath.Join(t.TempDir(), "out")
		for _, file := range []string{"/proc/version", "/proc/1/cmdline", "/sys/kernel/mm/transparent_hugepage/enabled"} {
			must(t, do("cp", "kernel:"+file, out))
			if got, want := readText(t, out), do("exec", "kernel", "cat", file).out; got != want || want == "" {
				t.Errorf("%s: %q, want %q", file, got, want)
			}
		}
		if r := do("cp", "kernel:/proc/kmsg", out); r.code == 0 {
			t.Error("a file without an end was copied")
		}
	})
	// The docker client packs what it copies into a container itself, and trusts sizes.
	must(t, command("gantry", shared, "create", "--name", "kernel", "toolbox"))
	defer command("gantry", shared, "rm", "-f", "kernel")
	must(t, command("gantry", shared, "cp", "/proc/version", "kernel:/version"))
	out := filepath.Join(t.TempDir(), "out")
	must(t, command("gantry", shared, "cp", "kernel:/version", out))
	if got, want := readText(t, out), readText(t, "/proc/version"); got != want {
		t.Errorf("into the container came %q, want %q", got, want)
	}
}

// TestCopyIntoCreated copies to where a container will work, before its first start: the working directory and the places
// of mounts are there, as they will be.
func TestCopyIntoCreated(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		file := filepath.Join(t.TempDir(), "file")
		writeText(t, file, "early")
		must(t, do("create", "--name", "early", "-w", "/srv/app/deep", "toolbox", "cat", "file"))
		defer do("rm", "-f", "early")
		must(t, do("cp", file, "early:/srv/app/deep/file"))
		if got := must(t, do("start", "-a", "early")); got != "early" {
			t.Errorf("it found %q", got)
		}
		must(t, do("create", "--name", "early-ro", "--read-only", "-w", "/srv/app", "-v", "/srv/data", "toolbox", "cat", "/srv/data/file"))
		defer do("rm", "-fv", "early-ro")
		must(t, do("cp", file, "early-ro:/srv/data/file"))
		if r := do("cp", file, "early-ro:/srv/app/file"); r.code == 0 || !strings.Contains(r.err, "read-only") {
			t.Errorf("into a read-only root: exit %d, %s", r.code, r.err)
		}
		if got := must(t, do("start", "-a", "early-ro")); got != "early" {
			t.Errorf("the volume has %q", got)
		}
	})
}

// TestFilesOfTheEngine: names and resolvers are the engine's below whatever is mounted on /etc, and a read-only container
// cannot write to them.
func TestFilesOfTheEngine(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		dir := t.TempDir()
		writeText(t, dir+"/mine", "mine")
		defer do("volume", "rm", "etc")
		for _, etc := range []string{dir, "etc"} {
			got := must(t, do("run", "--rm", "--hostname", "named", "-v", etc+":/etc", "toolbox", "sh", "-c", "cat /etc/hostname; grep -c named /etc/hosts; grep -c nameserver /etc/resolv.conf; ls /etc"))
			lines := strings.Split(got, "\n")
			if len(lines) < 4 || lines[0] != "named" || lines[1] == "0" || lines[2] == "0" {
				t.Errorf("-v %s:/etc: %q", etc, got)
			}
			if has := strings.Contains(got, "\nmine"); has != (etc == dir) {
				t.Errorf("-v %s:/etc: the mount's own file is there: %v", etc, has)
			}
		}
		own := filepath.Join(t.TempDir(), "hosts")
		writeText(t, own, "192.0.2.7 mine\n")
		if got := must(t, do("run", "--rm", "-v", dir+":/etc", "-v", own+":/etc/hosts", "toolbox", "cat", "/etc/hosts")); got != "192.0.2.7 mine" {
			t.Errorf("the user's own hosts: %q", got)
		}
		for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
			if r := do("run", "--rm", "--read-only", "toolbox", "sh", "-c", "echo x >>/etc/"+name); r.code == 0 || !strings.Contains(r.err, "read-only") {
				t.Errorf("--read-only: %s was written to: exit %d, %s", name, r.code, r.err)
			}
			must(t, do("run", "--rm", "toolbox", "sh", "-c", "echo x >>/etc/"+name))
		}
		must(t, do("run", "--rm", "--read-only", "-v", own+":/etc/hosts", "toolbox", "sh", "-c", "echo 192.0.2.8 more >>/etc/hosts"))
		if got := readText(t, own); !strings.Contains(got, "more") {
			t.Errorf("the user's own hosts is read-only: %q", got)
		}
	})
}

// TestMountedUsers: users, groups and homes are those that the container sees.
func TestMountedUsers(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		dir := t.TempDir()
		writeText(t, dir+"/passwd", "root:x:0:0::/root:/bin/sh\nsvc:x:5563:5564::/home/svc:/bin/sh\n")
		writeText(t, dir+"/group", "root:x:0:\nsvc:x:5564:\nextra:x:77:svc\nadded:x:88:\n")
		script := `echo "$HOME $(id -u) $(id -g) $(id -G)"`
		files := []string{"-v", dir + "/passwd:/etc/passwd:ro", "-v", dir + "/group:/etc/group:ro"}
		for _, mounts := range [][]string{files, {"-v", dir + ":/etc"}} {
			for user, want := range map[string]string{
				"svc": "/home/svc 5563 5564 5564 77 88", "5563": "/home/svc 5563 5564 5564 77 88", "svc:extra": "/home/svc 5563 77 77 88", "5563:99": "/home/svc 5563 99 99 88",
			} {
				args := append(append([]string{"run", "--rm", "-u", user, "--group-add", "added"}, mounts...), "toolbox", "sh", "-c", script)
				if r := do(args...); strings.TrimSpace(r.out) != want {
					t.Errorf("%v, -u %s: %q, want %q: %s", mounts, user, r.out, want, r.err)
				}
			}
		}
		args := append([]string{"run", "-d", "--name", "users"}, files...)
		must(t, do(append(args, "toolbox", "sleep", "1000")...))
		defer do("rm", "-f", "users")
		if got := must(t, do("exec", "-u", "svc", "users", "sh", "-c", script)); got != "/home/svc 5563 5564 5564 77" {
			t.Errorf("exec: %q", got)
		}
		if r := do("run", "--rm", "-v", dir+"/group:/etc/passwd", "-u", "nobody", "toolbox", "true"); r.code == 0 || !strings.Contains(r.err, "nobody") {
			t.Errorf("a user whom the mounted file does not have: exit %d, %s", r.code, r.err)
		}
	})
}
