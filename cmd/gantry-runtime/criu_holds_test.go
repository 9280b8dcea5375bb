package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// join puts a path in place of a namespace that would be the container's own.
func join(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == kind {
			s.Linux.Namespaces[i].Path = path
			return
		}
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

// made counts what needs a name of its own.
var made int

// network makes a network namespace with a working loopback, and runs a function in it.
func network(t *testing.T, f func()) (path string) {
	t.Helper()
	made++
	name := fmt.Sprintf("gantry-criu-%d-%d", os.Getpid(), made)
	for _, args := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	path = filepath.Join("/run/netns", name)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		ns, err := os.Open(path)
		if err == nil {
			err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCheckpointConnection: a TCP connection to a process of the same network goes on, if it may be saved.
func TestCheckpointConnection(t *testing.T) {
	var path string
	subjects(t, "-tcp 127.0.0.1:4444", func(s *specs.Spec) { path = answering(t); join(s, specs.NetworkNamespace, path) }, func(c *subject) {
		c.start()
		c.save("image", "--tcp-established")
		last := c.count()
		open(c.t, filepath.Base(path))
		c.back("image", c.id, "--tcp-established")
		c.goesOn(last)
		of, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", c.state(c.id, specs.StateRunning).Pid))
		want, err2 := os.Stat(path)
		if err := errors.Join(err, err2); err != nil || !os.SameFile(of, want) {
			c.t.Errorf("another network namespace: %v", err)
		}
	})
}

// open takes back that criu lets no packet of a network through after a checkpoint. A restore shuts it again and opens it
// once: criu expects a new network, as podman gives it.
func open(t *testing.T, network string) {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, args := range [][]string{{"-F"}, {"-X", "CRIU"}} {
			if out, err := exec.Command("ip", append([]string{"netns", "exec", network, program}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("%s %v: %v: %s", program, args, err, out)
			}
		}
	}
}

// answering is a network in which one connection is answered with the next number of each that is said.
func answering(t *testing.T) (path string) {
	return network(t, func() {
		listener, err := net.Listen("tcp", "127.0.0.1:4444")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				n, _ := strconv.Atoi(lines.Text())
				if _, err := fmt.Fprintln(conn, n+1); err != nil {
					return
				}
			}
		}()
	})
}

// TestCheckpointConnectionRefused: it is not saved if it may not be.
func TestCheckpointConnectionRefused(t *testing.T) {
	subjects(t, "-tcp 127.0.0.1:4444", func(s *specs.Spec) { join(s, specs.NetworkNamespace, answering(t)) }, func(c *subject) {
		c.start()
		c.refused("refused")
	})
}

// refused: a checkpoint fails, with an error that tells of criu's log, and the container goes on.
func (c *subject) refused(image string, args ...string) {
	c.t.Helper()
	_, errs := c.want(1, append(append([]string{"checkpoint", "--image-path", c.image(image)}, args...), c.id)...)
	if !strings.Contains(errs, "dump.log") {
		c.t.Errorf("the error does not name criu's log: %s", errs)
	}
	if _, err := os.Stat(filepath.Join(c.image(image), "dump.log")); err != nil {
		c.t.Error(err)
	}
	c.state(c.id, specs.StateRunning)
	c.grow(c.count())
}

// TestCheckpointUnixSocket: one to a process outside is saved if it may be.
func TestCheckpointUnixSocket(t *testing.T) {
	dir := t.TempDir()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	told := make(chan int)
	go func() {
		defer close(told)
		for buf := make([]byte, 64); ; {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			number, _ := strconv.Atoi(string(buf[:n]))
			select {
			case told <- number:
			default:
			}
		}
	}()
	subjects(t, "-unix "+dir+"/socket", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Source: dir, Type: "bind", Options: []string{"bind"}})
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	}, func(c *subject) {
		c.start()
		c.refused("refused")
		last := c.count()
		c.roundTrip("--ext-unix-sk")
		if n := <-told; n < last {
			c.t.Errorf("told %d, after %d", n, last)
		}
	})
}

// TestCheckpointLock: a lock is held again, if it may be saved.
func TestCheckpointLock(t *testing.T) {
	subjects(t, "-lock /tmp/lock", nil, func(c *subject) {
		c.start()
		c.refused("refused")
		c.roundTrip("--file-locks")
		f, err := os.Open(c.file("tmp/lock"))
		if err != nil {
			c.t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			c.t.Errorf("lock: %v, it should be held", err)
		}
	})
}

