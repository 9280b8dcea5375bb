package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestOutputAndExitCodes(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		for _, c := range []struct {
			name      string
			args      []string
			code      int
			out, text string // exact standard output; part of standard error
		}{
			{"output", []string{"run", "--rm", "toolbox", "echo", "hello"}, 0, "hello\n", ""},
			{"streams", []string{"run", "--rm", "toolbox", "sh", "-c", "echo out; echo problem >&2"}, 0, "out\n", "problem"},
			{"exit code", []string{"run", "--rm", "toolbox", "sh", "-c", "exit 7"}, 7, "", ""},
			{"killed", []string{"run", "--rm", "toolbox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, 137, "", ""},
			{"no such command", []string{"run", "--rm", "toolbox", "no-such-command"}, 127, "", "executable file not found"},
			{"no such path", []string{"run", "--rm", "toolbox", "/no/such/command"}, 127, "", "no such file or directory"},
			{"not executable", []string{"run", "--rm", "toolbox", "/etc/passwd"}, 126, "", "permission denied"},
			{"a directory", []string{"run", "--rm", "toolbox", "/etc"}, 126, "", ""},
			{"unknown user", []string{"run", "--rm", "-u", "nobody-knows", "toolbox", "true"}, 125, "", "unable to find user nobody-knows"},
			{"unknown flag", []string{"run", "--no-such-flag", "toolbox"}, 125, "", "no-such-flag"},
			{"unknown image", []string{"run", "--rm", "127.0.0.1:1/none:1", "true"}, 125, "", "127.0.0.1:1"},
			{"missing bind source", []string{"run", "--rm", "--mount", "type=bind,src=/no/such,dst=/x", "toolbox", "true"}, 125, "", "/no/such"},
			{"memory below the minimum", []string{"run", "--rm", "-m", "1m", "toolbox", "true"}, 125, "", "6"},
			{"unknown capability", []string{"run", "--rm", "--cap-add", "FLY", "toolbox", "true"}, 125, "", "FLY"},
			{"user", []string{"run", "--rm", "-u", "1000:1000", "toolbox", "id", "-u"}, 0, "1000\n", ""},
			{"environment", []string{"run", "--rm", "-e", "A=b c", "toolbox", "sh", "-c", "echo $A"}, 0, "b c\n", ""},
			{"directory", []string{"run", "--rm", "-w", "/tmp", "toolbox", "pwd"}, 0, "/tmp\n", ""},
			{"host name", []string{"run", "--rm", "-h", "crane", "toolbox", "hostname"}, 0, "crane\n", ""},
			{"read-only", []string{"run", "--rm", "--read-only", "toolbox", "touch", "/x"}, 1, "", "read-only"},
			{"first process", []string{"run", "--rm", "toolbox", "sh", "-c", "echo $$"}, 0, "1\n", ""},
			{"entrypoint", []string{"run", "--rm", "--entrypoint", "echo", "toolbox", "x"}, 0, "x\n", ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := do(c.args...)
				if r.code != c.code {
					t.Errorf("exit %d, want %d: %s", r.code, c.code, r.err)
				}
				if r.out != c.out {
					t.Errorf("output %q, want %q", r.out, c.out)
				}
				if !strings.Contains(r.err, c.text) {
					t.Errorf("standard error %q has no %q", r.err, c.text)
				}
			})
		}
		if left := must(t, do("ps", "-aq")); left != "" {
			t.Errorf("containers left: %s", left)
		}
	})
}

func TestLifeCycle(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		id := must(t, do("run", "-d", "--name", "life", "toolbox", "sh", "-c", "echo one; echo two >&2; exec sleep 1000"))
		defer do("rm", "-f", "life")
		if got := must(t, do("inspect", "-f", "{{.State.Status}} {{.Id}}", "life")); got != "running "+id {
			t.Errorf("inspect: %q", got)
		}
		eventually(t, "both lines are logged", func() bool {
			r := do("logs", "life")
			return r.out == "one\n" && r.err == "two\n"
		})
		if r := do("run", "--name", "life", "toolbox", "true"); r.code != 125 || !strings.Contains(r.err, "already in use") {
			t.Errorf("a taken name: exit %d: %s", r.code, r.err)
		}
		for command, want := range map[string]int{"exit 3": 3, "kill -9 $$": 137, "true": 0} {
			if r := do("exec", "life", "sh", "-c", command); r.code != want {
				t.Errorf("exec %q: exit %d, want %d: %s", command, r.code, want, r.err)
			}
		}
		if r := do("exec", "life", "no-such-command"); r.code != 127 {
			t.Errorf("exec of a missing command: exit %d: %s", r.code, r.err)
		}
		if got := must(t, do("exec", "-e", "A=1", "-w", "/tmp", "-u", "1000", "life", "sh", "-c", "echo $A $(pwd) $(id -u)")); got != "1 /tmp 1000" {
			t.Errorf("exec: %q", got)
		}
		if r := do("rm", "life"); r.code == 0 {
			t.Error("a running container was removed without force")
		}
		must(t, do("pause", "life"))
		if got := must(t, do("inspect", "-f", "{{.State.Status}}", "life")); got != "paused" {
			t.Errorf("paused: %q", got)
		}
		must(t, do("unpause", "life"))
		must(t, do("stop", "-t", "1", "life"))
		if got := must(t, do("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "life")); got != "exited 137" && got != "exited 143" {
			t.Errorf("stopped: %q", got)
		}
		must(t, do("start", "life"))
		if got := must(t, do("ps", "--format", "{{.Names}}")); got != "life" {
			t.Errorf("ps: %q", got)
		}
		must(t, do("rename", "life", "after"))
		must(t, do("rm", "-f", "after"))
		if r := do("inspect", "after"); r.code == 0 {
			t.Error("it can be inspected after its removal")
		}
	})
}

