package spawn

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("SPAWN_TEST_SEAL") != "" {
		sealed()
	}
	if os.Getenv("SPAWN_TEST_WAIT") != "" {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	before := openFDs()
	code := m.Run()
	if self, err := mappedSelf(); err == nil {
		_ = unix.Close(self.view.Num) // kept open on purpose by Seal
	}
	if after := openFDs(); code == 0 && len(after) > len(before) {
		fmt.Fprintf(os.Stderr, "descriptors left open: before %v, after %v\n", before, after)
		code = 1
	}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); code == 0 && err != unix.ECHILD {
		fmt.Fprintln(os.Stderr, "a child is left behind")
		code = 1
	}
	os.Exit(code)
}

// openFDs are this process's descriptors without the runtime's own (epoll, eventfd).
func openFDs() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var list []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:[event") {
			list = append(list, e.Name()+"="+target)
		}
	}
	return list
}

// shell appends the execve of a shell command.
func shell(p *Plan, command string) {
	p.Add("execute sh", unix.SYS_EXECVE, Str("/bin/sh"), Strs([]string{"sh", "-c", command}), Strs([]string{"PATH=/bin:/usr/bin"}))
}

// output runs the plan with its standard output on a pipe, and returns what it wrote and its wait status.
func output(t *testing.T, p *Plan) (string, unix.WaitStatus) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := FD{Num: int(w.Fd()), Name: "output"}
	exec := p.Steps[len(p.Steps)-1]
	p.Steps = p.Steps[:len(p.Steps)-1]
	p.Add("redirect output", unix.SYS_DUP3, Desc(out), Int(1), Int(0))
	p.Steps = append(p.Steps, exec)
	child, err := Start(p)
	if cerr := w.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	status, err := child.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text.String()), status
}

