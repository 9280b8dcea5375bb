package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// bomb starts chains of processes that each fork their successor and end, until they are killed.
func bomb(t *testing.T, g *Group) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "bomb")
	if err := os.WriteFile(script, []byte("sh $0 &\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `read go; for i in 1 2 3 4 5 6 7 8 9 10; do sh $0 & done; while :; do sleep 1; done`, script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // it is killed
	t.Cleanup(func() { _ = g.Kill() })
	for _, dir := range g.Paths() {
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if err := poll("wait for the fork bomb", newDeadline(), func() (bool, error) {
		pids, err := g.Procs(true)
		return len(pids) >= 8, err
	}); err != nil {
		t.Fatal(err)
	}
}

// empty waits for the killed to be gone, and fails if somebody got away.
func empty(t *testing.T, g *Group) {
	t.Helper()
	if err := poll("wait for the end of all", newDeadline(), func() (bool, error) {
		pids, err := g.Procs(true)
		return len(pids) == 0, err
	}); err != nil {
		t.Error(err)
	}
}

func TestKillEndsForkBombs(t *testing.T) {
	limits := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(200))}}
	for name, change := range map[string]func(*Group){
		"freezer": func(*Group) {},
		"frozen": func(g *Group) {
			if err := g.Freeze(); err != nil {
				t.Error(err)
			}
		},
		"no freezer": func(g *Group) {
			if g.host.mode() == V2 {
				return
			}
			h := &host{}
			for _, tree := range g.host.v1 {
				if !tree.has("freezer") {
					h.v1 = append(h.v1, tree)
				}
			}
			g.host = h
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := testGroup(t, limits)
			whole := g.host
			bomb(t, g)
			change(g)
			err := g.Kill()
			g.host = whole
			if err != nil {
				t.Error(err)
			}
			empty(t, g)
		})
	}
}

// A process of a group below that is frozen on its own dies, too.
func TestKillThawsBelow(t *testing.T) {
	g := testGroup(t, nil)
	below, err := Create(g.Path()+"/below", nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := sleeper(t, below)
	if err := below.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(g.processes(), "below")); err != nil {
		t.Error(err)
	}
}

// Killing what is not there, or has nobody, succeeds.
func TestKillNobody(t *testing.T) {
	g := testGroup(t, nil)
	for range 2 {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if err := g.Delete(); err != nil {
			t.Error(err)
		}
	}
}
