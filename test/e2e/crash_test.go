package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestKilledEngineLosesNothing kills the engine while 50 containers write numbered lines, some of which end meanwhile.
func TestKilledEngineLosesNothing(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	}()
	const n = 50
	script := "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit %d"
	for i := range n {
		must(t, command("gantry", d, "run", "-d", "--name", "writer"+strconv.Itoa(i), "toolbox", "sh", "-c", fmt.Sprintf(script, i)))
	}
	for range 3 {
		if err := d.kill(); err != nil {
			t.Fatal(err)
		}
		if err := d.start(); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Fields(must(t, command("gantry", d, "ps", "-aq"))); len(got) != n {
		t.Errorf("%d containers are left of %d", len(got), n)
	}
	var want strings.Builder
	for i := range 400 {
		fmt.Fprintf(&want, "line %d\n", i+1)
	}
	for i := range n {
		name := "writer" + strconv.Itoa(i)
		if got := must(t, command("gantry", d, "wait", name)); got != strconv.Itoa(i) {
			t.Errorf("%s ended with %s", name, got)
		}
		if got := command("gantry", d, "logs", name).out; got != want.String() {
			t.Errorf("%s: %d of 400 lines", name, strings.Count(got, "\n"))
		}
	}
}

// TestEndIsRecordedOnce kills the engine between the record of an exit and the end of cleaning up: what is left of the
// run must not replace the exit code.
func TestEndIsRecordedOnce(t *testing.T) {
	dir := t.TempDir()
	d, err := startDaemon(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	}()
	id := must(t, command("gantry", d, "run", "-d", "--name", "once", "toolbox", "sh", "-c", "sleep 2; exit 7"))
	run := filepath.Join(dir, "run", "bundles", id)
	facts, err := os.ReadFile(filepath.Join(run, "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := must(t, command("gantry", d, "wait", "once")); got != "7" {
		t.Fatalf("ended with %s", got)
	}
	eventually(t, "the run is cleaned up", func() bool {
		_, err := os.Stat(run)
		return os.IsNotExist(err)
	})
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(run, 0o700), os.WriteFile(filepath.Join(run, "run.json"), facts, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	if got := must(t, command("gantry", d, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "once")); got != "exited 7" {
		t.Errorf("after the engine's death: %s", got)
	}
	if _, err := os.Stat(run); !os.IsNotExist(err) {
		t.Errorf("the run is still there: %v", err)
	}
}

// TestLeftoversOfAKilledEngineAreSwept starts an engine on what a crash at a bad moment leaves.
func TestLeftoversOfAKilledEngineAreSwept(t *testing.T) {
	dir := t.TempDir()
	d, err := startDaemon(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	left := []string{
		filepath.Join(dir, "root", "containers", "half-made"),
		filepath.Join(dir, "run", "bundles", "half-made"),
		filepath.Join(dir, "root", "trash", "half-removed"),
	}
	for _, path := range left {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		eventually(t, path+" is gone", func() bool {
			_, err := os.Stat(path)
			return os.IsNotExist(err)
		})
	}
	if got := must(t, command("gantry", d, "run", "--rm", "toolbox", "echo", "well")); got != "well" {
		t.Errorf("got %q", got)
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}

func TestTwoEnginesDoNotMeet(t *testing.T) {
	other, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	must(t, command("gantry", shared, "run", "-d", "--name", "twin", "toolbox", "sleep", "1000"))
	must(t, command("gantry", other, "run", "-d", "--name", "twin", "toolbox", "sleep", "1000"))
	if got := must(t, command("gantry", other, "ps", "-q")); len(strings.Fields(got)) != 1 {
		t.Errorf("the other engine has %q", got)
	}
	if err := other.remove(); err != nil {
		t.Error(err)
	}
	if got := must(t, command("gantry", shared, "inspect", "-f", "{{.State.Running}}", "twin")); got != "true" {
		t.Error("the end of one engine ended a container of the other")
	}
	must(t, command("gantry", shared, "rm", "-f", "twin"))
}
