package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// screen collects what a client prints.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// session is a client that a person types to.
type session struct {
	cmd      *exec.Cmd
	keyboard *os.File
	out, err screen // with a terminal, out has both
	done     chan struct{}
}

// open starts a client with pipes, which runs until it ends by itself or the test does.
func open(t *testing.T, name string, d *daemon, args ...string) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s := &session{cmd: client(ctx, name, d, args...), done: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.keyboard = w
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = r, &s.out, &s.err
	s.run(t, cancel, r)
	return s
}

// openTerminal starts a client at a terminal of 33 rows and 77 columns.
func openTerminal(t *testing.T, name string, d *daemon, args ...string) *session {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		}
		if err == nil {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s := &session{cmd: client(ctx, name, d, args...), keyboard: master, done: make(chan struct{})}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		buf := make([]byte, 4<<10)
		for {
			n, err := master.Read(buf)
			_, _ = s.out.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	s.run(t, cancel, slave)
	t.Cleanup(func() { <-shown })
	return s
}

func (s *session) run(t *testing.T, cancel func(), theirs *os.File) {
	t.Helper()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait()
	}()
	t.Cleanup(func() {
		cancel()
		<-s.done
		_ = s.keyboard.Close()
	})
}

// says types a line and waits for what the client prints then.
func (s *session) says(t *testing.T, line, answer string) {
	t.Helper()
	if _, err := s.keyboard.WriteString(line); err != nil {
		t.Fatalf("type %q: %v", line, err)
	}
	s.shows(t, answer)
}