func TestLogs(t *testing.T) {
	id := must(t, command("gantry", shared, "run", "-d", "toolbox", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; sleep 2; echo last"))
	defer command("gantry", shared, "rm", "-f", id)
	both(t, func(t *testing.T, do func(args ...string) result) {
		eventually(t, "five lines", func() bool { return strings.Count(do("logs", id).out, "\n") >= 5 })
		if got := strings.Fields(must(t, do("logs", "--tail", "1", "-t", id))); len(got) < 2 {
			t.Errorf("logs --tail 1 -t: %q", got)
		} else if _, err := time.Parse(time.RFC3339Nano, got[0]); err != nil {
			t.Error(err)
		}
		followed := must(t, do("logs", "-f", id))
		if followed != "line 1\nline 2\nline 3\nline 4\nline 5\nlast" {
			t.Errorf("followed: %q", followed)
		}
		if got := do("logs", "--since", "1h", "--until", "1s", id).out; strings.Contains(got, "last") && !strings.HasPrefix(got, "line 1") {
			t.Errorf("since and until: %q", got)
		}
		if got := must(t, do("wait", id)); got != "0" {
			t.Errorf("wait: %q", got)
		}
	})
}

func TestStandardInput(t *testing.T) {
	for _, name := range []string{"gantry", "docker"} {
		cmd := client(t.Context(), name, shared, "run", "--rm", "-i", "toolbox", "cat")
		cmd.Stdin = strings.NewReader(strings.Repeat("0123456789\n", 50_000))
		if r := finish(cmd); r.code != 0 || len(r.out) != 550_000 {
			t.Errorf("%s: exit %d, %d bytes came back: %s", name, r.code, len(r.out), r.err)
		}
	}
}

// terminal runs a command line on a terminal of script(1), types lines, and returns what the screen shows.
func terminal(t *testing.T, name string, typed string, args ...string) result {
	t.Helper()
	plain := client(t.Context(), name, shared, args...)
	quoted := make([]string, len(plain.Args))
	for i, a := range plain.Args {
		quoted[i] = "'" + a + "'"
	}
	cmd := client(t.Context(), name, shared)
	cmd.Path, cmd.Args = "/usr/bin/script", []string{"script", "-qec", strings.Join(quoted, " "), "/dev/null"}
	cmd.Stdin = typing(t, typed)
	return finish(cmd)
}

func TestTerminal(t *testing.T) {
	for _, name := range []string{"gantry", "docker"} {
		r := terminal(t, name, "echo sum=$((40+2))\nexit 9\n", "run", "--rm", "-it", "toolbox")
		if r.code != 9 || !strings.Contains(r.out, "sum=42") {
			t.Errorf("%s: exit %d: %q", name, r.code, r.out)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		id := must(t, do("run", "-d", "-m", "64m", "toolbox", "hog", "memory", "200m"))
		defer do("rm", "-f", id)
		if got := must(t, do("wait", id)); got != "137" {
			t.Errorf("exit %s, want 137", got)
		}
		if got := must(t, do("inspect", "-f", "{{.State.OOMKilled}}", id)); got != "true" {
			t.Errorf("OOMKilled %s", got)
		}
	})
}

// TestCPULimit compares what a container that wants all got with what it may have, by the kernel's own accounting: of periods,
// since a busy machine may give it less, and of those in which it was held back, since only these got their whole share.
func TestCPULimit(t *testing.T) {
	id := must(t, command("gantry", shared, "run", "-d", "--cpus", "0.1", "toolbox", "hog", "cpu", "2"))
	defer command("gantry", shared, "rm", "-f", id)
	first := cpuOf(t, id)
	last := first
	eventually(t, "thirty periods of the limit have passed, twenty of which held the container back", func() bool {
		last = cpuOf(t, id)
		return last.Throttling.Periods >= first.Throttling.Periods+30 && last.Throttling.Held >= first.Throttling.Held+20
	})
	const share = 10_000_000 // of a period, in nanoseconds
	periods, held := last.Throttling.Periods-first.Throttling.Periods, last.Throttling.Held-first.Throttling.Held
	used := last.Usage.Total - first.Usage.Total
	// The periods at both ends are counted by halves.
	if most, least := (periods+2)*share*11/10, (held-2)*share*9/10; used > most || used < least {
		t.Errorf("it had %d ns in %d periods, %d of which held it back: want %d to %d", used, periods, held, least, most)
	}
	if got := must(t, command("gantry", shared, "stats", "--no-stream", "--format", "{{.CPUPerc}}", id)); !strings.HasSuffix(got, "%") || got == "0.00%" {
		t.Errorf("stats shows %s", got)
	}
}

// cpuStats is what a container had of the processors, in nanoseconds, and by how many periods of its limit.
type cpuStats struct {
	Usage struct {
		Total uint64 `json:"total_usage"`
	} `json:"cpu_usage"`
	Throttling struct {
		Periods uint64 `json:"periods"`
		Held    uint64 `json:"throttled_periods"`
	} `json:"throttling_data"`
}

func cpuOf(t *testing.T, id string) cpuStats {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(shared.host, "unix://"))
	}}
	r, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://gantry/containers/" + id + "/stats?stream=0&one-shot=1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var stats struct {
		CPU cpuStats `json:"cpu_stats"`
	}
	if err := json.NewDecoder(r.Body).Decode(&stats); err != nil {
		t.Fatal(err)
	}
	return stats.CPU
}

