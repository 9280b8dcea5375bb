package e2e

import (
	"strings"
	"testing"
)

func TestInit(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		if got := must(t, do("run", "--rm", "--init", "toolbox", "cat", "/proc/1/cmdline")); strings.ReplaceAll(got, "\x00", " ") != "/sbin/docker-init -- cat /proc/1/cmdline " {
			t.Errorf("the first process is %q", got)
		}
		for command, want := range map[string]int{"exit 6": 6, "kill -9 $$": 137, "echo x > /sbin/docker-init": 1} {
			if r := do("run", "--rm", "--init", "toolbox", "sh", "-c", command); r.code != want {
				t.Errorf("%s: exit %d, want %d: %s", command, r.code, want, r.err)
			}
		}
		if r := do("run", "--rm", "--init", "toolbox", "no-such-command"); r.code != 127 || !strings.Contains(r.out+r.err, "no-such-command") {
			t.Errorf("a missing command: exit %d: %s%s", r.code, r.out, r.err)
		}
		// A first process without handlers would ignore SIGTERM: under an init it is stopped at once by it.
		must(t, do("run", "-d", "--init", "--name", "with-init", "toolbox", "sleep", "1000"))
		defer do("rm", "-f", "with-init")
		if got := must(t, do("inspect", "-f", "{{.Path}} {{.Args}} {{.HostConfig.Init}}", "with-init")); got != "sleep [1000] true" {
			t.Errorf("inspect: %q", got)
		}
		must(t, do("stop", "-t", "50", "with-init"))
		if got := must(t, do("inspect", "-f", "{{.State.ExitCode}}", "with-init")); got != "143" {
			t.Errorf("stopped: exit %s, want 143", got)
		}
	})
}

func TestInitTerminal(t *testing.T) {
	for _, name := range []string{"gantry", "docker"} {
		r := terminal(t, name, "echo sum=$((40+2))\nexit 9\n", "run", "--rm", "-it", "--init", "toolbox")
		if r.code != 9 || !strings.Contains(r.out, "sum=42") {
			t.Errorf("%s: exit %d: %q", name, r.code, r.out)
		}
	}
}