// speaks reads a terminal until it tells of a count above from.
func speaks(t *testing.T, master *os.File, from int) {
	t.Helper()
	if err := master.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(master); lines.Scan(); {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "count %d", &n); err == nil && n > from {
			return
		}
		said.WriteString(lines.Text() + "\n")
	}
	t.Errorf("nothing beyond %d on the terminal: %s", from, said.String())
}

// TestCheckpointTerminal: a restored container's terminal goes to the console socket.
func TestCheckpointTerminal(t *testing.T) {
	subjects(t, "-tty", func(s *specs.Spec) { s.Process.Terminal = true }, func(c *subject) {
		socket := filepath.Join(c.images, "console")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			c.t.Fatal(err)
		}
		defer listener.Close()
		masters := make(chan *os.File, 2)
		go func() {
			defer close(masters)
			for range 2 {
				master, err := receiveFile(listener)
				if err != nil {
					return
				}
				masters <- master
			}
		}()
		if errs, err := c.streams("run", "-d", "-b", c.dir, "--console-socket", socket, c.id); err != nil {
			c.t.Fatalf("run: %v: %s", err, errs)
		}
		first := <-masters
		speaks(c.t, first, 3)
		c.save("image")
		last := c.count()
		c.back("image", c.id, "--console-socket", socket)
		second := <-masters
		if second == nil {
			c.t.Fatal("no terminal was sent")
		}
		speaks(c.t, second, last)
		c.goesOn(last)
		_, _ = first.Close(), second.Close()
	})
}

func receiveFile(listener *net.UnixListener) (*os.File, error) {
	conn, err := listener.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	oob := make([]byte, 64)
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 4096), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// pair is a terminal's two ends.
func pair(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "terminal")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = master.Close(), slave.Close() })
	return master, slave
}

// TestCheckpointPipes: a standard output that was a pipe is the restore's; a pipe of the container's own stays that.
func TestCheckpointPipes(t *testing.T) {
	for _, flags := range []string{"-tty", "-inner"} {
		t.Run(flags[1:], func(t *testing.T) {
			subjects(t, flags, nil, func(c *subject) {
				var reads [2]*os.File
				for i := range reads {
					read, write, err := os.Pipe()
					if err != nil {
						c.t.Fatal(err)
					}
					defer read.Close()
					reads[i] = read
					null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
					if err != nil {
						c.t.Fatal(err)
					}
					c.stdio = [3]*os.File{null, write, null}
					if i == 0 {
						c.start()
						c.save("image")
					} else {
						c.back("image", c.id)
					}
					_, _ = write.Close(), null.Close()
				}
				last := c.count()
				if flags == "-tty" {
					speaks(c.t, reads[1], last)
				}
				c.goesOn(last)
			})
		})
	}
}

// TestCheckpointShellJob: a terminal of the host's cannot be saved, not even as that of a shell's job.
func TestCheckpointShellJob(t *testing.T) {
	subjects(t, "-tty", nil, func(c *subject) {
		master, slave := pair(c.t)
		c.stdio = [3]*os.File{slave, slave, slave}
		c.start()
		speaks(c.t, master, 3)
		go func() { _, _ = io.Copy(io.Discard, master) }() // or it waits for room
		c.refused("refused")
		c.refused("job", "--shell-job")
	})
}

// TestCheckpointNamespaces: those of others are joined again.
func TestCheckpointNamespaces(t *testing.T) {
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		name := nsName(kind)
		t.Run(name, func(t *testing.T) {
			if _, err := subjectProgram(); err != nil {
				t.Skip(err)
			}
			holder := exec.Command("unshare", "--fork", "--kill-child", "--"+name, "sleep", "1000")
			if err := holder.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = holder.Process.Kill(), holder.Wait() })
			path := namespaceOfChild(t, holder.Process.Pid, name)
			subjects(t, "", func(s *specs.Spec) { join(s, kind, path) }, func(c *subject) {
				c.start()
				c.roundTrip()
				of, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", c.state(c.id, specs.StateRunning).Pid, name))
				want, err2 := os.Stat(path)
				if err := errors.Join(err, err2); err != nil || !os.SameFile(of, want) {
					c.t.Errorf("another namespace: %v", err)
				}
			})
		})
	}
}

func nsName(kind specs.LinuxNamespaceType) string {
	return map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "pid", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"}[kind]
}

// namespaceOfChild waits for a child in a namespace of its own.
func namespaceOfChild(t *testing.T, pid int, name string) string {
	t.Helper()
	own, err := os.Stat("/proc/self/ns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		path := fmt.Sprintf("/proc/%s/ns/%s", strings.TrimSpace(string(text)), name)
		if info, err := os.Stat(path); err == nil && len(text) > 0 && !os.SameFile(own, info) {
			return path
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("no child in a namespace of its own")
	return ""
}
