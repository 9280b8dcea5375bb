package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestRDTErrorsLeaveNothing: wherever create fails, what it has made is gone, and what others have made is there.
func TestRDTErrorsLeaveNothing(t *testing.T) {
	own, shared := specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", EnableMonitoring: true}, specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f", EnableMonitoring: true}
	refuseIn := func(file string) func(plainResctrl, *bundle) { // the kernel refuses what is written there
		return func(plainResctrl, *bundle) {
			resctrl.write = func(path, line string) error {
				if watched := filepath.Base(filepath.Dir(filepath.Dir(path))) == "mon_groups"; filepath.Base(path) == strings.TrimPrefix(file, "mon:") && watched == strings.HasPrefix(file, "mon:") {
					return unix.EINVAL
				}
				return writeLine(path, line)
			}
		}
	}
	refuse := func(base string) func(plainResctrl, *bundle) { // the kernel makes no such group
		return func(r plainResctrl, _ *bundle) {
			resctrl.mkdir = func(path string) error {
				if filepath.Base(filepath.Dir(path)) == base || base == "" && filepath.Dir(path) == r.dir {
					return unix.ENOSPC
				}
				return r.mkdir(path)
			}
		}
	}
	for name, c := range map[string]struct {
		want   string
		change func(plainResctrl, *bundle)
	}{
		"class":    {"linux.intelRdt: make class", refuse("")},
		"schema":   {`the schema "L3:0=f": invalid argument`, refuseIn("schemata")},
		"monitor":  {"linux.intelRdt.enableMonitoring: make monitoring group", refuse("mon_groups")},
		"tasks":    {"linux.intelRdt: put process", refuseIn("tasks")},
		"to watch": {"linux.intelRdt: put process", refuseIn("mon:tasks")},
		"cgroup": {"cpuset", func(_ plainResctrl, b *bundle) {
			b.spec.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "9999"}
		}},
		"plan": {"linux.sysctl", func(_ plainResctrl, b *bundle) { b.spec.Linux.Sysctl = map[string]string{"kernel.panic": "1"} }},
		"step": {"no such device", func(_ plainResctrl, b *bundle) { b.spec.Mounts[1].Type = "dreamfs" }},
		"hook": {"hook #0", func(_ plainResctrl, b *bundle) { b.setHook("createRuntime", specs.Hook{Path: "/bin/false"}) }},
	} {
		for kind, rdt := range map[string]specs.LinuxIntelRdt{"own": own, "shared": shared} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				r := useResctrl(t)
				b := withRDT(t, rdt)
				before := r.all(t)
				c.change(r, b)
				if err := b.createFails(t, "bad"); !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				r.same(t, before)
			})
		}
	}
	t.Run("of others", func(t *testing.T) {
		r := useResctrl(t)
		b := withRDT(t, shared)
		b.setHook("createRuntime", specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", fmt.Sprintf("echo %d >> %s/gold/tasks; exit 1", os.Getpid(), r.dir)}})
		if err := b.createFails(t, "bad"); !strings.Contains(err.Error(), "hook #0") {
			t.Fatal(err)
		}
		if got := r.tasks(t, "gold"); !strings.HasSuffix(got, strconv.Itoa(os.Getpid())+"\n") {
			t.Errorf("in the class, into which somebody else has come meanwhile: %q", got)
		}
		if _, err := os.Stat(filepath.Join(r.dir, "gold/mon_groups/bad")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its monitoring group: %v", err)
		}
	})
	t.Run("monitoring group exists", func(t *testing.T) {
		r := useResctrl(t)
		if err := r.mkdir(filepath.Join(r.dir, "mon_groups/bad")); err != nil {
			t.Fatal(err)
		}
		before := r.all(t)
		b := withRDT(t, specs.LinuxIntelRdt{ClosID: "/", EnableMonitoring: true})
		if err := b.createFails(t, "bad"); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), "enableMonitoring") {
			t.Error(err)
		}
		r.same(t, before)
	})
	t.Run("lost race", func(t *testing.T) { // one who takes no lock makes the class first
		r := useResctrl(t)
		var before map[string]string
		resctrl.mkdir = func(path string) error {
			if before == nil {
				if err := r.mkdir(path); err != nil {
					return err
				}
				before = r.all(t)
			}
			return r.mkdir(path)
		}
		b := withRDT(t, own)
		if err := b.createFails(t, "bad"); !errors.Is(err, os.ErrExist) {
			t.Error(err)
		}
		r.same(t, before)
	})
}

// TestRDTReason: the kernel's own words are in the error.
func TestRDTReason(t *testing.T) {
	r := useResctrl(t)
	resctrl.mkdir = func(string) error {
		return errors.Join(unix.ENOSPC, os.WriteFile(filepath.Join(r.dir, "info/last_cmd_status"), []byte("Out of CLOSIDs\n"), 0o644))
	}
	b := withRDT(t, specs.LinuxIntelRdt{})
	if err := b.createFails(t, "bad"); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "Out of CLOSIDs") {
		t.Error(err)
	}
}

// TestRDTUnmounted: groups go with their file system, and delete has nothing to remove then.
func TestRDTUnmounted(t *testing.T) {
	useResctrl(t)
	b := withRDT(t, specs.LinuxIntelRdt{})
	c, p, out := b.start(t)
	defer out.Close()
	resctrl.find = func() (string, error) { return "", errors.New("it is not mounted") }
	if _, err := c.Exec(t.Context(), &specs.Process{Args: []string{"/bin/probe"}, Cwd: "/"}, Stdio{}); err == nil || !strings.Contains(err.Error(), "it is not mounted") {
		t.Errorf("exec: %v", err)
	}
	if s, err := c.RDTStats(); err != nil || s.L3 != nil {
		t.Errorf("statistics: %+v, %v", s, err)
	}
	b.end(t, c, p)
}

