package shim_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
)

// wide is a script that prints 3 MB in lines of 8000 digits, and what it prints.
func wide() (script, output string) {
	var text strings.Builder
	for i := range 375 {
		fmt.Fprintf(&text, "%08000d\n", i)
	}
	return "i=0; while [ $i -lt 375 ]; do printf '%08000d\\n' $i; i=$((i+1)); done", text.String()
}

// ends waits for a process that nothing may hold back.
func (h *host) ends(id, execID string) int {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	r, err := h.Task.Wait(ctx, &task.WaitRequest{ID: id, ExecID: execID})
	if err != nil {
		h.t.Fatalf("%s %s does not end: %v", id, execID, err)
	}
	return int(r.ExitStatus)
}

// A client that reads nothing is cut off, and told so; the container goes on, and so do its log and its other clients.
func TestSuspendedClient(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		t.Run(fmt.Sprintf("terminal=%v", terminal), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			script, output := wide()
			options := []option{}
			if terminal {
				options = append(options, tty)
				output = strings.ReplaceAll(output, "\n", "\r\n")
			}
			h.create("c", script+"; exit 7", options...)
			suspended := h.attach(client.AttachRequest{ID: "c", Stdout: true, Stderr: true})
			other := make(chan string)
			reading := h.attach(client.AttachRequest{ID: "c", Stdout: true, Stderr: true})
			go func() {
				out, _ := io.ReadAll(reading)
				other <- string(out)
			}()
			h.start("c")
			if status := h.ends("c", ""); status != 7 {
				t.Errorf("status %d", status)
			}
			if got := h.logged("c", logs.Stdout); got != output {
				t.Errorf("%d bytes of %d are in the log", len(got), len(output))
			}
			all := <-other
			out, err := io.ReadAll(suspended)
			if err != nil {
				t.Error(err)
			}
			said := string(out)
			if !terminal {
				all, said = unframe(t, []byte(all), logs.Stdout), unframe(t, out, logs.Stderr)
				out = []byte(unframe(t, out, logs.Stdout))
			}
			if all != output {
				t.Errorf("the other client got %d bytes of %d", len(all), len(output))
			}
			if want := "gantry: cut off from the output: nothing was read here for 10s while more came; the container goes on\r\n"; !strings.HasSuffix(said, want) {
				t.Errorf("the suspended client is told %.200q", said[max(0, len(said)-200):])
			}
			if shown := strings.TrimSuffix(strings.TrimSuffix(string(out), said[strings.LastIndex(said, "gantry:"):]), "\r\n"); !strings.HasPrefix(output, shown) && !terminal {
				t.Error("what it got before is not the beginning of the output")
			}
		})
	}
}

// What is left of the output when a process ends waits for its client, and the exit does not.
func TestEndIsNotHeldBack(t *testing.T) {
	h := newHost(t)
	h.run("c", "sleep 100")
	const size = 400_000 // more than a socket and a pipe hold
	if err := h.exec("c", "few", fmt.Sprintf("head -c %d /proc/kpageflags", size), false); err != nil {
		t.Fatal(err)
	}
	late := h.attach(client.AttachRequest{ID: "c", ExecID: "few", Stdout: true})
	if _, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: "few"}); err != nil {
		t.Fatal(err)
	}
	if status := h.ends("c", "few"); status != 0 {
		t.Errorf("status %d", status)
	}
	out, err := io.ReadAll(late)
	if got := len(unframe(t, out, logs.Stdout)); err != nil || got != size {
		t.Errorf("%d bytes of %d, %v", got, size, err)
	}
}

// The only reader of an output that no log keeps gets all of it, whenever it reads: the process waits, as for a pipe.
func TestOnlyReader(t *testing.T) {
	h := newHost(t)
	h.run("c", "sleep 100")
	const size = 6_000_000
	if err := h.exec("c", "e", fmt.Sprintf("head -c %d /proc/kpageflags", size), false); err != nil {
		t.Fatal(err)
	}
	c := h.attach(client.AttachRequest{ID: "c", ExecID: "e", Stdout: true})
	if _, err := h.Task.Start(t.Context(), &task.StartRequest{ID: "c", ExecID: "e"}); err != nil {
		t.Fatal(err)
	}
	script, _ := wide() // its end comes only when its client, which is not the only reader, has been cut off
	h.create("later", script)
	suspended := h.attach(client.AttachRequest{ID: "later", Stdout: true})
	defer suspended.Close()
	h.start("later")
	h.ends("later", "")
	out, err := io.ReadAll(c)
	if got := len(unframe(t, out, logs.Stdout)); err != nil || got != size {
		t.Errorf("%d bytes of %d, %v", got, size, err)
	}
	if status := h.ends("c", "e"); status != 0 {
		t.Errorf("status %d", status)
	}
}
