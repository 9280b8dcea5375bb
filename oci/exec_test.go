package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// mapped gives a bundle a user namespace.
func mapped(t testing.TB) func(*bundle) {
	return func(b *bundle) {
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		b.spec.Linux.GIDMappings = b.spec.Linux.UIDMappings
		b.ownedBy(t, 100000)
	}
}

// TestExecFailures: the words by which tools know what went wrong are runc's.
func TestExecFailures(t *testing.T) {
	s, p, r := newSleeper(t, func(b *bundle) {
		bin := filepath.Join(b.dir, "rootfs/bin")
		if err := errors.Join(
			os.WriteFile(filepath.Join(bin, "plain"), nil, 0o644), os.WriteFile(filepath.Join(bin, "garbage"), []byte("x"), 0o755),
			os.WriteFile(filepath.Join(bin, "script"), []byte("#!/no/such\n"), 0o755), os.Mkdir(filepath.Join(b.dir, "rootfs/closed"), 0o700),
			os.Link(probe, filepath.Join(b.dir, "rootfs/closed/probe")),
		); err != nil {
			t.Fatal(err)
		}
	})
	defer r.Close()
	defer s.end(t, s.container, p)
	arguments := func(args ...string) func(*specs.Process) { return func(p *specs.Process) { p.Args = args } }
	for want, c := range map[string]struct {
		change func(*specs.Process)
		errno  error
	}{
		`exec: "nothere": executable file not found in $PATH`:                            {arguments("nothere"), unix.ENOENT},
		`exec: "plain": executable file not found in $PATH`:                              {arguments("plain"), unix.ENOENT},
		`exec: "/no/such": no such file or directory`:                                    {arguments("/no/such"), unix.ENOENT},
		`exec: "/bin/plain": permission denied`:                                          {arguments("/bin/plain"), unix.EACCES},
		`exec: "/bin": is a directory: permission denied`:                                {arguments("/bin"), unix.EACCES},
		`exec /bin/script: no such file or directory`:                                    {arguments("script"), unix.ENOENT},
		`exec /bin/garbage: exec format error`:                                           {arguments("/bin/garbage"), unix.ENOEXEC},
		`exec: "/closed/probe": permission denied`:                                       {func(p *specs.Process) { p.Args, p.User.UID = []string{"/closed/probe"}, 1000 }, unix.EACCES},
		`chdir to cwd ("/no/such") set in config.json failed: no such file or directory`: {func(p *specs.Process) { p.Cwd = "/no/such" }, unix.ENOENT},
		`chdir to cwd ("/bin/probe") set in config.json failed: not a directory`:         {func(p *specs.Process) { p.Cwd = "/bin/probe" }, unix.ENOTDIR},
		`process.cwd "relative" must be an absolute path`:                                {func(p *specs.Process) { p.Cwd = "relative" }, nil},
		"process.args must name a program":                                               {arguments(), nil},
		"process.terminal is set, but nobody takes the terminal":                         {func(p *specs.Process) { p.Terminal = true }, nil},
		"process.user.uid 4294967295":                                                    {func(p *specs.Process) { p.User.UID = 1<<32 - 1 }, nil},
		"process.user.gid 4294967295":                                                    {func(p *specs.Process) { p.User.GID = 1<<32 - 1 }, nil},
		"process.user.additionalGids: 4294967295":                                        {func(p *specs.Process) { p.User.AdditionalGids = []uint32{1<<32 - 1} }, nil},
		`process.apparmorProfile "x": AppArmor is not enabled`:                           {func(p *specs.Process) { p.ApparmorProfile = "x" }, nil},
	} {
		if _, _, err := s.exec(t, s.container, c.change); err == nil || !strings.Contains(err.Error(), want) || c.errno != nil && !errors.Is(err, c.errno) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// TestExecIdentity: who and where a process of exec is, in containers with and without a user namespace.
func TestExecIdentity(t *testing.T) {
	for name, prepare := range map[string]func(*bundle){"host's users": func(*bundle) {}, "own users": mapped(t)} {
		t.Run(name, func(t *testing.T) {
			s, p, r := newSleeper(t, prepare)
			defer r.Close()
			defer s.end(t, s.container, p)
			umask, adj := uint32(0o27), 77
			caps := []string{"CAP_KILL", "CAP_NET_RAW"}
			for who, c := range map[string]struct {
				change func(*specs.Process)
				want   map[string]string
			}{
				"as the container": {func(*specs.Process) {}, map[string]string{"Uid": "0\t0\t0\t0", "CapEff": "0000000000002021", "Umask": "0022", "Cwd": "/"}},
				"user": {
					func(p *specs.Process) {
						p.User = specs.User{UID: 12, GID: 34, AdditionalGids: []uint32{56, 78}, Umask: &umask}
						p.Env, p.Cwd, p.OOMScoreAdj = []string{"PATH=/bin", "X=1"}, "/tmp", &adj
					},
					map[string]string{
						"Uid": "12\t12\t12\t12", "Gid": "34\t34\t34\t34", "Groups": "56 78", "Umask": "0027", "CapEff": "0000000000000000",
						"CapPrm": "0000000000000000", "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "Env": "PATH=/bin X=1 HOME=/", "Cwd": "/tmp", "OOM": "77",
					},
				},
				"ambient": {
					func(p *specs.Process) {
						p.User.UID = 5
						p.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps, Inheritable: caps, Ambient: caps[:1]}
					},
					map[string]string{"CapBnd": "0000000000002020", "CapInh": "0000000000002020", "CapEff": "0000000000000020", "CapAmb": "0000000000000020"},
				},
				"no new privileges": {func(p *specs.Process) { p.NoNewPrivileges = true }, map[string]string{"NoNewPrivs": "1"}},
			} {
				text, status, err := s.exec(t, s.container, c.change)
				var got report
				if err = errors.Join(err, json.Unmarshal([]byte(text), &got)); err != nil || status != 0 {
					t.Fatalf("%s: status %v, %v: %s", who, status, err, text)
				}
				for field, want := range c.want {
					is := got.field(field)
					switch field {
					case "Env":
						is = strings.Join(got.Env, " ")
					case "Cwd":
						is = got.Cwd
					case "OOM":
						is = strings.TrimSpace(got.OOMScoreAdj)
					}
					if is != want {
						t.Errorf("%s: %s is %q, want %q", who, field, is, want)
					}
				}
				for kind, id := range got.NS {
					own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.Pid, kind))
					if err != nil || own != id && kind != "time_for_children" {
						t.Errorf("%s: %s namespace %s, the container's is %s (%v)", who, kind, id, own, err)
					}
				}
			}
		})
	}
}

