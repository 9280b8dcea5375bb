package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestRestartPolicies(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		state := func(name string) string {
			return must(t, do("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", name))
		}
		must(t, do("run", "-d", "--name", "fails", "--restart", "on-failure:2", "toolbox", "sh", "-c", "echo run; exit 3"))
		defer do("rm", "-f", "fails")
		eventually(t, "it is given up after two more runs", func() bool { return state("fails") == "exited 3 2" })
		if got := do("logs", "fails").out; got != "run\nrun\nrun\n" {
			t.Errorf("it ran: %q", got)
		}
		must(t, do("start", "fails")) // the policy begins anew
		eventually(t, "it is given up again", func() bool {
			return state("fails") == "exited 3 2" && strings.Count(do("logs", "fails").out, "run") == 6
		})
		must(t, do("run", "-d", "--name", "succeeds", "--restart", "on-failure", "toolbox", "true"))
		defer do("rm", "-f", "succeeds")
		eventually(t, "success ends it", func() bool { return state("succeeds") == "exited 0 0" })

		must(t, do("run", "-d", "--name", "ever", "--restart", "unless-stopped", "toolbox", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"))
		defer do("rm", "-f", "ever")
		pid := must(t, do("inspect", "-f", "{{.State.Pid}}", "ever"))
		must(t, do("exec", "ever", "sh", "-c", "kill -9 1; kill -TERM 1"))
		eventually(t, "it runs again", func() bool {
			got := strings.Fields(must(t, do("inspect", "-f", "{{.State.Status}} {{.State.Pid}} {{.RestartCount}}", "ever")))
			return got[0] == "running" && got[1] != pid && got[2] == "1"
		})
		must(t, do("kill", "-s", "TERM", "ever"))
		eventually(t, "its stop signal ends it for good", func() bool { return strings.HasPrefix(state("ever"), "exited") })
		must(t, do("update", "--restart", "no", "ever"))
		if got := must(t, do("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", "ever")); got != "no" {
			t.Errorf("updated: %s", got)
		}
	})
}

// TestRestartAfterAKill kills the engine: its successor does what the policies want of it.
func TestRestartAfterAKill(t *testing.T) {
	dir, err := os.MkdirTemp("", "gantry-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d, err := startDaemon(dir)
	if err != nil {
		t.Fatal(err)
	}
	do := func(args ...string) result { return command("docker", d, args...) }
	fifo := t.TempDir() // containers end when told by a file in it, while no engine looks
	loop := func(code int) string {
		return "while [ ! -e /tell/end ]; do sleep 0.02; done; exit " + strconv.Itoa(code)
	}
	once := "echo run; [ -e /tmp/again ] && exec sleep 1000; touch /tmp/again; "
	for _, c := range [][]string{
		{"always", "always", once + loop(0)},
		{"unless", "unless-stopped", once + loop(0)},
		{"failure", "on-failure:1", once + loop(1)},
		{"success", "on-failure", once + loop(0)},
		{"never", "no", once + loop(1)},
		{"used-up", "on-failure:1", "echo run; exit 1"},
		{"always-stopped", "always", "echo run; sleep 1000"},
		{"unless-was-stopped", "unless-stopped", "echo run; sleep 1000"},
	} {
		must(t, do("run", "-d", "--name", c[0], "--restart", c[1], "-v", fifo+":/tell", "toolbox", "sh", "-c", c[2]))
	}
	for _, name := range []string{"always-stopped", "unless-was-stopped"} {
		eventually(t, name+" runs", func() bool { return do("logs", name).out != "" })
		must(t, do("stop", "-t", "0", name))
	}
	eventually(t, "one is given up", func() bool { return strings.Count(do("logs", "used-up").out, "run") == 2 })
	eventually(t, "it is recorded", func() bool { return must(t, do("inspect", "-f", "{{.State.Status}}", "used-up")) == "exited" })
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	writeText(t, fifo+"/end", "")
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"always": "running 2", "unless": "running 2", "failure": "running 2", "success": "exited 1", "never": "exited 1",
		"used-up": "exited 2", "always-stopped": "running 2", "unless-was-stopped": "exited 1",
	} {
		var got string
		for range 500 {
			got = must(t, do("inspect", "-f", "{{.State.Status}}", name)) + " " + strconv.Itoa(strings.Count(do("logs", name).out, "run"))
			if got == want {
				break
			}
		}
		if got != want {
			t.Errorf("%s: %s (runs), want %s", name, got, want)
		}
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}

func TestStopSignalAndTimeout(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		script := "trap 'exit 41' USR1; trap 'exit 42' TERM; trap 'exit 43' INT; while :; do sleep 0.05; done"
		for _, c := range []struct {
			flags, stop []string
			code        string
		}{
			{nil, nil, "42"},
			{[]string{"--stop-signal", "SIGUSR1"}, nil, "41"},
			{[]string{"--stop-signal", "10"}, nil, "41"},
			{[]string{"--stop-signal", "USR1"}, []string{"-s", "INT"}, "43"},
			{[]string{"--stop-signal", "HUP", "--stop-timeout", "0"}, nil, "137"},
		} {
			id := must(t, do(append(append([]string{"run", "-d"}, c.flags...), "toolbox", "sh", "-c", "trap '' HUP; "+strings.Replace(script, "while", "echo up; while", 1))...))
			eventually(t, "it has its handlers", func() bool { return do("logs", id).out == "up\n" })
			must(t, do(append(append([]string{"stop"}, c.stop...), id)...))
			if got := must(t, do("inspect", "-f", "{{.State.ExitCode}}", id)); got != c.code {
				t.Errorf("%v, stop %v: exit %s, want %s", c.flags, c.stop, got, c.code)
			}
			must(t, do("rm", id))
		}
		if r := do("run", "--rm", "--stop-signal", "NOPE", "toolbox", "true"); r.code != 125 || !strings.Contains(r.err, "NOPE") {
			t.Errorf("an unknown signal: exit %d: %s", r.code, r.err)
		}
	})
}
