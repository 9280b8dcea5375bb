package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// api sends a request to an engine and returns the answer, of which only the header has come. The connection ends with
// the test.
func api(t *testing.T, d *daemon, method, path, body string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", strings.TrimPrefix(d.host, "unix://"))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	request, err := http.NewRequestWithContext(ctx, method, "http://engine/v1.44"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

// TestStreamsEnd removes a container: every stream of it ends.
func TestStreamsEnd(t *testing.T) {
	do := func(args ...string) result { return command("gantry", shared, args...) }
	for _, c := range []struct{ name, create, method, path, body string }{
		{"stats", "run -d", "GET", "/containers/ending/stats", ""},
		{"stats of one that does not run", "create", "GET", "/containers/ending/stats", ""},
		{"logs", "run -d", "GET", "/containers/ending/logs?stdout=1&follow=1", ""},
		{"attach", "run -d", "POST", "/containers/ending/attach?stream=1&stdout=1&stderr=1", ""},
		{"attach before the start", "create", "POST", "/containers/ending/attach?stream=1&stdout=1&stderr=1", ""},
		{"wait", "run -d", "POST", "/containers/ending/wait", ""},
		{"wait for the next exit", "create", "POST", "/containers/ending/wait?condition=next-exit", ""},
		{"wait for the removal", "run -d", "POST", "/containers/ending/wait?condition=removed", ""},
		{"exec", "run -d", "POST", "/exec/EXEC/start", "{}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, do(append(strings.Fields(c.create), "--name", "ending", "toolbox", "sleep", "1000")...))
			defer do("rm", "-f", "ending")
			path := c.path
			if before, after, found := strings.Cut(path, "EXEC"); found {
				path = before + newExec(t, false) + after
			}
			answer := api(t, shared, c.method, path, c.body)
			if answer.StatusCode != 200 {
				t.Fatalf("status %s", answer.Status)
			}
			must(t, do("rm", "-f", "ending"))
			if _, err := io.Copy(io.Discard, answer.Body); err != nil {
				t.Errorf("after the removal: %v", err)
			}
		})
	}
}

// newExec prepares the command of TestStreamsEnd and TestExecFrames in the container "ending".
func newExec(t *testing.T, tty bool) string {
	t.Helper()
	var created struct{ ID string }
	body := fmt.Sprintf(`{"AttachStdout":true,"AttachStderr":true,"Tty":%v,"Cmd":["sh","-c","printf out; printf err >&2; exec sleep 1000"]}`, tty)
	answer := api(t, shared, "POST", "/containers/ending/exec", body)
	if err := json.NewDecoder(answer.Body).Decode(&created); err != nil || created.ID == "" {
		t.Fatalf("%s: %v", answer.Status, err)
	}
	return created.ID
}

// TestExecFrames: whether output comes in frames depends on the start's Tty, not on the process's terminal, as with docker.
func TestExecFrames(t *testing.T) {
	do := func(args ...string) result { return command("gantry", shared, args...) }
	must(t, do("run", "-d", "--name", "ending", "toolbox", "sleep", "1000"))
	defer do("rm", "-f", "ending")
	for _, c := range []struct {
		terminal, raw bool
		out, err      string
	}{
		{false, false, "out", "err"},
		{false, true, "out", ""}, // docker passes on standard output alone
		{true, false, "outerr", ""},
		{true, true, "outerr", ""},
	} {
		answer := api(t, shared, "POST", "/exec/"+newExec(t, c.terminal)+"/start", fmt.Sprintf(`{"Tty":%v}`, c.raw))
		var out, errs lockedBuffer
		go func() {
			if c.raw {
				_, _ = io.Copy(&out, answer.Body)
			} else {
				_, _ = stdcopy.StdCopy(&out, &errs, answer.Body)
			}
		}()
		want := fmt.Sprintf("terminal %v, raw %v: %q and %q", c.terminal, c.raw, c.out, c.err)
		eventually(t, want, func() bool { return out.String() == c.out && errs.String() == c.err })
		_ = answer.Body.Close()
	}
}

func TestExecErrors(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		must(t, do("run", "-d", "--name", "refusing", "toolbox", "sleep", "1000"))
		defer do("rm", "-f", "refusing")
		for _, c := range []struct {
			args string
			code int
			err  string
		}{
			{"-u nosuch refusing true", 126, "unable to find user nosuch: no matching entries in passwd file"},
			{"-u 0:nosuch refusing true", 126, "unable to find group nosuch: no matching entries in group file"},
			{"refusing no-such-program", 127, "exec in container refusing: exec: \"no-such-program\": executable file not found in $PATH"},
		} {
			r := do(append([]string{"exec"}, strings.Fields(c.args)...)...)
			if r.code != c.code || r.out != "" || !strings.Contains(r.err, c.err) {
				t.Errorf("exec %s: exit %d, out %q, err %q", c.args, r.code, r.out, r.err)
			}
			if c.code == 126 && strings.TrimSpace(r.err) != c.err {
				t.Errorf("exec %s: %q", c.args, r.err)
			}
		}
	})
}

// lockedBuffer is a buffer that one goroutine fills while another looks at it.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestOutputClosed: a container whose output nobody reads any more goes on, its log has a bound, and the user is told.
func TestOutputClosed(t *testing.T) {
	do := func(args ...string) result { return command("gantry", shared, args...) }
	for _, c := range []struct {
		name, told string
		args       []string
	}{
		{"run", "goes on", []string{"run", "--rm", "--name", "talking", "toolbox", "yes"}},
		{"exec", "goes on", []string{"exec", "talking", "yes"}},
		{"attach", "goes on", []string{"attach", "talking"}},
		{"exec of little", "", []string{"exec", "talking", "seq", "100000"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := client(ctx, "gantry", shared, c.args...)
		var errs lockedBuffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer do("rm", "-f", "talking")
		if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
			t.Fatalf("%s: %v: %s", c.name, err, errs.String())
		}
		_ = out.Close()
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 141 || !strings.Contains(errs.String(), c.told) || c.told == "" && errs.String() != "" {
			t.Errorf("%s: exit %d, %q", c.name, code, errs.String())
		}
	}
	if got := must(t, do("inspect", "-f", "{{.State.Running}} {{json .HostConfig.LogConfig}}", "talking")); got != `true {"Type":"json-file","Config":{"max-file":"5","max-size":"20m"}}` {
		t.Errorf("the container is %s", got)
	}
}
