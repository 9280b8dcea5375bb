package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// stage is a directory on a tmpfs: an overlay wants its upper directory on another file system than an overlay.
func stage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// layers makes directories, topmost first. Each has a file of its own and one that hides that of the others.
func layers(t *testing.T, root string, count int) []string {
	t.Helper()
	var list []string
	for i := range count {
		dir := filepath.Join(root, fmt.Sprint("layer", i))
		write(t, filepath.Join(dir, "all"), fmt.Sprint(i))
		write(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint(i))
		list = append(list, dir)
	}
	return list
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writable adds an upper and a work directory.
func writable(t *testing.T, root string, c Config) Config {
	t.Helper()
	dir, err := os.MkdirTemp(root, "own")
	if err != nil {
		t.Fatal(err)
	}
	c.Upper, c.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, made := range []string{c.Upper, c.Work} {
		if err := os.Mkdir(made, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// inProcess mounts by the steps for another process.
func inProcess(c Config) (fd int, err error) {
	steps, err := c.Steps()
	if err != nil {
		return -1, err
	}
	return handOver(steps)
}

func handOver(steps []spawn.Step) (fd int, err error) {
	p := &spawn.Plan{Steps: steps}
	p.Steps = append(p.Steps, spawn.Step{Name: "hand it over", Pass: Result, Sync: func(child *spawn.Process) (err error) {
		fd, err = unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		return err
	}})
	p.Add("end", unix.SYS_EXIT_GROUP, spawn.Int(0))
	child, err := spawn.Start(p)
	if err != nil {
		return -1, err
	}
	defer child.Close()
	_, err = child.Wait()
	return fd, err
}

// ways are all that lead to an overlay, whatever this kernel would take by itself.
func ways(t *testing.T) map[string]func(Config) (int, error) {
	t.Helper()
	all := map[string]func(Config) (int, error){
		"Mount":   Config.Mount,
		"process": inProcess,
		"named": func(c Config) (int, error) {
			c, err := c.checked()
			if err != nil {
				return -1, err
			}
			return c.mountNamed()
		},
		"process, named": func(c Config) (int, error) {
			c, err := c.checked()
			if err != nil {
				return -1, err
			}
			steps, err := c.named()
			if err != nil {
				return -1, err
			}
			return handOver(steps)
		},
	}
	answer, err := asksAppends()
	if err != nil {
		t.Fatal(err)
	}
	if answer > 0 {
		all["appended"] = func(c Config) (int, error) {
			c, err := c.checked()
			if err != nil {
				return -1, err
			}
			return c.mountAppended()
		}
	}
	return all
}

func TestMount(t *testing.T) {
	dir := stage(t)
	long := filepath.Join(dir, strings.Repeat("long/", 60)+"root")
	special := filepath.Join(dir, `a,b:c\d "e" é`)
	for _, tt := range []struct {
		name, root string
		count      int
		readOnly   bool
		options    []string
	}{
		{name: "one layer", root: dir + "/one", count: 1},
		{name: "two layers", root: dir + "/two", count: 2, options: []string{"volatile", "index=off", "metacopy=on", "redirect_dir=on"}},
		{name: "two layers, read-only", root: dir + "/ro", count: 2, readOnly: true},
		{name: "127 layers", root: dir + "/many/" + strings.Repeat("y", 100), count: 127},
		{name: "127 layers, a long root", root: long, count: 127},
		{name: "127 layers, a long root, read-only", root: long + "-ro", count: 127, readOnly: true},
		{name: "500 layers", root: dir + "/500", count: MaxLayers},
		{name: "special characters", root: special, count: 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Lower: layers(t, tt.root, tt.count), Options: tt.options}
			for name, mount := range ways(t) {
				if name == "appended" && !c.short() {
					continue
				}
				c := c
				if !tt.readOnly {
					c = writable(t, tt.root, c)
				} else {
					c.Attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID
				}
				before, beforeFDs := mounts(t), openFDs(t)
				fd, err := mount(c)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if after := mounts(t); after != before {
					t.Errorf("%s: the mount table has changed:\n%s", name, after)
				}
				check(t, name, fd, c, tt.count)
				if err := unix.Close(fd); err != nil {
					t.Error(err)
				}
				if after := openFDs(t); after != beforeFDs {
					t.Errorf("%s: open before: %s; after: %s", name, beforeFDs, after)
				}
			}
		})
	}
}

func check(t *testing.T, name string, fd int, c Config, count int) {
	t.Helper()
	root := fmt.Sprintf("/proc/self/fd/%d", fd)
	for file, want := range map[string]string{"all": "0", "0": "0", fmt.Sprint(count - 1): fmt.Sprint(count - 1)} {
		if text, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(text) != want {
			t.Errorf("%s: %s is %q, %v; want %q", name, file, text, err, want)
		}
	}
	err := os.WriteFile(root+"/new", nil, 0o600)
	if c.Upper == "" {
		var st unix.Statfs_t
		if statErr := unix.Fstatfs(fd, &st); !errors.Is(err, unix.EROFS) || statErr != nil || st.Flags&(unix.ST_RDONLY|unix.ST_NODEV|unix.ST_NOSUID) != unix.ST_RDONLY|unix.ST_NODEV|unix.ST_NOSUID {
			t.Errorf("%s: a write to a read-only overlay: %v; its flags are %#x, %v", name, err, st.Flags, statErr)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if _, err := os.Stat(c.Upper + "/new"); err != nil {
		t.Errorf("%s: a new file is not in the upper layer: %v", name, err)
	}
	if err := os.Remove(root + "/all"); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if info, err := os.Lstat(c.Upper + "/all"); err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		t.Errorf("%s: a removed file left no whiteout: %v, %v", name, info, err)
	}
	_, err = os.Stat(c.Work + "/work/incompat/volatile")
	if volatile := slices.Contains(c.Options, "volatile"); volatile != (err == nil) {
		t.Errorf("%s: volatile is %v, but its mark: %v", name, volatile, err)
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func openFDs(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.Contains(target, "/proc/") {
			list = append(list, target)
		}
	}
	return strings.Join(list, " ")
}

// Whatever options two kernels are given, both ways understand them alike.
func TestFailures(t *testing.T) {
	dir := stage(t)
	good := layers(t, dir, 2)
	file := filepath.Join(dir, "file")
	write(t, file, "")
	for _, tt := range []struct {
		name   string
		config Config
		errno  unix.Errno
		says   string
	}{
		{"no layers", Config{}, unix.EINVAL, "no layers"},
		{"one layer without an upper", Config{Lower: good[:1]}, unix.EINVAL, "two layers"},
		{"too many layers", Config{Lower: slices.Repeat(good, 251)}, unix.EINVAL, "502 layers"},
		{"missing layer", Config{Lower: []string{good[0], dir + "/missing"}}, unix.ENOENT, dir + "/missing"},
		{"no directory", Config{Lower: []string{good[0], file}}, 0, file},
		{"no work", Config{Lower: good, Upper: dir}, unix.EINVAL, "workdir"},
		{"an empty path", Config{Lower: []string{good[0], ""}}, unix.EINVAL, "empty"},
		{"NUL", Config{Lower: []string{good[0], "/\x00"}}, unix.EINVAL, "NUL"},
		{"unknown option", writable(t, dir, Config{Lower: good, Options: []string{"no-such-option"}}), unix.EINVAL, ""},
		{"unknown value", writable(t, dir, Config{Lower: good, Options: []string{"no-such-option=x"}}), unix.EINVAL, ""},
		{"options beyond a page", writable(t, dir, Config{Lower: good, Options: []string{"x=" + strings.Repeat("y", os.Getpagesize())}}), unix.E2BIG, "bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, mount := range ways(t) {
				if name == "appended" && !tt.config.short() {
					continue
				}
				before := openFDs(t)
				fd, err := mount(tt.config)
				if err == nil {
					t.Errorf("%s: no error", name)
					_ = unix.Close(fd)
				} else if tt.errno != 0 && !errors.Is(err, tt.errno) || tt.says != "" && !strings.Contains(err.Error(), tt.says) && !strings.HasPrefix(name, "process") {
					t.Errorf("%s: %v; want %v, %q", name, err, tt.errno, tt.says)
				}
				if after := openFDs(t); after != before {
					t.Errorf("%s: open before: %s; after: %s", name, before, after)
				}
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options []string
		want    Config
		fails   bool
	}{
		{name: "layers", options: []string{"ro", "lowerdir=/a:/b", "index=on"}, want: Config{Lower: []string{"/a", "/b"}, Options: []string{"index=on"}}},
		{name: "escaped", options: []string{`lowerdir=/a\:b:/c\,d,e:/f\\`, `upperdir=/u\:\,,`, "workdir=/w"}, want: Config{Lower: []string{"/a:b", "/c,d,e", `/f\`}, Upper: "/u:,,", Work: "/w"}},
		{name: "data layers", options: []string{"lowerdir=/a:/b::/c::/d"}, want: Config{Lower: []string{"/a", "/b"}, Data: []string{"/c", "/d"}}},
		{name: "one by one", options: []string{"lowerdir+=/a:b", "lowerdir+=/c", "datadir+=/d"}, want: Config{Lower: []string{"/a:b", "/c"}, Data: []string{"/d"}}},
		{name: "the last lowerdir counts", options: []string{"lowerdir=/a", "lowerdir=/b"}, want: Config{Lower: []string{"/b"}}},
		{name: "a lone backslash", options: []string{`lowerdir=/a\`}, want: Config{Lower: []string{`/a\`}}},
		{name: "no layer", options: []string{"lowerdir="}, fails: true},
		{name: "empty layer", options: []string{"lowerdir=/a:"}, fails: true},
		{name: "three colons", options: []string{"lowerdir=/a:::/b"}, fails: true},
		{name: "empty upper", options: []string{"lowerdir=/a", "upperdir="}, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.options)
			if (err != nil) != tt.fails || err == nil && fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

// What MountOptions writes, Parse and the kernel's mount(2) read.
func FuzzOptions(f *testing.F) {
	f.Add("/a", `/b:c\`, "/d,e", "/u:", `/w\\`)
	f.Add("/a", "/b", "", "", "")
	f.Fuzz(func(t *testing.T, first, second, data, upper, work string) {
		if first == "" || second == "" {
			return
		}
		c := Config{Lower: []string{first, second}, Upper: upper, Work: work, Options: []string{"volatile"}}
		if data != "" {
			c.Data = []string{data}
		}
		got, err := Parse(c.MountOptions())
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c) {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	})
}

// The options mean to mount(2) what they mean to this package.
func TestMountOptionsOfTheKernel(t *testing.T) {
	dir := stage(t)
	root := filepath.Join(dir, `a,b:c\d`)
	c := writable(t, root, Config{Lower: layers(t, root, 3)})
	at := filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", at, "overlay", 0, strings.Join(c.MountOptions(), ",")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	for file, want := range map[string]string{"all": "0", "2": "2"} {
		if text, err := os.ReadFile(filepath.Join(at, file)); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v; want %q", file, text, err, want)
		}
	}
}

// A process in another user namespace, without rights outside, mounts the same.
func TestUserNamespace(t *testing.T) {
	if os.Getenv("GANTRY_OVERLAY_INSIDE") == "" {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
		cmd := exec.Command(os.Args[0], "-test.run=^TestUserNamespace$", "-test.v")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: []syscall.SysProcIDMap{{Size: 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1}},
		}
		cmd.Env = append(os.Environ(), "GANTRY_OVERLAY_INSIDE="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	dir := os.Getenv("GANTRY_OVERLAY_INSIDE")
	long := filepath.Join(dir, strings.Repeat("long/", 60))
	for _, root := range []string{dir + "/short", long} {
		c := Config{Lower: layers(t, root, 60), Options: []string{"userxattr"}}
		for name, mount := range ways(t) {
			if name == "appended" && !c.short() {
				continue
			}
			c := writable(t, root, c)
			fd, err := mount(c)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			check(t, name, fd, c, 60)
			_ = unix.Close(fd)
		}
	}
}
