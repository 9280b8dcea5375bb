package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// health is State.Health.
type health struct {
	Status        string
	FailingStreak int
	Log           []struct {
		Start, End time.Time
		ExitCode   int
		Output     string
	}
}

func healthOf(t *testing.T, do func(args ...string) result, name string) health {
	t.Helper()
	var h health
	if err := json.Unmarshal([]byte(must(t, do("inspect", "-f", "{{json .State.Health}}", name))), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHealth(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		defer do("rm", "-f", "well")
		began := time.Now()
		must(t, do("run", "-d", "--name", "well", "--health-cmd", "echo checked; test -e /tmp/well", "--health-interval", "50ms", "--health-retries", "2",
			"--health-start-period", "200ms", "--health-start-interval", "20ms", "toolbox", "sleep", "1000"))
		if got := must(t, do("ps", "--filter", "name=well", "--format", "{{.Status}}")); !strings.HasSuffix(got, "(health: starting)") && !strings.HasSuffix(got, "(unhealthy)") {
			t.Errorf("at the start: %q", got)
		}
		eventually(t, "it is found unhealthy", func() bool { return healthOf(t, do, "well").Status == "unhealthy" })
		must(t, do("exec", "well", "touch", "/tmp/well"))
		eventually(t, "it is found healthy", func() bool { return healthOf(t, do, "well").Status == "healthy" })
		if got := must(t, do("ps", "--filter", "health=healthy", "--format", "{{.Names}} {{.Status}}")); !strings.HasPrefix(got, "well Up ") || !strings.HasSuffix(got, "(healthy)") {
			t.Errorf("ps: %q", got)
		}
		if got := must(t, do("ps", "-q", "--filter", "health=unhealthy")); got != "" {
			t.Errorf("unhealthy: %q", got)
		}
		eventually(t, "five results are kept", func() bool {
			h := healthOf(t, do, "well")
			last := h.Log[len(h.Log)-1]
			return len(h.Log) == 5 && h.FailingStreak == 0 && last.ExitCode == 0 && last.Output == "checked\n" && !last.End.Before(last.Start)
		})
		must(t, do("pause", "well"))
		must(t, do("unpause", "well"))
		must(t, do("stop", "-t", "0", "well"))
		if h := healthOf(t, do, "well"); h.Status != "unhealthy" {
			t.Errorf("stopped, it is %s", h.Status)
		}
		out := must(t, do("events", "--since", began.Format(time.RFC3339Nano), "--until", time.Now().Format(time.RFC3339Nano), "--filter", "container=well", "--filter", "event=health_status", "--format", "{{.Action}}"))
		if want := "health_status: unhealthy\nhealth_status: healthy"; out != want {
			t.Errorf("events %q, want %q", out, want)
		}
		eventually(t, "no execution is left", func() bool {
			got := must(t, do("inspect", "-f", "{{.ExecIDs}}", "well"))
			return got == "[]" || got == "<nil>"
		})
	})
}

func TestHealthFailures(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		for _, c := range []struct{ name, command, output string }{
			{"ill-slow", "echo begun; sleep 1000", "Health check exceeded timeout (100ms): begun\n"},
			{"ill-exit", "echo why >&2; exit 1", "why\n"},
		} {
			must(t, do("run", "-d", "--name", c.name, "--health-cmd", c.command, "--health-interval", "20ms", "--health-timeout", "100ms", "--health-retries", "1", "toolbox", "sleep", "1000"))
			defer do("rm", "-f", c.name)
			eventually(t, c.name+" is found unhealthy", func() bool { return healthOf(t, do, c.name).Status == "unhealthy" })
			if h := healthOf(t, do, c.name); h.Log[0].Output != c.output || h.Log[0].ExitCode == 0 {
				t.Errorf("%s: %+v", c.name, h.Log[0])
			}
		}
		if got := strings.Fields(must(t, do("ps", "-q", "--filter", "health=unhealthy"))); len(got) != 2 {
			t.Errorf("unhealthy: %q", got)
		}
		if r := do("run", "--rm", "--health-cmd", "true", "--health-interval", "1us", "toolbox", "true"); r.code != 125 || !strings.Contains(r.err, "1ms") {
			t.Errorf("a microsecond: exit %d: %s", r.code, r.err)
		}
		must(t, do("run", "-d", "--name", "ill-not", "--no-healthcheck", "toolbox", "sleep", "1000"))
		defer do("rm", "-f", "ill-not")
		if got := must(t, do("inspect", "-f", "{{json .State.Health}}", "ill-not")); got != "null" {
			t.Errorf("without a check: %s", got)
		}
		if got := must(t, do("ps", "--filter", "health=none", "--filter", "name=ill-", "--format", "{{.Names}}")); got != "ill-not" {
			t.Errorf("health=none: %q", got)
		}
	})
}

// TestHealthSurvivesTheEngine kills the engine: its successor knows the state, and goes on with the checks.
func TestHealthSurvivesTheEngine(t *testing.T) {
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
	must(t, do("run", "-d", "--name", "often", "--health-cmd", "test ! -e /tmp/ill", "--health-interval", "20ms", "--health-retries", "1", "toolbox", "sleep", "1000"))
	must(t, do("run", "-d", "--name", "rarely", "--health-cmd", "true", "--health-start-period", "1h", "--health-start-interval", "20ms", "--health-interval", "1h", "toolbox", "sleep", "1000"))
	for _, name := range []string{"often", "rarely"} {
		eventually(t, name+" is found healthy", func() bool { return healthOf(t, do, name).Status == "healthy" })
	}
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	if h := healthOf(t, do, "rarely"); h.Status != "healthy" || len(h.Log) == 0 {
		t.Errorf("after the engine's end: %+v", h)
	}
	must(t, do("exec", "often", "touch", "/tmp/ill"))
	eventually(t, "it is found unhealthy", func() bool { return healthOf(t, do, "often").Status == "unhealthy" })
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}

// TestHealthEndsItsDescendants: a probe that times out leaves nothing behind, whatever it has started.
func TestHealthEndsItsDescendants(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		for name, check := range map[string]string{
			"probing-child":  "sleep 5000 & wait",
			"probing-orphan": "sh -c 'sleep 5000 &'; sleep 6000",
		} {
			must(t, do("run", "-d", "--name", name, "--health-cmd", check, "--health-interval", "50ms", "--health-timeout", "300ms", "--health-retries", "3", "toolbox", "sleep", "1000"))
			defer do("rm", "-f", name)
			eventually(t, name+" is found unhealthy", func() bool { return healthOf(t, do, name).Status == "unhealthy" })
			eventually(t, "at most one probe runs", func() bool { return strings.Count(must(t, do("top", name)), "5000") <= 2 })
			failed := healthOf(t, do, name).FailingStreak
			eventually(t, "there are more probes", func() bool { return healthOf(t, do, name).FailingStreak > failed+3 })
			if got := must(t, do("top", name)); strings.Count(got, "5000") > 3 { // of the probe that runs: a shell, its child, a sleep
				t.Errorf("after %d failures: %s", failed+3, got)
			}
		}
	})
}