// TestRDTDeleteFails: a group that cannot be removed is an error, and the next delete tries again.
func TestRDTDeleteFails(t *testing.T) {
	r := useResctrl(t)
	before := r.all(t)
	b := withRDT(t, specs.LinuxIntelRdt{EnableMonitoring: true})
	c, p, out := b.start(t)
	defer out.Close()
	rmdir := resctrl.rmdir
	resctrl.rmdir = func(string) error { return unix.EBUSY }
	if err := c.Delete(t.Context(), true); !errors.Is(err, unix.EBUSY) {
		t.Errorf("delete: %v", err)
	}
	resctrl.rmdir = rmdir
	b.end(t, c, p)
	r.same(t, before)
}

// TestRDTLock waits for who is making groups, but no longer than its caller.
func TestRDTLock(t *testing.T) {
	r := useResctrl(t)
	unlock, err := lockResctrl(t.Context(), r.dir)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		again, err := lockResctrl(t.Context(), r.dir)
		if err == nil {
			again()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Errorf("two have it (%v)", err)
	default:
	}
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// rdtVictim makes TestRDTKilledCreate the one that is killed: at which call of resctrl, in which bundle.
const rdtVictim = "GANTRY_OCI_TEST_RDT_VICTIM"

// TestRDTKilledCreate kills create at each of its dealings with resctrl; delete then leaves nothing of it.
func TestRDTKilledCreate(t *testing.T) {
	if os.Getenv(rdtVictim) != "" {
		rdtVictimCreate(t)
		return
	}
	for kind, rdt := range map[string]specs.LinuxIntelRdt{
		"own":    {L3CacheSchema: "L3:0=f", EnableMonitoring: true},
		"shared": {ClosID: "gold", L3CacheSchema: "L3:0=f", EnableMonitoring: true},
	} {
		t.Run(kind, func(t *testing.T) {
			r := useResctrl(t)
			before := r.all(t)
			killed, at := 0, 1
			for ; killed == at-1; at++ {
				b := withRDT(t, rdt)
				text, err := json.Marshal(b.spec)
				if err == nil {
					err = os.WriteFile(filepath.Join(b.dir, "config.json"), text, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				victim := exec.Command(os.Args[0], "-test.run=^TestRDTKilledCreate$")
				victim.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s", rdtVictim, at, r.dir, b.dir))
				out, err := victim.CombinedOutput()
				if status := victim.ProcessState.String(); status == "signal: killed" {
					killed++
				} else if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if err := b.lib.Delete(t.Context(), "killed"); err != nil {
					t.Errorf("killed at %d: delete: %v", at, err)
				}
				if kind == "shared" && killed < at { // it was created: its class stays
					if err := resctrl.rmdir(filepath.Join(r.dir, "gold")); err != nil {
						t.Error(err)
					}
				}
				r.same(t, before)
				if t.Failed() {
					t.Fatalf("killed at %d", at)
				}
			}
			if killed < 11 {
				t.Errorf("killed %d times only", killed)
			}
		})
	}
}

func rdtVictimCreate(t *testing.T) {
	words := strings.Fields(os.Getenv(rdtVictim))
	last, err := strconv.Atoi(words[0])
	if err != nil {
		t.Fatal(err)
	}
	plainResctrl{words[1]}.use(t)
	calls := 0
	die := func() {
		if calls++; calls == last {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	find, mkdir, write := resctrl.find, resctrl.mkdir, resctrl.write
	resctrl.find = func() (string, error) { die(); return find() }
	resctrl.mkdir = func(path string) error {
		die()
		err := mkdir(path)
		die()
		return err
	}
	resctrl.write = func(path, line string) error {
		err := write(path, line)
		die()
		return err
	}
	spec, err := ReadSpec(words[2])
	if err != nil {
		t.Fatal(err)
	}
	lib := &Runtime{Root: filepath.Join(words[2], "state")}
	c, p, err := lib.Create(t.Context(), "killed", CreateOptions{Bundle: words[2], Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c, p // who made it deletes it
}

// TestRDTRestore: what criu restores is in the groups, as is criu, whose children its processes are.
func TestRDTRestore(t *testing.T) {
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("criu does not work here: %v: %s", err, out)
	}
	r := useResctrl(t)
	before := r.all(t)
	b := withRDT(t, specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", EnableMonitoring: true})
	b.spec.Process.Args = []string{"/bin/probe", "sleep"}
	images := CheckpointOptions{ImagePath: t.TempDir()}
	c, p, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = c.Checkpoint(t.Context(), images)
	b.end(t, c, p)
	if err != nil {
		t.Fatal(err)
	}
	r.same(t, before)
	c, p, err = b.lib.Restore(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec}, images)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"probe", "probe/mon_groups/probe"} {
		if got := strings.Fields(r.tasks(t, group)); len(got) != 1 {
			t.Errorf("in %s: %q, want criu", group, got)
		}
	}
	if got := r.written(t, "probe"); got != "L3:0=f\n" {
		t.Errorf("written to schemata: %q", got)
	}
	b.end(t, c, p)
	r.same(t, before)
	resctrl.write = func(string, string) error { return unix.EINVAL }
	if _, _, err := b.lib.Restore(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec}, images); !errors.Is(err, unix.EINVAL) {
		t.Errorf("restore without its groups: %v", err)
	}
	r.same(t, before)
}
