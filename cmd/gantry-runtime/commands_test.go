package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
)

// own is this runtime alone: for what the runc of some distribution is too old for.
func own(t *testing.T) (under, string) {
	u := under{program: filepath.Join(binaries, "gantry-runtime"), root: t.TempDir(), t: t}
	id := fmt.Sprintf("gantry-test-%d-%s", os.Getpid(), strings.ToLower(t.Name()[4:8]))
	t.Cleanup(func() { u.want(0, "delete", "--force", id) })
	return u, id
}

func TestHelp(t *testing.T) {
	u, _ := own(t)
	for _, c := range commands() {
		for _, flag := range []string{"-h", "--help"} {
			if out, _ := u.want(0, c.name, flag); !strings.HasPrefix(out, "NAME:\n   gantry-runtime "+c.name) {
				t.Errorf("%s %s: %q", c.name, flag, out)
			}
		}
	}
	if out, _ := u.want(0, "--help"); !strings.Contains(out, "--log-format") || !strings.Contains(out, "checkpoint") {
		t.Errorf("--help: %q", out)
	}
	for _, args := range [][]string{{"state"}, {"state", "a", "b"}, {"list", "a"}, {"kill", "a", "b", "c"}, {"state", ""}, {"state", "--no-such-flag", "a"}, {"--log-format", "xml", "list"}, {"kill", "a", "NOSUCH"}} {
		u.want(1, args...)
	}
}

// TestFlagsBehindArguments: all but those of another program may stand there.
func TestFlagsBehindArguments(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	u, id := own(t)
	u.want(0, "run", "-d", id, "--bundle", dir)
	u.want(0, "update", id, "--pids-limit", "33")
	if out, _ := u.want(0, "exec", id, "/bin/sh", "-c", "echo $0", "--cwd"); out != "--cwd\n" {
		t.Errorf("exec: %q", out)
	}
	u.want(0, "delete", id, "--force")
}

