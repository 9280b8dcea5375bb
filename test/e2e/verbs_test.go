package e2e

import (
	"strconv"
	"strings"
	"testing"
)

func TestRename(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		id := must(t, do("run", "-d", "--name", "one", "toolbox", "sleep", "1000"))
		defer do("rm", "-f", id)
		must(t, do("create", "--name", "taken", "toolbox"))
		defer do("rm", "-f", "taken")
		must(t, do("rename", "one", "two"))
		if got := must(t, do("inspect", "-f", "{{.Name}} {{.Id}}", "two")); got != "/two "+id {
			t.Errorf("renamed: %s", got)
		}
		for name, want := range map[string]string{"taken": "already in use", "two": "same name", "a b": "Invalid container name"} {
			if r := do("rename", "two", name); r.code != 1 || !strings.Contains(r.err, want) {
				t.Errorf("to %q: exit %d: %s", name, r.code, r.err)
			}
		}
		must(t, do("run", "--name", "one", "--rm", "toolbox", "true")) // the old name is free
	})
}

func TestPause(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		must(t, do("run", "-d", "--name", "frozen", "toolbox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"))
		defer do("rm", "-f", "frozen")
		must(t, do("pause", "frozen"))
		before := do("logs", "frozen").out
		if got := must(t, do("ps", "--filter", "status=paused", "--format", "{{.Names}} {{.Status}}")); !strings.HasPrefix(got, "frozen Up ") || !strings.HasSuffix(got, "(Paused)") {
			t.Errorf("ps: %q", got)
		}
		for verb, want := range map[string]string{"pause": "already paused", "start": "cannot start a paused container", "exec": "is paused"} {
			args := []string{verb, "frozen"}
			if verb == "exec" {
				args = append(args, "true")
			}
			if r := do(args...); r.code != 1 || !strings.Contains(r.err, want) {
				t.Errorf("%s: exit %d: %s", verb, r.code, r.err)
			}
		}
		if got := do("logs", "frozen").out; got != before {
			t.Error("it went on while it was paused")
		}
		must(t, do("unpause", "frozen"))
		eventually(t, "it goes on", func() bool { return len(do("logs", "frozen").out) > len(before) })
		if r := do("unpause", "frozen"); r.code != 1 || !strings.Contains(r.err, "not paused") {
			t.Errorf("unpause: exit %d: %s", r.code, r.err)
		}
		must(t, do("pause", "frozen"))
		must(t, do("stop", "-t", "0", "frozen"))
		if got := must(t, do("inspect", "-f", "{{.State.Status}} {{.State.Paused}}", "frozen")); got != "exited false" {
			t.Errorf("stopped: %s", got)
		}
	})
}

func TestUpdateTopStats(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		must(t, do("run", "-d", "--name", "seen", "-m", "64m", "--pids-limit", "40", "toolbox", "sh", "-c", "sleep 999 & sleep 1000"))
		defer do("rm", "-f", "seen")
		must(t, do("update", "-m", "96m", "--memory-swap", "96m", "--cpus", "0.5", "--pids-limit", "50", "seen"))
		if got := must(t, do("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}", "seen")); got != "100663296 100663296 500000000 50" {
			t.Errorf("inspect: %s", got)
		}
		stats := strings.Fields(must(t, do("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "seen")))
		if len(stats) != 5 || stats[0] != "seen" || stats[4] != "96MiB" {
			t.Errorf("stats: %q", stats)
		} else if tasks, err := strconv.Atoi(stats[1]); err != nil || tasks < 3 || tasks > 50 { // threads count
			t.Errorf("stats: %s processes", stats[1])
		}
		if r := do("update", "-m", "1k", "seen"); r.code != 1 {
			t.Errorf("too little memory: exit %d: %s", r.code, r.err)
		}
		eventually(t, "all processes are listed", func() bool {
			top := must(t, do("top", "seen"))
			return strings.HasPrefix(top, "UID") && strings.Contains(top, "sleep 999") && strings.Contains(top, "sleep 1000") && strings.Count(top, "\n") == 3
		})
		pid := must(t, do("inspect", "-f", "{{.State.Pid}}", "seen"))
		if top := must(t, do("top", "seen", "-o", "pid,comm")); !strings.Contains(top, pid) || !strings.Contains(top, "COMMAND") || strings.Contains(top, "UID") {
			t.Errorf("top -o pid,comm: %q", top)
		}
		must(t, do("stop", "-t", "0", "seen"))
		if r := do("top", "seen"); r.code != 1 || !strings.Contains(r.err, "is not running") {
			t.Errorf("top of a stopped one: exit %d: %s", r.code, r.err)
		}
		must(t, do("update", "-m", "128m", "--memory-swap", "-1", "seen"))
		must(t, do("start", "seen"))
		if got := strings.Fields(must(t, do("stats", "--no-stream", "--format", "{{.MemUsage}}", "seen"))); len(got) != 3 || got[2] != "128MiB" {
			t.Errorf("after a restart: %q", got)
		}
	})
}

func TestWait(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		dir := t.TempDir()
		script := "while [ ! -e /tell/" + "$NAME ]; do sleep 0.02; done; exit $CODE"
		ended := make(chan result, 1)
		for i, name := range []string{"first", "second"} {
			must(t, do("run", "-d", "--name", name, "-e", "NAME="+name, "-e", "CODE="+strconv.Itoa(10+i), "-v", dir+":/tell", "toolbox", "sh", "-c", script))
			defer do("rm", "-f", name)
		}
		go func() { ended <- do("wait", "first", "second") }()
		writeText(t, dir+"/second", "")
		writeText(t, dir+"/first", "")
		if got := must(t, <-ended); got != "10\n11" {
			t.Errorf("wait: %q", got)
		}
		if got := must(t, do("wait", "first")); got != "10" { // ended long ago
			t.Errorf("wait again: %q", got)
		}
		if r := do("wait", "nobody"); r.code != 1 || !strings.Contains(r.err, "No such container") {
			t.Errorf("wait for nobody: exit %d: %s", r.code, r.err)
		}
		// A container that removes itself: its client waits for the removal, and has its exit code.
		for _, command := range []string{"true", "exit 9"} {
			r := do("run", "--rm", "--name", "brief", "toolbox", "sh", "-c", command)
			if want := map[string]int{"true": 0, "exit 9": 9}[command]; r.code != want {
				t.Errorf("%s: exit %d", command, r.code)
			}
			if r := do("inspect", "brief"); r.code == 0 {
				t.Error("it is still there after its run")
			}
		}
	})
}