func TestStartReportsExitStatusAndSignal(t *testing.T) {
	for command, want := range map[string]string{"exit 7": "exit 7", "kill -9 $$": "signal killed", "true": "exit 0"} {
		p := &Plan{}
		shell(p, command)
		child, err := Start(p)
		if err != nil {
			t.Fatal(err)
		}
		status, err := child.Wait()
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("exit %d", status.ExitStatus())
		if status.Signaled() {
			got = "signal " + status.Signal().String()
		}
		if got != want {
			t.Errorf("%q ended with %s, want %s", command, got, want)
		}
		if err := child.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestFailingStepIsNamed lets every kind of step fail, between steps that succeed.
func TestFailingStepIsNamed(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := FD{Num: int(null.Fd()), Name: "null"}
	for _, c := range []struct {
		name  string
		step  Step
		errno unix.Errno
	}{
		{"mount", Step{Call: unix.SYS_MOUNT, Args: []Arg{Str("proc"), Str(missing), Str("proc")}}, unix.ENOENT},
		{"mkdir", Step{Call: unix.SYS_MKDIRAT, Args: []Arg{Int(unix.AT_FDCWD), Str("/proc/x"), Int(0o755)}}, unix.ENOENT},
		{"openat2", Step{Call: unix.SYS_OPENAT2, Args: []Arg{Int(unix.AT_FDCWD), Str(missing), Bytes(make([]byte, 24), "{}"), Int(24)}}, unix.ENOENT},
		{"read a directory", Step{Call: unix.SYS_READ, Args: []Arg{Int(-1), Nil(), Int(1)}}, unix.EBADF},
		{"open a fifo without a reader", Step{Call: unix.SYS_OPENAT, Args: []Arg{Int(unix.AT_FDCWD), Str(missing), Int(unix.O_WRONLY)}}, unix.ENOENT},
		{"setns", Step{Call: unix.SYS_SETNS, Args: []Arg{Desc(fd), Int(0)}}, unix.EINVAL},
		{"pivot_root", Step{Call: unix.SYS_PIVOT_ROOT, Args: []Arg{Str(missing), Str(missing)}}, unix.ENOENT},
		{"capset", Step{Call: unix.SYS_CAPSET, Args: []Arg{Nil(), Nil()}}, unix.EFAULT},
		{"prctl", Step{Call: unix.SYS_PRCTL, Args: []Arg{Int(-1)}}, unix.EINVAL},
		{"seccomp", Step{Call: unix.SYS_SECCOMP, Args: []Arg{Int(1), Int(0), Filter([]unix.SockFilter{{Code: 0xffff}})}}, unix.EINVAL},
		{"prlimit64", Step{Call: unix.SYS_PRLIMIT64, Args: []Arg{Int(0), Int(99), Nil(), Nil()}}, unix.EINVAL},
		{"setgroups", Step{Call: unix.SYS_SETGROUPS, Args: []Arg{Int(1 << 20), Nil()}}, unix.EINVAL},
		{"sethostname", Step{Call: unix.SYS_SETHOSTNAME, Args: []Arg{Str("x"), Int(1 << 20)}}, unix.EINVAL},
		{"move_mount", Step{Call: unix.SYS_MOVE_MOUNT, Args: []Arg{Desc(fd), Str(""), Int(unix.AT_FDCWD), Str(missing), Int(4)}}, unix.ENOENT},
		{"execve", Step{Call: unix.SYS_EXECVE, Args: []Arg{Str(missing), Strs([]string{"x"}), Strs(nil)}}, unix.ENOENT},
		{"execve a directory", Step{Call: unix.SYS_EXECVE, Args: []Arg{Str("/"), Strs([]string{"x"}), Strs(nil)}}, unix.EACCES},
		{"close what an empty slot says, 0, again", Step{Call: unix.SYS_CLOSE, Args: []Arg{Of(7)}, Ignore: []unix.Errno{unix.ENOSPC}}, unix.EBADF},
		{"sync", Step{Sync: func(*Process) error { return unix.EXDEV }}, unix.EXDEV},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Plan{Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
			p.Add("first", unix.SYS_GETPID)
			p.Steps = append(p.Steps, Step{Name: "meet", Sync: func(*Process) error { return nil }})
			p.Add("close standard input", unix.SYS_CLOSE, Int(0))
			c.step.Name = c.name + " on purpose"
			p.Steps = append(p.Steps, c.step)
			shell(p, "exit 0")
			_, err := Start(p)
			var step *StepError
			if !errors.As(err, &step) || step.Index != 3 || !errors.Is(err, c.errno) {
				t.Fatalf("got %v, want step 3 to fail with %v", err, c.errno)
			}
			if want := c.name + " on purpose: " + c.errno.Error(); err.Error() != want {
				t.Errorf("got %q, want %q", err, want)
			}
		})
	}
}

func TestBadPlansFailBeforeTheClone(t *testing.T) {
	for name, step := range map[string]Step{
		"NUL in a string":     {Args: []Arg{Str("a\x00b")}},
		"NUL in a vector":     {Args: []Arg{Strs([]string{"ok", "a\x00"})}},
		"seven arguments":     {Args: make([]Arg, 7)},
		"slot out of range":   {Args: []Arg{Of(MaxSlots + 1)}},
		"result out of range": {Result: MaxSlots + 1},
		"slot zero":           {Args: []Arg{Of(NoSlot)}},
		"empty filter":        {Args: []Arg{Filter(nil)}},
		"skip backwards":      {Skip: -1},
		"many errnos":         {Ignore: make([]unix.Errno, 9)},
	} {
		step.Name, step.Call = "bad", unix.SYS_GETPID
		_, err := Start(&Plan{Steps: []Step{step}})
		var stepErr *StepError
		if !errors.As(err, &stepErr) || stepErr.Index != 0 {
			t.Errorf("%s: got %v, want an error of step 0", name, err)
		}
	}
}

func TestCloneFails(t *testing.T) {
	p := &Plan{Namespaces: unix.CLONE_NEWNS | unix.CLONE_FS}
	shell(p, "true")
	_, err := Start(p)
	var step *StepError
	if !errors.As(err, &step) || step.Index != -1 || !errors.Is(err, unix.EINVAL) {
		t.Fatalf("got %v, want the clone to fail with EINVAL", err)
	}
}

func TestSlotsCarryResults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data")
	p := &Plan{}
	p.Add("create", unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str(file), Int(unix.O_CREAT|unix.O_WRONLY), Int(0o600)).Result = 3
	p.Add("write", unix.SYS_WRITE, Of(3), Str("hello"), Int(5))
	p.Add("close", unix.SYS_CLOSE, Of(3))
	shell(p, "true")
	if _, status := output(t, p); status != 0 {
		t.Fatal(status)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "hello" {
		t.Errorf("the child wrote %q (%v)", got, err)
	}
}

func TestIgnoreAndSkip(t *testing.T) {
	p := &Plan{}
	p.Add("absent", unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str("/absent"), Int(0)).Ignore = []unix.Errno{unix.EACCES, unix.ENOENT}
	p.Add("present", unix.SYS_GETPID).Skip = 1
	p.Add("not reached", unix.SYS_CLOSE, Int(-1))
	shell(p, "echo done")
	if got, _ := output(t, p); got != "done" {
		t.Errorf("got %q", got)
	}
}

func TestOnlyMentionedDescriptorsReachTheChild(t *testing.T) {
	secret, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	if _, err := unix.FcntlInt(secret.Fd(), unix.F_SETFD, 0); err != nil { // would survive execve
		t.Fatal(err)
	}
	kept, err := os.Open("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	p := &Plan{}
	p.Add("pass group", unix.SYS_DUP3, Desc(FD{int(kept.Fd()), "group"}), Int(90), Int(0))
	shell(p, "readlink /proc/self/fd/*")
	got, _ := output(t, p)
	if strings.Contains(got, "passwd") || !strings.Contains(got, "/etc/group") {
		t.Errorf("the child's descriptors: %q", got)
	}
}

// A message may name a descriptor that is made later: the child's copy of the parent's end takes what is to be sent.
func TestRightsCarryADescriptor(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := FD{ends[0], "passwd"}, FD{ends[1], "socket"}
	defer unix.Close(ours.Num)
	defer unix.Close(theirs.Num)
	p := &Plan{}
	p.Add("open", unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str("/etc/passwd"), Int(unix.O_CLOEXEC), Int(0)).Result = 1
	p.Add("name", unix.SYS_DUP3, Of(1), Desc(ours), Int(unix.O_CLOEXEC))
	p.Add("send", unix.SYS_SENDMSG, Desc(theirs), Rights(ours), Int(0))
	var text strings.Builder
	if _, err := p.WriteTo(&text); err != nil || !strings.Contains(text.String(), "sendmsg(socket, {SCM_RIGHTS, [passwd]}, 0)") {
		t.Error(err, text.String())
	}
	shell(p, "true")
	if _, status := output(t, p); status != 0 {
		t.Fatal(status)
	}
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(ours.Num, nil, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	defer unix.Close(fds[0])
	if got, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fds[0])); got != "/etc/passwd" {
		t.Errorf("received %s", got)
	}
}

func TestSyncSeesTheChild(t *testing.T) {
	p := &Plan{Namespaces: unix.CLONE_NEWUSER | unix.CLONE_NEWUTS}
	p.Steps = append(p.Steps, Step{Name: "map ids", Sync: func(child *Process) error {
		dir := fmt.Sprintf("/proc/%d/", child.Pid)
		return errors.Join(
			os.WriteFile(dir+"uid_map", []byte("0 100000 10"), 0),
			os.WriteFile(dir+"setgroups", []byte("deny"), 0),
			os.WriteFile(dir+"gid_map", []byte("0 200000 10"), 0))
	}})
	p.Add("become root", unix.SYS_SETRESUID, Int(0), Int(0), Int(0))
	p.Add("become root's group", unix.SYS_SETRESGID, Int(0), Int(0), Int(0))
	p.Add("set hostname", unix.SYS_SETHOSTNAME, Str("inside"), Int(6))
	shell(p, "id -u; cat /proc/self/uid_map; uname -n")
	got, _ := output(t, p)
	if want := []string{"0", "0", "100000", "10", "inside"}; !slices.Equal(strings.Fields(got), want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReadyTellsCreateFromStart(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "exec.fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"/bin/true", "/bin/absent"} {
		p := &Plan{Steps: []Step{{Name: "created", Ready: true}}}
		p.Add("wait for start", unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str(fifo), Int(unix.O_WRONLY|unix.O_CLOEXEC))
		p.Add("execute "+program, unix.SYS_EXECVE, Str(program), Strs([]string{"x"}), Strs(nil)).Exit = 127
		child, err := Start(p)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(fifo) // start
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		err = child.Executed()
		status, werr := child.Wait()
		if werr != nil {
			t.Fatal(werr)
		}
		if program == "/bin/true" && (err != nil || status.ExitStatus() != 0) {
			t.Errorf("%s: %v, exit %d", program, err, status.ExitStatus())
		}
		if program == "/bin/absent" && (!errors.Is(err, unix.ENOENT) || status.ExitStatus() != 127) {
			t.Errorf("%s: %v, exit %d; want ENOENT and 127", program, err, status.ExitStatus())
		}
		if err := child.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestJoin starts a process in new pid, mount and uts namespaces and joins it with a second plan, by pidfd.
func TestJoin(t *testing.T) {
	for _, namespaces := range []uint64{0, unix.CLONE_NEWUSER} {
		p := &Plan{Namespaces: namespaces | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
		p.Add("name", unix.SYS_SETHOSTNAME, Str("joined"), Int(6))
		shell(p, "exec sleep 100")
		first, err := Start(p)
		if err != nil {
			t.Fatal(err)
		}
		fd := FD{Num: int(first.Pidfd.Fd()), Name: "container"}
		all := int(namespaces | unix.CLONE_NEWNS | unix.CLONE_NEWUTS)
		join := &Plan{}
		join.Add("join", unix.SYS_SETNS, Desc(fd), Int(all))
		join.Add("join the pid namespace", unix.SYS_SETNS, Desc(fd), Int(unix.CLONE_NEWPID))
		join.Steps = append(join.Steps, Step{Name: "be seen there", Succeed: true})
		shell(join, "echo $$; uname -n")
		got, _ := output(t, join)
		if fields := strings.Fields(got); len(fields) != 2 || fields[0] != "2" || fields[1] != "joined" {
			t.Errorf("user namespace %v: got %q, want pid 2 and the host name", namespaces != 0, got)
		}
		first.end()
	}
}

func TestCgroupAtClone(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var unified string
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.Contains(line, " - cgroup2 ") {
			unified = fields[4]
		}
	}
	if unified == "" {
		t.Fatal("no cgroup v2 hierarchy is mounted: mount one (mount -t cgroup2 none DIR)")
	}
	dir := filepath.Join(unified, fmt.Sprintf("gantry-spawn-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &Plan{Cgroup: &FD{Num: int(f.Fd()), Name: "cgroup"}}
	shell(p, "grep ^0:: /proc/self/cgroup")
	if got, _ := output(t, p); !strings.HasSuffix(got, filepath.Base(dir)) {
		t.Errorf("the child was born in %q", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	errs := make(chan error)
	const n = 64
	for i := range n {
		go func() {
			p := &Plan{Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
			p.Steps = append(p.Steps, Step{Name: "meet", Sync: func(*Process) error { return nil }})
			shell(p, fmt.Sprintf("exit %d", i))
			child, err := Start(p)
			if err != nil {
				errs <- err
				return
			}
			status, err := child.Wait()
			if err == nil && status.ExitStatus() != i {
				err = fmt.Errorf("exit %d, want %d", status.ExitStatus(), i)
			}
			errs <- errors.Join(err, child.Close())
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// sealed is this program as TestSealSelf starts it: it says its name and waits.
func sealed() {
	if err := SealSelf(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	name, _ := os.ReadFile("/proc/self/comm")
	fmt.Println(strings.TrimSpace(string(name)), os.Args[1:])
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

// TestSealSelf does what a container would: it keeps /proc/PID/exe until the program has ended, and writes to it then.
func TestSealSelf(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "one", "two")
	cmd.Env = append(os.Environ(), "SPAWN_TEST_SEAL=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "program [one two]\n" {
		t.Errorf("%v: %q", err, line)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("the host's program can be opened for writing: %v", err)
	}
}

// TestPlanSeal does the same to a child of a plan: before its execve, and when what it executes is the runtime itself.
func TestPlanSeal(t *testing.T) {
	for _, executes := range []bool{false, true} {
		p := &Plan{}
		if !CanSeal() {
			t.Fatal("the kernel refuses")
		}
		if err := p.Seal(); err != nil {
			t.Fatal(err)
		}
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		stdin := FD{Num: int(in.Fd()), Name: "stdin"}
		p.Steps = append(p.Steps, Step{Name: "ready", Ready: true})
		if executes {
			p.Add("stdin", unix.SYS_DUP3, Desc(stdin), Int(0), Int(0))
			p.Add("execute the runtime", unix.SYS_EXECVE, Str("/proc/self/exe"), Strs([]string{"runtime"}), Strs([]string{"SPAWN_TEST_WAIT=1"}))
		} else {
			p.Add("wait", unix.SYS_READ, Desc(stdin), Bytes(make([]byte, 1), "byte"), Int(1))
			shell(p, "exit 0")
		}
		child, err := Start(p)
		if err != nil {
			t.Fatal(err)
		}
		if executes {
			if err := child.Executed(); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/exe", child.Pid), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var fs unix.Statfs_t
		if err := unix.Fstatfs(fd, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
			t.Errorf("executes %v: the program is not seen through a read-only mount: flags %#x, %v", executes, fs.Flags, err)
		}
		if err := errors.Join(unix.Close(fd), out.Close(), in.Close()); err != nil {
			t.Error(err)
		}
		if status, err := child.Wait(); err != nil || status != 0 {
			t.Errorf("executes %v: %v, status %d", executes, err, status)
		}
		if err := child.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPrinter(t *testing.T) {
	p := &Plan{Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Cgroup: &FD{Num: 5, Name: "cgroup"}}
	p.Add("open the root", unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str("/x"), Flags(unix.O_PATH, "O_PATH")).Result = 2
	s := p.Add("mount proc on /proc", unix.SYS_MOUNT, Str("proc"), Str("/proc"), Str("proc"), Int(0), Nil())
	s.Ignore, s.Skip = []unix.Errno{unix.EBUSY}, 1
	p.Add("attach", unix.SYS_MOVE_MOUNT, Desc(FD{9, "rootfs"}), Str(""), Of(2), Str("."), Int(4))
	p.Steps = append(p.Steps, Step{Name: "created", Ready: true})
	p.Add("odd", 99999, Filter(make([]unix.SockFilter, 3)), Strs([]string{"a", "b"}))
	want := `     make the process
       clone3({flags=CLONE_NEWNS|CLONE_NEWPID|CLONE_PIDFD|CLONE_CLEAR_SIGHAND|CLONE_INTO_CGROUP, cgroup=cgroup})
   1 open the root
       $2 = openat(AT_FDCWD, "/x", O_PATH)
   2 mount proc on /proc
       mount("proc", "/proc", "proc", 0, NULL)  unless EBUSY  then skip 1
   3 attach
       move_mount(rootfs, "", $2, ".", 4)
   4 created
       (tell the parent: created)
   5 odd
       syscall_99999({3 instructions}, ["a", "b"])
`
	var b strings.Builder
	if _, err := p.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func BenchmarkStart(b *testing.B) {
	for range b.N {
		p := &Plan{Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
		p.Add("execute true", unix.SYS_EXECVE, Str("/bin/true"), Strs([]string{"true"}), Strs(nil))
		child, err := Start(p)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := child.Wait(); err != nil {
			b.Fatal(err)
		}
		if err := child.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestElse: a step that fails as foreseen passes over those that need it.
func TestElse(t *testing.T) {
	p := &Plan{}
	s := p.Add("open what is not there", unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str("/no/such"), Int(0))
	s.Ignore, s.Else = []unix.Errno{unix.ENOENT}, 1
	p.Add("fail", unix.SYS_CLOSE, Int(-1))
	shell(p, "echo here")
	if got, _ := output(t, p); got != "here" {
		t.Errorf("got %q", got)
	}
}

// TestRefuse: a step fails by what its call found.
func TestRefuse(t *testing.T) {
	for path, want := range map[string]error{"/proc/sys": unix.EACCES, "/": nil} {
		found := make([]byte, unsafe.Sizeof(unix.Statfs_t{}))
		p := &Plan{}
		p.Add("open", unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str(path), Flags(unix.O_PATH, "O_PATH")).Result = 1
		p.Add("look", unix.SYS_FSTATFS, Of(1), Bytes(found, "buffer")).Refuse = Refusal{Buffer: found, Value: unix.PROC_SUPER_MAGIC}
		shell(p, "exit 0")
		child, err := Start(p)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		if err == nil {
			if _, err := child.Wait(); err != nil {
				t.Error(err)
			}
			if err := child.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
