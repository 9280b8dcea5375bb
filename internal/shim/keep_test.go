package shim_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
)

// keepFor makes the host one whose supervisors have a keeper.
func (h *host) keepFor(k *client.Keeper) {
	h.t.Helper()
	h.options.Keeper = k
	if err := k.Keep(context.Background(), h.Shim); err != nil {
		h.t.Fatal(err)
	}
}

// replace kills the supervisor and starts the next one.
func (h *host) replace() {
	h.t.Helper()
	if err := unix.Kill(h.Pid, unix.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	<-h.Closed()
	k := h.options.Keeper
	k.Await(h.t.Context())
	h.connect(true)
	h.keepFor(k)
}

// open counts a process's descriptors of a kind, by what they lead to.
func open(t *testing.T, pid int, to string) (n int) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, to) {
			n++
		}
	}
	return n
}

// A shell at a terminal notices nothing of five supervisors that are killed one after the other: no SIGHUP, no end.
func TestTerminalIsKept(t *testing.T) {
	h := newHost(t)
	var k client.Keeper
	defer k.Close()
	h.keepFor(&k)
	const terminal = "/dev/pts/ptmx"
	mine, theirs := open(t, os.Getpid(), terminal), open(t, h.Pid, terminal)
	h.run("c", `trap 'echo HANGUP' HUP; stty -echo; echo ready; while read line; do echo "got $line"; done; echo END`, tty, stdin("attach:"))
	want := "ready\r\n"
	for i := range 5 {
		eventually(t, want, func() bool { return h.logged("c", logs.Stdout) == want })
		h.replace()
		c := h.attach(client.AttachRequest{ID: "c", Stdin: true, Stdout: true})
		if _, err := fmt.Fprintf(c, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if answer := fmt.Sprintf("got line %d\r\n", i); err != nil || line != answer {
			t.Fatalf("the answer is %q (%v), and should be %q; logged: %q", line, err, answer, h.logged("c", logs.Stdout))
		}
		want += line
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.Task.ResizePty(t.Context(), &task.ResizePtyRequest{ID: "c", Width: 77, Height: 33}); err != nil {
		t.Error(err)
	}
	if _, err := h.Task.Kill(t.Context(), &task.KillRequest{ID: "c", Signal: 9}); err != nil {
		t.Error(err)
	}
	h.wait("c", "")
	h.delete("c", "")
	eventually(t, "the terminal is closed", func() bool {
		return open(t, os.Getpid(), terminal) == mine && open(t, h.Pid, terminal) == theirs
	})
	if got := h.logged("c", logs.Stdout); got != want {
		t.Errorf("logged: %q, and should be %q", got, want)
	}
}

// What a terminal's program has written last, while there was no supervisor, is logged.
func TestLastOutputOfATerminal(t *testing.T) {
	h := newHost(t)
	var k client.Keeper
	defer k.Close()
	h.keepFor(&k)
	gate := filepath.Join(h.dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	h.run("c", "echo first; read word < "+gate+"; echo last", tty)
	eventually(t, "first", func() bool { return h.logged("c", logs.Stdout) == "first\r\n" })
	state, err := h.Task.State(t.Context(), &task.StateRequest{ID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(int(state.Pid), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := unix.Kill(h.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Closed()
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for n := 0; n == 0; {
		if n, err = unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	k.Await(t.Context())
	h.connect(true)
	h.keepFor(&k)
	h.wait("c", "")
	if got := h.logged("c", logs.Stdout); got != "first\r\nlast\r\n" {
		t.Errorf("logged: %q", got)
	}
	h.delete("c", "")
}

// An input stays open over the death of supervisors until a client ends it: then the program reads the end, however soon
// the supervisor is killed after that.
func TestInputIsKeptUntilItsEnd(t *testing.T) {
	for _, c := range []struct {
		name, address string
		end           func(h *host)
	}{
		{"CloseIO", "attach:", func(h *host) {
			if _, err := h.Task.CloseIO(h.t.Context(), &task.CloseIORequest{ID: "c", Stdin: true}); err != nil {
				h.t.Fatal(err)
			}
		}},
		{"first client", "attach:?once", func(h *host) {
			conn := h.attach(client.AttachRequest{ID: "c", Stdin: true, Stdout: true}).(*net.UnixConn)
			if _, err := io.WriteString(conn, "last\n"); err != nil {
				h.t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				h.t.Fatal(err)
			}
			if text, err := io.ReadAll(conn); err != nil || !strings.Contains(string(text), "END") {
				h.t.Errorf("%q, %v", text, err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			var k client.Keeper
			defer k.Close()
			h.keepFor(&k)
			before := open(t, os.Getpid(), "pipe:")
			h.run("c", "cat; echo END", stdin(c.address))
			state, err := h.Task.State(t.Context(), &task.StateRequest{ID: "c"})
			if err != nil {
				t.Fatal(err)
			}
			held, err := client.Hold(h.options.Dir, "c", int(state.Pid)) // for what it writes between two supervisors
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = held.Close() }()
			eventually(t, "the input is kept", func() bool { return open(t, os.Getpid(), "pipe:") == before+1 })
			h.replace()
			h.replace()
			if text := h.logged("c", logs.Stdout); text != "" {
				t.Errorf("the program went on: %q", text)
			}
			c.end(h)
			h.replace()
			h.wait("c", "")
			if text := h.logged("c", logs.Stdout); !strings.HasSuffix(text, "END\n") {
				t.Errorf("logged: %q", text)
			}
			h.delete("c", "")
			eventually(t, "the input is closed", func() bool { return open(t, os.Getpid(), "pipe:") == before })
		})
	}
}