func TestUpdate(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	u, id := own(t)
	u.want(0, "run", "-d", "-b", dir, id)
	u.want(0, "update", "--memory", "64M", "--memory-swap", "-1", "--cpu-quota", "5000", "--cpu-period", "10000", "--cpu-share", "512", "--pids-limit", "20", "--cpuset-cpus", "0", id)
	limits := func() (memory, pids uint64) {
		t.Helper()
		out, _ := u.want(0, "events", "--stats", id)
		var e struct {
			Type, ID string
			Data     statsJSON
		}
		if err := json.Unmarshal([]byte(out), &e); err != nil || e.Type != "stats" || e.ID != id || e.Data.Pids.Current == 0 || len(e.Data.Memory.Raw) == 0 {
			t.Fatalf("events: %v: %s", err, out)
		}
		if cpus := e.Data.CPUSet.CPUs; len(cpus) != 1 || cpus[0] != 0 {
			t.Errorf("processors: %v", cpus)
		}
		return e.Data.Memory.Usage.Limit, e.Data.Pids.Limit
	}
	if memory, pids := limits(); memory != 64<<20 || pids != 20 {
		t.Errorf("after flags: memory %d, processes %d", memory, pids)
	}
	file := filepath.Join(t.TempDir(), "limits.json")
	if err := os.WriteFile(file, []byte(`{"memory":{"limit":134217728},"pids":{"limit":30}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	u.want(0, "update", "-r", file, id)
	if memory, pids := limits(); memory != 128<<20 || pids != 30 {
		t.Errorf("after a file: memory %d, processes %d", memory, pids)
	}
	cmd := exec.Command(u.program, "--root", u.root, "update", "-r", "-", id)
	cmd.Stdin = strings.NewReader(`{"pids":{"limit":40}}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("from standard input: %v: %s", err, out)
	}
	if _, pids := limits(); pids != 40 {
		t.Errorf("after standard input: %d processes", pids)
	}
	if err := os.WriteFile(file, []byte(`{"devices":[{"allow":false,"access":"rwm"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	u.want(0, "update", "-r", file, id)
	u.want(0, "exec", id, "/bin/sh", "-c", ": </dev/null") // denied to containers whose device rules containerd has updated
	for _, args := range [][]string{{"--memory", "x"}, {"--memory", "1Q"}, {"--cpu-share", "-1"}, {"--blkio-weight", "70000"}, {"-r", "/nonexistent"}, {"--l3-cache-schema", "L3:0=f"}} {
		u.want(1, append(append([]string{"update"}, args...), id)...)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"-1": -1, "0": 0, "42": 42, "64k": 64 << 10, "64KB": 64 << 10, "1.5m": 3 << 19, "2GiB": 2 << 30, "1 t": 1 << 40, "1p": 1 << 50} {
		if got, err := inBytes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "k", "-2", "1kk", "1x", "nan", "9e99", "0x10"} {
		if got, err := inBytes(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestExecInSubgroup(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	u, id := own(t)
	u.want(0, "run", "-d", "-b", dir, id)
	mode, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	group, err := cgroup.Open("/gantry/" + id)
	if err != nil {
		t.Fatal(err)
	}
	controller, flag := "", "sub"
	if mode != cgroup.V2 {
		controller, flag = "pids", "pids:sub"
	}
	if err := os.Mkdir(filepath.Join(group.Paths()[controller], "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, _ := u.want(0, "exec", "--cgroup", flag, id, "/bin/cat", "/proc/self/cgroup"); !strings.Contains(out, "/sub\n") {
		t.Errorf("exec --cgroup %s: %s", flag, out)
	}
	for _, bad := range []string{"..", "../" + id, "pids:..", "nonexistent", "nosuch:/", ":sub"} {
		if _, errs := u.want(255, "exec", "--cgroup", bad, id, "/bin/true"); !strings.Contains(errs, "cgroup") && !strings.Contains(errs, "controller") {
			t.Errorf("exec --cgroup %s: %s", bad, errs)
		}
	}
}

func TestProcesses(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	each(t, func(u under, id string) {
		u.want(0, "run", "-d", "-b", dir, id)
		var pids []int
		out, _ := u.want(0, "ps", "-f", "json", id)
		if err := json.Unmarshal([]byte(out), &pids); err != nil || !slices.Equal(pids, []int{u.state(id, specs.StateRunning).Pid}) {
			u.t.Errorf("ps -f json: %v: %s", err, out)
		}
		for _, args := range [][]string{nil, {"-e", "-x"}, {"-o", "pid,comm"}} {
			out, _ := u.want(0, append([]string{"ps", id}, args...)...)
			if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 || !strings.Contains(lines[1], strconv.Itoa(pids[0])) {
				u.t.Errorf("ps %v: %q", args, out)
			}
		}
		u.want(1, "ps", id, "-o", "comm")
		u.want(1, "ps", "-f", "xml", id)
	})
}

func TestKill(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	u, id := own(t)
	u.want(0, "create", "-b", dir, id)
	u.want(0, "kill", id, "TERM") // it waits as the first of its namespace, and ends all the same
	u.stopped(id)
	u.want(1, "kill", id, "0")
	u.want(0, "kill", "-a", id, "0")
	u.want(0, "delete", id)
	u.want(0, "create", "-b", dir, id)
	u.want(0, "delete", id) // nothing of it has run
	u.want(0, "run", "-d", "-b", dir, id)
	u.want(0, "pause", id)
	u.want(0, "kill", id, "SIGKILL")
	u.stopped(id)
	u.want(0, "delete", id)
	u.want(0, "create", "-b", dir, id)
	u.want(0, "kill", id, "9")
}

func (u under) stopped(id string) {
	u.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, out, _ := u.do("state", id); strings.Contains(out, `"stopped"`) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	u.t.Errorf("%s does not stop", id)
}

// TestPidfdSocket receives a pidfd of what has been made, and ends it by that.
func TestPidfdSocket(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	u, id := own(t)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	u.want(0, "run", "-d", "-b", dir, "--pidfd-socket", socket, id)
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 64), oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.PidfdSendSignal(fds[0], unix.SIGKILL, nil, 0), unix.Close(fds[0])); err != nil {
		t.Fatal(err)
	}
	u.stopped(id)
}

// TestSocketActivation passes on what a service manager has opened, and what --preserve-fds names behind it.
func TestSocketActivation(t *testing.T) {
	dir := bundle(t, "cat /proc/self/fd/3 /proc/self/fd/4; echo $LISTEN_FDS $LISTEN_PID")
	each(t, func(u under, id string) {
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`, u.program, "--root", u.root, "run", "--preserve-fds", "1", "-b", dir, id)
		for _, text := range []string{"third\n", "fourth\n"} {
			r, w, err := os.Pipe()
			if err != nil {
				u.t.Fatal(err)
			}
			defer r.Close()
			if _, err := w.WriteString(text); err != nil {
				u.t.Fatal(err)
			}
			_ = w.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, r)
		}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "third\nfourth\n1 1\n" {
			u.t.Errorf("%v: %q", err, out)
		}
	})
	u, id := own(t)
	u.want(1, "run", "--preserve-fds", "9", "-b", dir, id)
}