// TestExecTerminal: the terminal is of the container's devpts, has the size asked for, and is the controlling one.
func TestExecTerminal(t *testing.T) {
	for name, prepare := range map[string]func(*bundle){"host's users": func(*bundle) {}, "own users": mapped(t)} {
		t.Run(name, func(t *testing.T) {
			s, p, r := newSleeper(t, prepare)
			defer r.Close()
			defer s.end(t, s.container, p)
			process := *s.spec.Process
			process.Terminal, process.ConsoleSize = true, &specs.Box{Height: 11, Width: 44}
			process.Args, process.User.UID = []string{"probe", "cat", "/proc/self/stat", "/dev/tty-no-such"}, 9
			var master *os.File
			x, err := s.container.Exec(t.Context(), &process, Stdio{Console: func(f *os.File) error { master = f; return nil }})
			if err != nil {
				t.Fatal(err)
			}
			defer master.Close()
			size, err := unix.IoctlGetWinsize(int(master.Fd()), unix.TIOCGWINSZ)
			if err != nil || size.Row != 11 || size.Col != 44 {
				t.Errorf("size %+v (%v)", size, err)
			}
			text, err := io.ReadAll(master) // EIO when the other side is closed
			if !errors.Is(err, unix.EIO) {
				t.Errorf("read the terminal: %v", err)
			}
			f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
			if len(f) < 5 || f[4] == "0" || f[2] != f[3] { // tty_nr; process group and session
				t.Errorf("it has no terminal, or no session: %q", text)
			}
			if _, err := spawn.Reap(x.Pidfd); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestExecByState: where exec is refused, and where it is not.
func TestExecByState(t *testing.T) {
	b := newBundle(t, "sleep")
	c, p, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec, Rootfs: b.overlay()})
	if err != nil {
		t.Fatal(err)
	}
	say := func(p *specs.Process) { p.Args = []string{"probe", "say", "x", "3"} }
	try := func(state, want string) {
		t.Helper()
		text, status, err := b.exec(t, c, say)
		switch {
		case want == "" && (err != nil || text != "x\n" || status.ExitStatus() != 3):
			t.Errorf("%s: %q, status %v, %v", state, text, status, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", state, err, want)
		}
	}
	try("created", "")
	if err := errors.Join(c.Start(t.Context()), c.Pause()); err != nil {
		t.Fatal(err)
	}
	try("paused", "cannot exec in a paused container")
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	try("running", "")
	if err := c.Kill(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if _, err := spawn.Reap(p.Pidfd); err != nil {
		t.Fatal(err)
	}
	try("stopped", ErrNotRunning.Error())
	if err := c.Delete(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	try("deleted", "does not exist")
}

// TestJoinedUserNamespace: a container in the user namespace of another one has rights over what is made for it, as
// with a user namespace of its own.
func TestJoinedUserNamespace(t *testing.T) {
	s, p, r := newSleeper(t, mapped(t))
	defer r.Close()
	defer s.end(t, s.container, p)
	for _, shared := range [][]specs.LinuxNamespaceType{
		{specs.UserNamespace},
		{specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace},
		{specs.UserNamespace, specs.PIDNamespace},
	} {
		b := newBundle(t)
		mapped(t)(b)
		b.spec.Linux.CgroupsPath += "-second"
		b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = nil, nil
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}}
		adj := 55
		b.spec.Process.OOMScoreAdj = &adj
		paths := map[specs.LinuxNamespaceType]string{}
		for _, kind := range shared {
			name := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net"}[kind]
			if name == "" {
				name = string(kind)
			}
			paths[kind] = fmt.Sprintf("/proc/%d/ns/%s", p.Pid, name)
		}
		for i := range b.spec.Linux.Namespaces {
			b.spec.Linux.Namespaces[i].Path = paths[b.spec.Linux.Namespaces[i].Type]
		}
		got := b.report(t)
		_, sharesPID := paths[specs.PIDNamespace]
		if got.UID != 0 || !strings.Contains(got.UIDMap, "100000") || (got.Pid == 1) == sharesPID || strings.TrimSpace(got.OOMScoreAdj) != "55" {
			t.Errorf("%v: uid %d, map %q, pid %d, oom_score_adj %s", shared, got.UID, got.UIDMap, got.Pid, got.OOMScoreAdj)
		}
		for kind, name := range map[specs.LinuxNamespaceType]string{
			specs.UserNamespace: "user", specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.MountNamespace: "mnt", specs.TimeNamespace: "time", specs.IPCNamespace: "ipc",
		} {
			others, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.Pid, name))
			if _, share := paths[kind]; err != nil || (got.NS[name] == others) != share {
				t.Errorf("%v: %s namespace %s, the other container's is %s (%v)", shared, kind, got.NS[name], others, err)
			}
		}
	}
}
