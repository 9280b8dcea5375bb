package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestOOMWhileRunning: a child, and a command of exec, that are killed for want of memory are told of while the container runs.
func TestOOMWhileRunning(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		const eat = "a=x; while true; do a=$a$a; done"
		for name, how := range map[string]func(){
			"hungry-exec":  func() { do("exec", "hungry-exec", "sh", "-c", eat) },
			"hungry-child": func() {},
		} {
			began := time.Now()
			script := "sleep 1000"
			if name == "hungry-child" {
				script = "sh -c '" + eat + "'; sleep 1000"
			}
			must(t, do("run", "-d", "--name", name, "-m", "50m", "--memory-swap", "50m", "toolbox", "sh", "-c", script))
			defer do("rm", "-f", name)
			how()
			eventually(t, name+": OOMKilled while it runs", func() bool {
				return must(t, do("inspect", "-f", "{{.State.OOMKilled}} {{.State.Running}}", name)) == "true true"
			})
			ooms := func() int {
				out := must(t, do("events", "--since", fmt.Sprint(began.Unix()), "--until", time.Now().Format(time.RFC3339Nano), "--filter", "container="+name, "--filter", "event=oom", "--format", "{{.Action}}"))
				return strings.Count(out, "oom")
			}
			if ooms() == 0 {
				t.Errorf("%s: no event", name)
			}
			before := ooms()
			must(t, do("kill", name))
			must(t, do("wait", name))
			if got := must(t, do("inspect", "-f", "{{.State.OOMKilled}} {{.State.Running}}", name)); got != "true false" {
				t.Errorf("%s: after the end: %s", name, got)
			}
			if got := ooms(); got != before {
				t.Errorf("%s: %d events, %d before the end", name, got, before)
			}
			must(t, do("start", name))
			if name == "hungry-exec" {
				if got := must(t, do("inspect", "-f", "{{.State.OOMKilled}} {{.State.Running}}", name)); got != "false true" {
					t.Errorf("%s: after another start: %s", name, got)
				}
			}
		}
	})
}