// TestNotify: the service manager hears from the container by way of us, and what its main process is.
func TestNotify(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	u, id := own(t)
	host := filepath.Join(t.TempDir(), "n")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: host, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", host)
	u.want(0, "create", "-b", dir, id)
	done := make(chan struct{})
	go func() {
		defer close(done)
		u.want(0, "start", id)
	}()
	inside := filepath.Join(u.root+"-notify", id, "notify.sock")
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if conn, err := net.Dial("unixgram", inside); err == nil {
			_, _ = conn.Write([]byte("STATUS=busy\nREADY=1\n"))
			_ = conn.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 3 {
		buf, oob := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := manager.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatalf("%v; had %q", err, got)
		}
		got = append(got, strings.TrimSpace(string(buf[:n])))
		if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) == 1 {
			fds, _ := unix.ParseUnixRights(&messages[0])
			_ = unix.Close(fds[0]) // the answer to the barrier
		}
	}
	<-done
	t.Setenv("NOTIFY_SOCKET", "")
	want := []string{"READY=1", "MAINPID=" + strconv.Itoa(u.state(id, specs.StateRunning).Pid), "BARRIER=1"}
	if !slices.Equal(got, want) {
		t.Errorf("the service manager heard %q, want %q", got, want)
	}
	u.want(0, "delete", "--force", id)
	if _, err := os.Stat(u.root + "-notify"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left of the socket: %v", err)
	}
}

// TestEvents: readings, and an event when the kernel kills for want of memory; they end with the container.
func TestEvents(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	u, id := own(t)
	u.want(0, "run", "-d", "-b", dir, id)
	u.want(0, "update", "--memory", "16M", "--memory-swap", "16M", id)
	cmd := exec.Command(u.program, "--root", u.root, "events", "--interval", "100ms", id)
	lines, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(lines)
	next := func(kind string) {
		t.Helper()
		for range 600 {
			var e event
			if err := dec.Decode(&e); err != nil {
				t.Fatalf("no event %q: %v", kind, err)
			}
			if e.Type == kind && e.ID == id {
				return
			}
		}
		t.Fatalf("no event %q", kind)
	}
	next("stats")
	u.do("exec", id, "/bin/sh", "-c", "x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done")
	next("oom")
	u.want(0, "delete", "--force", id)
	for dec.Decode(new(event)) == nil {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("events: %v", err)
	}
	u.want(1, "events", "--interval", "0s", id)
}

