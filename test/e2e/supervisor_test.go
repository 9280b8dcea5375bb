package e2e

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// supervisorPid is the process id of the engine's supervisor; 0 between two of them.
func (d *daemon) supervisorPid() int {
	text, _ := os.ReadFile(filepath.Join(d.dir, "run", "shim", "shim.pid"))
	pid, _ := strconv.Atoi(string(text))
	return pid
}

// killSupervisor ends the supervisor as the kernel might, and nothing else.
func (d *daemon) killSupervisor() {
	pid := d.supervisorPid()
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if strings.Contains(string(args), filepath.Join(d.dir, "run", "shim")) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// groups are the cgroups of a container, in all hierarchies.
func groups(id string) (found []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == id {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// processes are those whose cgroup is a container's.
func processes(id string) (pids []string) {
	for _, dir := range groups(id) {
		text, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		pids = append(pids, strings.Fields(string(text))...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// left is what the engine's directories have of its runs.
func (d *daemon) left() (paths []string) {
	for _, pattern := range []string{"run/bundles/*", "run/runtime/*", "run/shim/io/*"} {
		found, _ := filepath.Glob(filepath.Join(d.dir, pattern))
		paths = append(paths, found...)
	}
	return paths
}

// seeds are so many numbers; GANTRY_SEED is one to try again, and GANTRY_KILLS how many instead.
func seeds(t *testing.T, n int) (list []uint64) {
	if text := os.Getenv("GANTRY_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{seed}
	}
	if text := os.Getenv("GANTRY_KILLS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		list = append(list, rand.Uint64())
	}
	return list
}

// moments of a start, by what appears in the engine's run directory, or goes.
var moments = []struct {
	file string // ID stands for the container's
	gone bool
}{
	{"bundles/ID/config.json", false},
	{"shim/io/ID.json", false},
	{"shim/io/ID.stdout", false},
	{"runtime/ID/lock", false},
	{"runtime/ID/state.json", false},
	{"runtime/ID/exec.fifo", false},
	{"runtime/ID/state.json.new", false},
	{"runtime/ID/state.json.new", true},
	{"bundles/ID/run.json", false},
	{"runtime/ID/exec.fifo", true},
}

// await returns at a moment of a container's start, or when the start is over. It does not sleep: a moment is short.
func (d *daemon) await(id string, moment int, over <-chan result) (r result, isOver bool) {
	file := filepath.Join(d.dir, "run", strings.ReplaceAll(moments[moment].file, "ID", id))
	seen := false
	for {
		_, err := os.Lstat(file)
		if seen = seen || err == nil; seen && (err != nil) == moments[moment].gone {
			return r, false
		}
		select {
		case r = <-over:
			return r, true
		default:
		}
	}
}

// killing is one start and what is killed meanwhile.
type killing struct {
	daemon *daemon
	random *rand.Rand
	id     string
}

// start starts the container and kills at a random moment.
func (k *killing) start(kill func()) result {
	done := make(chan result, 1)
	go func() { done <- command("gantry", k.daemon, "start", k.id) }()
	r, over := k.daemon.await(k.id, k.random.IntN(len(moments)), done)
	if over {
		return r
	}
	for range k.random.IntN(3) * 100 { // up to some hundred microseconds later
		_, _ = os.Lstat("/")
	}
	kill()
	return <-done
}

// check fails the test if something runs that the engine does not say runs, or the other way round.
func (k *killing) check(t *testing.T, what string) {
	t.Helper()
	said, pids := "", []string{}
	agree := func() bool {
		said, pids = strings.TrimSpace(command("gantry", k.daemon, "inspect", "-f", "{{.State.Running}}", k.id).out), processes(k.id)
		return (said == "true") == (len(pids) > 0)
	}
	for range 1500 { // an end is recorded in its time
		if agree() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s: running is said to be %q, and there are processes %q", what, said, pids)
}

// remove removes the container: then nothing of it is left anywhere.
func (k *killing) remove(t *testing.T, what string) {
	t.Helper()
	r := command("gantry", k.daemon, "rm", "-f", k.id)
	if gone := strings.Contains(r.err, "No such container"); r.code != 0 && !gone {
		t.Errorf("%s: rm -f: %d %s", what, r.code, r.err)
	}
	for range 100 {
		if len(k.daemon.left()) == 0 && len(groups(k.id)) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s: after rm -f: %q, cgroups %q, processes %q", what, k.daemon.left(), groups(k.id), processes(k.id))
}

// logs shows what the engine and the supervisor said, if the test has failed.
func (d *daemon) logs(t *testing.T) {
	for _, file := range []string{"gantryd.log", "run/shim/shim.log"} {
		if text, err := os.ReadFile(filepath.Join(d.dir, file)); t.Failed() && err == nil {
			t.Logf("%s:\n%s", file, text[max(0, len(text)-16<<10):])
		}
	}
}

// TestSupervisorKilledDuringAStart kills the supervisor while containers are created and started. Whatever is answered,
// what runs is what the engine says, and what is removed is gone.
func TestSupervisorKilledDuringAStart(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.logs(t)
	for _, seed := range seeds(t, 20) {
		what := fmt.Sprintf("seed %d", seed)
		k := &killing{daemon: d, random: rand.New(rand.NewPCG(seed, 0))}
		k.id = must(t, command("gantry", d, "create", []string{"-i", "-t"}[k.random.IntN(2)], "toolbox", "sleep", "1000"))
		r := k.start(d.killSupervisor)
		if r.code != 0 {
			what += ", start: " + r.err
		}
		k.check(t, what)
		if k.random.IntN(2) == 0 {
			go d.killSupervisor()
		}
		k.remove(t, what)
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}

// TestSupervisorAndEngineKilledDuringAStart kills both, one shortly after the other: the next engine has nothing that
// its records do not say.
func TestSupervisorAndEngineKilledDuringAStart(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.logs(t)
	for _, seed := range seeds(t, 12) {
		what := fmt.Sprintf("seed %d", seed)
		k := &killing{daemon: d, random: rand.New(rand.NewPCG(seed, 1))}
		flags := [][]string{{}, {"--rm"}, {"--restart", "always"}}[k.random.IntN(3)]
		k.id = must(t, command("gantry", d, append(append([]string{"create"}, flags...), "toolbox", "sleep", "1000")...))
		killed := false
		k.start(func() {
			kill := []func(){d.killSupervisor, func() { _ = d.kill() }}
			first := k.random.IntN(2)
			kill[first]()
			time.Sleep(time.Duration(k.random.IntN(2_000)) * time.Microsecond)
			kill[1-first]()
			killed = true
		})
		if !killed {
			_ = d.kill()
			d.killSupervisor()
		}
		if err := d.start(); err != nil {
			t.Fatal(err)
		}
		k.check(t, what)
		k.remove(t, what)
		if t.Failed() {
			return
		}
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}

// TestSupervisorKilledWhileLogging kills the supervisor, and sometimes the engine too, while a container prints numbered
// lines: each is in the log once, in order.
func TestSupervisorKilledWhileLogging(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.logs(t)
	id := must(t, command("gantry", d, "run", "-d", "--log-opt", "max-size=1g", "toolbox", "sh", "-c",
		"i=0; while [ ! -e /tmp/stop ]; do echo line $i; i=$((i+1)); done; echo last $i"))
	last := func() string { return strings.TrimSpace(command("gantry", d, "logs", "--tail", "1", id).out) }
	for _, seed := range seeds(t, 8) {
		what := fmt.Sprintf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 2))
		before, moves := last(), false
		for end := time.Now().Add(time.Minute); !moves && time.Now().Before(end); {
			moves = last() != before
		}
		if !moves {
			t.Fatalf("%s: nothing is logged after %q", what, before)
		}
		time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond) // a random moment
		kill := []func(){d.killSupervisor, func() { _ = d.kill() }}
		switch first := random.IntN(2); random.IntN(3) {
		case 0: // both
			kill[first]()
			kill[1-first]()
			if err := d.start(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		default:
			d.killSupervisor()
		}
	}
	stopped := result{code: 1}
	for end := time.Now().Add(time.Minute); stopped.code != 0 && time.Now().Before(end); { // the next supervisor may not be there yet
		stopped = command("gantry", d, "exec", id, "touch", "/tmp/stop")
	}
	must(t, stopped)
	if code := must(t, command("gantry", d, "wait", id)); code != "0" {
		t.Errorf("the container ended with %s", code)
	}
	lines := strings.Split(strings.TrimSuffix(command("gantry", d, "logs", id).out, "\n"), "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d of %d of the log is %q", i, len(lines), line)
		}
	}
	if want := fmt.Sprintf("last %d", len(lines)-1); lines[len(lines)-1] != want {
		t.Errorf("the log ends with %q, want %q", lines[len(lines)-1], want)
	}
	must(t, command("gantry", d, "rm", id))
	if left := d.left(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}