func TestPidsLimit(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		id := must(t, do("run", "-d", "--pids-limit", "50", "toolbox", "hog", "fork", "200"))
		defer do("rm", "-f", id)
		eventually(t, "the limit is reached", func() bool {
			return strings.Contains(do("logs", id).err+do("logs", id).out, "resource temporarily unavailable")
		})
		top := must(t, do("top", id))
		if n := strings.Count(top, "\n"); n > 50 {
			t.Errorf("%d processes run under a limit of 50", n)
		}
	})
}

func TestVolumes(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		dir := t.TempDir()
		must(t, do("run", "--rm", "-v", dir+":/data", "toolbox", "sh", "-c", "echo kept > /data/file"))
		if got := must(t, do("run", "--rm", "-v", dir+":/data:ro", "toolbox", "cat", "/data/file")); got != "kept" {
			t.Errorf("bind: %q", got)
		}
		if r := do("run", "--rm", "-v", dir+":/data:ro", "toolbox", "touch", "/data/x"); r.code == 0 {
			t.Error("a read-only bind was written to")
		}
		must(t, do("run", "--rm", "-v", "ledger:/data", "toolbox", "sh", "-c", "echo volume > /data/file"))
		if got := must(t, do("run", "--rm", "-v", "ledger:/data", "toolbox", "cat", "/data/file")); got != "volume" {
			t.Errorf("volume: %q", got)
		}
		must(t, do("volume", "rm", "ledger"))
		if got := must(t, do("run", "--rm", "--tmpfs", "/scratch:size=1m", "toolbox", "sh", "-c", "mount | grep /scratch")); !strings.Contains(got, "tmpfs") {
			t.Errorf("tmpfs: %q", got)
		}
	})
}

func TestNetworkModes(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		if got := must(t, do("run", "--rm", "--network", "none", "toolbox", "ip", "link")); strings.Contains(got, "eth0") {
			t.Errorf("none: %q", got)
		}
		if got := must(t, do("run", "--rm", "--network", "host", "toolbox", "ip", "addr")); !strings.Contains(got, hostAddress(t)) {
			t.Errorf("host: %q", got)
		}
		id := must(t, do("run", "-d", "toolbox", "sleep", "1000"))
		defer do("rm", "-f", id)
		ip := must(t, do("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id))
		if got := must(t, do("run", "--rm", "--network", "container:"+id, "toolbox", "ip", "addr")); !strings.Contains(got, ip+"/") {
			t.Errorf("container: %q has no %s", got, ip)
		}
		if got := must(t, do("exec", id, "cat", "/etc/hosts")); !strings.Contains(got, ip+"\t"+id[:12]) {
			t.Errorf("/etc/hosts: %q", got)
		}
	})
}

func TestPlanIsPrinted(t *testing.T) {
	got := must(t, command("gantry", shared, "run", "--plan", "-m", "64m", "toolbox", "true"))
	for _, want := range []string{"clone3(", "pivot_root(", "execve(", "seccomp("} {
		if !strings.Contains(got, want) {
			t.Errorf("the plan has no %s:\n%s", want, got)
		}
	}
	if left := must(t, command("gantry", shared, "ps", "-aq")); left != "" {
		t.Errorf("a plan made containers: %s", left)
	}
}

func TestManyAtOnce(t *testing.T) {
	const n = 40
	errs := make(chan error, n)
	for i := range n {
		go func() {
			want := fmt.Sprint("number ", i)
			r := command("gantry", shared, "run", "--rm", "toolbox", "echo", want)
			if r.code != 0 || r.out != want+"\n" {
				errs <- fmt.Errorf("exit %d: %q %q", r.code, r.out, r.err)
				return
			}
			errs <- nil
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