// TestCheckpoint: what is asked for in vain is told before criu runs; what criu says is told with the place of its log.
func TestCheckpoint(t *testing.T) {
	dir, images := bundle(t, "exec sleep 1000"), t.TempDir()
	u, id := own(t)
	u.want(0, "create", "-b", dir, id)
	if _, errs := u.want(1, "checkpoint", "--image-path", images, id); !strings.Contains(errs, "cannot be checkpointed in created state") {
		t.Errorf("created: %s", errs)
	}
	u.want(0, "start", id)
	for want, args := range map[string][]string{
		"--parent-path must be relative": {"--parent-path", "/x"},
		"invalid --parent-path":          {"--parent-path", "x"},
		"ADDRESS:PORT":                   {"--page-server", "x"},
		"invalid port number":            {"--page-server", "x:y"},
		"invalid --status-fd":            {"--lazy-pages", "--status-fd", "99"},
		"manage-cgroups-mode":            {"--manage-cgroups-mode", "x"},
		"not supported":                  {"--empty-ns", "pid"},
	} {
		if _, errs := u.want(1, append(append([]string{"checkpoint", "--image-path", images}, args...), id)...); !strings.Contains(errs, want) {
			t.Errorf("%v: %s, want %q", args, errs, want)
		}
	}
	criu := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(criu, []byte("#!/bin/sh\necho \"Error: $*\" >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, errs := u.want(1, "--criu", criu, "checkpoint", "--image-path", images, id); !strings.Contains(errs, "swrk 3") || !strings.Contains(errs, "dump.log") {
		t.Errorf("criu fails: %s", errs)
	}
	u.state(id, specs.StateRunning)
	if _, errs := u.want(1, "--criu", "/nonexistent", "restore", "--image-path", images, "-b", dir, id+"-2"); !strings.Contains(errs, "nonexistent") {
		t.Errorf("restore without criu: %s", errs)
	}
	u.want(1, "state", id+"-2")
}

func TestFeatures(t *testing.T) {
	u, _ := own(t)
	out, _ := u.want(0, "features")
	var f struct {
		Hooks []string
		Linux struct {
			Seccomp  struct{ Actions, KnownFlags []string }
			IntelRdt struct{ Enabled, Schemata, Monitoring bool }
			Cgroup   struct{ V1, V2, Systemd, SystemdUser, Rdma bool }
		}
	}
	if err := json.Unmarshal([]byte(out), &f); err != nil || !f.Linux.IntelRdt.Enabled || !f.Linux.IntelRdt.Schemata || !f.Linux.IntelRdt.Monitoring || len(f.Hooks) != 6 || len(f.Linux.Seccomp.Actions) == 0 || len(f.Linux.Seccomp.KnownFlags) == 0 {
		t.Errorf("%v: %s", err, out)
	}
	if c := f.Linux.Cgroup; !c.V1 || !c.V2 || !c.Systemd || !c.SystemdUser || !c.Rdma {
		t.Errorf("cgroup: %+v", c)
	}
}

func TestDebug(t *testing.T) {
	dir := bundle(t, "exit 0")
	u, id := own(t)
	file := filepath.Join(t.TempDir(), "log")
	if out, errs := u.want(0, "--debug", "--log", file, "run", "-b", dir, id); out+errs != "" {
		t.Errorf("output: %q %q", out, errs)
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "level=debug") || !strings.Contains(string(text), "execve") {
		t.Errorf("%v: %s", err, text)
	}
}

// TestNullDevice: streams from /dev/null are on the container's own, which a checkpoint can name.
func TestNullDevice(t *testing.T) {
	dir := bundle(t, "exec sleep 1000")
	each(t, func(u under, id string) {
		u.want(0, "create", "-b", dir, id)
		s := u.state(id, specs.StateCreated)
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/0", s.Pid))
		if err != nil {
			u.t.Fatal(err)
		}
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.Pid))
		if err != nil {
			u.t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(info), "mnt_id:")
		if mount := strings.Fields(rest)[0]; !strings.Contains("\n"+string(mounts), "\n"+mount+" ") {
			u.t.Errorf("standard input is on mount %s, which is not the container's:\n%s", mount, mounts)
		}
	})
}