// shows waits for what the client prints.
func (s *session) shows(t *testing.T, text string) {
	t.Helper()
	for !strings.Contains(s.out.String()+s.err.String(), text) {
		select {
		case <-s.done:
			if !strings.Contains(s.out.String()+s.err.String(), text) {
				t.Fatalf("the client ended with %d before it printed %q: %q, %q", s.cmd.ProcessState.ExitCode(), text, s.out.String(), s.err.String())
			}
		default:
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// quit ends the client, as the window of a terminal is closed.
func (s *session) quit() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// replaceSupervisor kills the supervisor and returns when another one answers.
func (d *daemon) replaceSupervisor(t *testing.T) {
	t.Helper()
	pid := d.supervisorPid()
	d.killSupervisor()
	eventually(t, "another supervisor", func() bool {
		next := d.supervisorPid()
		return next != 0 && next != pid && unix.Kill(next, 0) == nil
	})
}

// descriptors counts what a process has open, without sockets: connections come and go in their own time.
func descriptors(pid int) (n int) {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && !strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func eachClient(t *testing.T, test func(t *testing.T, name string)) {
	for _, name := range []string{"gantry", "docker"} {
		t.Run(name, func(t *testing.T) { test(t, name) })
	}
}

// TestTerminalOutlivesSupervisor kills the supervisor of a shell: the shell goes on, and whoever is attached, or attaches
// later, types to it, and the answers are logged.
func TestTerminalOutlivesSupervisor(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.logs(t)
	eachClient(t, func(t *testing.T, name string) {
		before := descriptors(d.cmd.Process.Pid)
		supervisor := descriptors(d.supervisorPid())
		must(t, command(name, d, "run", "-dit", "--name", "kept", "toolbox", "sh"))
		pid := must(t, command(name, d, "inspect", "-f", "{{.State.Pid}}", "kept"))
		answers := 0
		ask := func(s *session) {
			answers++
			s.says(t, fmt.Sprintf("echo answer$((%d+100))\r", answers), fmt.Sprintf("answer%d", answers+100))
		}
		for range 2 {
			d.replaceSupervisor(t)
			s := openTerminal(t, name, d, "attach", "kept")
			ask(s)
			d.replaceSupervisor(t)
			s.shows(t, "the supervisor was killed")
			ask(s)
			if got := size(t, pid); got.Row != 33 || got.Col != 77 {
				t.Errorf("the terminal has %d rows and %d columns", got.Row, got.Col)
			}
			s.quit()
		}
		if got := must(t, command(name, d, "inspect", "-f", "{{.State.Running}} {{.State.Pid}}", "kept")); got != "true "+pid {
			t.Errorf("the shell was %s, and is %s", pid, got)
		}
		s := openTerminal(t, name, d, "attach", "kept")
		ask(s)
		s.says(t, "exit 7\r", "exit")
		<-s.done
		if code := must(t, command(name, d, "wait", "kept")); code != "7" {
			t.Errorf("the shell ended with %s", code)
		}
		logged := must(t, command(name, d, "logs", "kept"))
		for i := range answers {
			if !strings.Contains(logged, fmt.Sprintf("answer%d", i+101)) {
				t.Errorf("answer %d is missing in the log: %q", i+1, logged)
			}
		}
		must(t, command(name, d, "rm", "kept"))
		d.hasClosed(t, before, supervisor)
	})
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}

// size is that of the terminal that a process has as its input.
func size(t *testing.T, pid string) *unix.Winsize {
	t.Helper()
	f, err := os.OpenFile(filepath.Join("/proc", pid, "fd/0"), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// hasClosed waits until engine and supervisor have no more descriptors open than before.
func (d *daemon) hasClosed(t *testing.T, engine, supervisor int) {
	t.Helper()
	for range 500 {
		if descriptors(d.cmd.Process.Pid) <= engine && descriptors(d.supervisorPid()) <= supervisor {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("descriptors: engine %d, before %d; supervisor %d, before %d",
		descriptors(d.cmd.Process.Pid), engine, descriptors(d.supervisorPid()), supervisor)
}

// TestInputOutlivesSupervisor kills the supervisor of programs that read: they see no end of their input but the one that a
// client asks for.
func TestInputOutlivesSupervisor(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.logs(t)
	eachClient(t, func(t *testing.T, name string) {
		before := descriptors(d.cmd.Process.Pid)
		supervisor := descriptors(d.supervisorPid())
		t.Run("detached", func(t *testing.T) {
			must(t, command(name, d, "run", "-di", "--name", "kept", "toolbox", "cat"))
			pid := must(t, command(name, d, "inspect", "-f", "{{.State.Pid}}", "kept"))
			for i := range 2 {
				d.replaceSupervisor(t)
				s := open(t, name, d, "attach", "kept")
				line := fmt.Sprintf("line %d\n", i)
				s.says(t, line, line)
				s.quit()
			}
			if got := must(t, command(name, d, "inspect", "-f", "{{.State.Running}} {{.State.Pid}}", "kept")); got != "true "+pid {
				t.Errorf("cat was %s, and is %s", pid, got)
			}
			if got := must(t, command(name, d, "logs", "kept")); got != "line 0\nline 1" {
				t.Errorf("logged: %q", got)
			}
			must(t, command(name, d, "rm", "-f", "kept"))
		})
		t.Run("attached", func(t *testing.T) {
			s := open(t, name, d, "run", "-i", "--name", "kept", "toolbox", "cat")
			s.says(t, "one\n", "one\n")
			d.replaceSupervisor(t)
			s.shows(t, "the supervisor was killed")
			s.says(t, "two\n", "two\n")
			_ = s.keyboard.Close()
			<-s.done
			if code := s.cmd.ProcessState.ExitCode(); code != 0 || s.out.String() != "one\ntwo\n" {
				t.Errorf("the client ended with %d: %q %q", code, s.out.String(), s.err.String())
			}
			must(t, command(name, d, "rm", "kept"))
		})
		t.Run("ended", func(t *testing.T) { // by the client; the supervisor is killed later
			s := open(t, name, d, "run", "-i", "--name", "kept", "toolbox", "sh", "-c", "cat; echo the end; sleep 1000")
			s.says(t, "one\n", "one\n")
			_ = s.keyboard.Close()
			s.shows(t, "the end")
			d.replaceSupervisor(t)
			s.shows(t, "the supervisor was killed")
			must(t, command(name, d, "rm", "-f", "kept"))
			<-s.done
		})
		d.hasClosed(t, before, supervisor)
	})
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}

// TestExecOfKilledSupervisor kills the supervisor of an exec: the exec's stream ends with a message, and its exit code is
// that of an unknown end. The container goes on and takes others.
func TestExecOfKilledSupervisor(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.logs(t)
	eachClient(t, func(t *testing.T, name string) {
		must(t, command(name, d, "run", "-d", "--name", "kept", "toolbox", "sleep", "1000"))
		for _, flags := range []string{"-i", "-it"} {
			var s *session
			if flags == "-it" {
				s = openTerminal(t, name, d, "exec", flags, "kept", "sh")
			} else {
				s = open(t, name, d, "exec", flags, "kept", "sh")
			}
			s.says(t, "echo answer$((40+2))\n", "answer42")
			d.replaceSupervisor(t)
			<-s.done
			if text := s.out.String() + s.err.String(); s.cmd.ProcessState.ExitCode() != 255 || !strings.Contains(text, "exit status of this command is unknown") {
				t.Errorf("exec %s ended with %d: %q", flags, s.cmd.ProcessState.ExitCode(), text)
			}
			if got := must(t, command(name, d, "exec", "kept", "echo", "two")); got != "two" {
				t.Errorf("the next exec printed %q", got)
			}
		}
		// Prepared at one supervisor, started at the next one.
		var answer struct{ ID string }
		created := api(t, d, "POST", "/containers/kept/exec", `{"Cmd":["echo","three"],"AttachStdout":true,"Tty":false}`)
		if err := json.NewDecoder(created.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		d.replaceSupervisor(t)
		var text bytes.Buffer
		_, _ = text.ReadFrom(api(t, d, "POST", "/exec/"+answer.ID+"/start", `{"Detach":false}`).Body)
		if !strings.Contains(text.String(), "three") {
			t.Errorf("a prepared exec printed %q", text.String())
		}
		must(t, command(name, d, "rm", "-f", "kept"))
	})
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}
