package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const defaultSchemata = "    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n"

// plainResctrl is a directory that behaves like resctrl, as far as plain files can: what is written to one is added to it,
// and nobody checks it.
type plainResctrl struct{ dir string }

// useResctrl puts a directory in resctrl's place.
func useResctrl(t testing.TB) plainResctrl {
	t.Helper()
	r := plainResctrl{t.TempDir()}
	err := r.fill(r.dir)
	for path, text := range map[string]string{
		"info/last_cmd_status": "ok\n", "info/L3/cbm_mask": "7ff\n", "info/L3/min_cbm_bits": "1\n", "info/L3/num_closids": "16\n",
		"info/MB/bandwidth_gran": "10\n", "info/MB/delay_linear": "1\n", "info/MB/min_bandwidth": "10\n", "info/MB/num_closids": "8\n",
	} {
		path = filepath.Join(r.dir, path)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	r.use(t)
	return r
}

func (r plainResctrl) use(t testing.TB) {
	before := resctrl
	t.Cleanup(func() { resctrl = before })
	resctrl.find = func() (string, error) { return r.dir, nil }
	resctrl.mkdir, resctrl.write = r.mkdir, writeLine
	resctrl.rmdir = func(path string) error {
		if _, err := os.Lstat(path); err != nil {
			return err
		}
		return os.RemoveAll(path)
	}
}

func (r plainResctrl) mkdir(path string) error {
	if err := unix.Mkdir(path, 0o755); err != nil {
		return err
	}
	return r.fill(path)
}

// fill makes the files of a class or a monitoring group.
func (r plainResctrl) fill(group string) error {
	files := map[string]string{
		"tasks": "", "mon_data/mon_L3_00/llc_occupancy": "1234\n", "mon_data/mon_L3_00/mbm_total_bytes": "20\n", "mon_data/mon_L3_00/mbm_local_bytes": "10\n",
		"mon_data/mon_L3_01/llc_occupancy": "5\n", "mon_data/mon_L3_01/mbm_total_bytes": "Unavailable\n", "mon_data/mon_L3_01/mbm_local_bytes": "7\n",
	}
	var err error
	if filepath.Base(filepath.Dir(group)) != "mon_groups" {
		files["schemata"] = defaultSchemata
		err = os.Mkdir(filepath.Join(group, "mon_groups"), 0o755)
	}
	for name, text := range files {
		path := filepath.Join(group, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	return err
}

// all is everything in there: directories, and files with their text.
func (r plainResctrl) all(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			out[path] = "directory"
			return err
		}
		text, err := os.ReadFile(path)
		out[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same tells of what is not as it was.
func (r plainResctrl) same(t testing.TB, before map[string]string) {
	t.Helper()
	after := r.all(t)
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if was, there := before[path]; !there || was != after[path] {
			t.Errorf("%s is %q, was %q (%v)", path, after[path], was, there)
		}
	}
	for path := range before {
		if _, there := after[path]; !there {
			t.Errorf("%s is gone", path)
		}
	}
}

// written is what was added to the schemata of a class.
func (r plainResctrl) written(t *testing.T, class string) string {
	t.Helper()
	text, _ := strings.CutPrefix(readFile(t, filepath.Join(r.dir, class, "schemata")), defaultSchemata)
	return text
}

func (r plainResctrl) tasks(t *testing.T, group string) string {
	t.Helper()
	return readFile(t, filepath.Join(r.dir, group, "tasks"))
}

// withRDT is a bundle whose container sleeps in groups.
func withRDT(t testing.TB, rdt specs.LinuxIntelRdt) *bundle {
	b := newBundle(t, "sleep")
	b.spec.Linux.IntelRdt = &rdt
	return b
}

// createFails is the error of create. A container that should not be there is removed.
func (b *bundle) createFails(t testing.TB, id string) error {
	t.Helper()
	c, p, err := b.lib.Create(t.Context(), id, CreateOptions{Bundle: b.dir, Spec: b.spec})
	if err == nil {
		b.end(t, c, p)
		return errors.New("it was created")
	}
	return err
}

func TestRDTRules(t *testing.T) {
	r := useResctrl(t)
	before := r.all(t)
	for want, rdt := range map[string]specs.LinuxIntelRdt{
		`linux.intelRdt.closID "a/b" is not the name of a class`:              {ClosID: "a/b"},
		`linux.intelRdt.closID "/a" is not the name of a class`:               {ClosID: "/a"},
		`linux.intelRdt.closID "." is not the name of a class`:                {ClosID: "."},
		`linux.intelRdt.closID ".." is not the name of a class`:               {ClosID: ".."},
		`linux.intelRdt.closID "info" is not the name of a class`:             {ClosID: "info"},
		`linux.intelRdt.closID "mon_groups" is not the name of a class`:       {ClosID: "mon_groups"},
		`linux.intelRdt.closID "mon_data" is not the name of a class`:         {ClosID: "mon_data"},
		`linux.intelRdt.closID "a\nb" is not the name of a class`:             {ClosID: "a\nb"},
		`linux.intelRdt.closID "a\x00b" is not the name of a class`:           {ClosID: "a\x00b"},
		`xxx" is not the name of a class`:                                     {ClosID: strings.Repeat("x", 256)},
		`linux.intelRdt.memBwSchema "L3:0=f" does not begin with MB:`:         {MemBwSchema: "L3:0=f"},
		`linux.intelRdt.memBwSchema " MB:0=20" does not begin with MB:`:       {MemBwSchema: " MB:0=20"},
		`linux.intelRdt.memBwSchema "MB:0=20\nL3:0=f" has more than one line`: {MemBwSchema: "MB:0=20\nL3:0=f"},
		`linux.intelRdt.schemata[1] "L2:0=f\n" has more than one line`:        {Schemata: []string{"L3:0=f", "L2:0=f\n"}},
		`linux.intelRdt.schemata[0] is empty`:                                 {Schemata: []string{""}},
		`linux.intelRdt.closID: class absent does not exist`:                  {ClosID: "absent"},
		`linux.intelRdt.closID: class absent-too does not exist`:              {ClosID: "absent-too", EnableMonitoring: true},
		`linux.intelRdt.closID: class tasks: not a directory`:                 {ClosID: "tasks"},
		`class / exists, with L3:0=7ff in place of f`:                         {ClosID: "/", L3CacheSchema: "L3:0=f"},
		`class / exists, with L2:0= in place of f`:                            {ClosID: "/", Schemata: []string{"L2:0=f"}},
		`class / exists, with L3:7= in place of 7ff`:                          {ClosID: "/", L3CacheSchema: "L3:7=7ff"},
		`class / exists, with MB:1=100 in place of 75`:                        {ClosID: "/", MemBwSchema: "MB:0=100;1=75"},
		`schema "L3" is not of the form NAME:DOMAIN=VALUE`:                    {ClosID: "/", L3CacheSchema: "L3"},
		`schema "L3:x=7ff" is not of the form NAME:DOMAIN=VALUE`:              {ClosID: "/", L3CacheSchema: "L3:x=7ff"},
	} {
		b := withRDT(t, rdt)
		if err := b.createFails(t, "bad"); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "linux.intelRdt") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	b := withRDT(t, specs.LinuxIntelRdt{})
	if err := b.createFails(t, "mon_groups"); !strings.Contains(err.Error(), `linux.intelRdt: without a closID the container's id is one: "mon_groups"`) {
		t.Errorf("a container that is called as the kernel's own directory: %v", err)
	}
	r.same(t, before)
}

// TestRDTClassOfItsOwn: a class and a monitoring group with the container's id, from before its first hook until delete.
func TestRDTClassOfItsOwn(t *testing.T) {
	r := useResctrl(t)
	before := r.all(t)
	seen := filepath.Join(t.TempDir(), "tasks")
	var order []string
	resctrl.write = func(path, line string) error {
		if name, _ := filepath.Rel(r.dir, path); filepath.Base(name) == "tasks" {
			order = append(order, name)
		}
		return writeLine(path, line)
	}
	b := withRDT(t, specs.LinuxIntelRdt{
		L3CacheSchema: "L3:0=f;1=f", MemBwSchema: "MB:0=20", Schemata: []string{"MB:0=30", "L2:0=3"}, EnableMonitoring: true,
	})
	b.setHook("createRuntime", specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "cat " + r.dir + "/probe/tasks > " + seen}})
	c, p, out := b.start(t)
	defer out.Close()
	if got, want := r.written(t, "probe"), "L3:0=f;1=f\nMB:0=20\nMB:0=30\nL2:0=3\n"; got != want {
		t.Errorf("written to schemata: %q, want %q", got, want)
	}
	first := strconv.Itoa(p.Pid) + "\n"
	if got := readFile(t, seen); got != first {
		t.Errorf("while create ran its hook, in the class: %q, want %q", got, first)
	}
	x, err := c.Exec(t.Context(), &specs.Process{Args: []string{"/bin/probe", "exit", "0"}, Cwd: "/"}, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	entered := strings.TrimPrefix(r.tasks(t, "probe"), first) // its predecessor, whose group a process has from the kernel
	if pid, err := strconv.Atoi(strings.TrimSpace(entered)); err != nil || pid == p.Pid {
		t.Errorf("exec: in the class: %q (%v)", entered, err)
	}
	both := first + entered
	if want := []string{"probe/tasks", "probe/mon_groups/probe/tasks"}; !slices.Equal(order, append(want, want...)) {
		t.Errorf("written to, in this order: %q, want twice %q: a monitoring group takes only who is in its class", order, want)
	}
	for _, group := range []string{"probe", "probe/mon_groups/probe"} {
		if got := r.tasks(t, group); got != both {
			t.Errorf("in %s: %q, want %q", group, got, both)
		}
	}
	if _, err := (&sleeper{b, c}).reap(x); err != nil {
		t.Error(err)
	}
	b.end(t, c, p)
	r.same(t, before)
}

// reap waits for a process of exec.
func (s *sleeper) reap(x *Process) (int, error) {
	var status unix.WaitStatus
	_, err := unix.Wait4(x.Pid, &status, 0, nil)
	return status.ExitStatus(), errors.Join(err, x.Pidfd.Close())
}

// TestRDTStartContainerHook: a hook that runs as the container does is in its groups.
func TestRDTStartContainerHook(t *testing.T) {
	r := useResctrl(t)
	b := withRDT(t, specs.LinuxIntelRdt{})
	b.setHook("startContainer", specs.Hook{Path: "/bin/probe", Args: []string{"probe", "exit", "0"}})
	c, p, out := b.start(t)
	defer out.Close()
	if got := strings.Fields(r.tasks(t, "probe")); len(got) != 2 || got[0] != strconv.Itoa(p.Pid) {
		t.Errorf("in the class: %q, want %d and the hook", got, p.Pid)
	}
	b.end(t, c, p)
}

// TestRDTSharedClass: one that the configuration names is made where missing, shared where it is the same, and stays.
func TestRDTSharedClass(t *testing.T) {
	r := useResctrl(t)
	schema := []string{"L3:0=0f;1=F", "MB:0=15;1=70"}
	b := withRDT(t, specs.LinuxIntelRdt{ClosID: "gold", Schemata: schema})
	c, p, out := b.start(t)
	defer out.Close()
	if got := r.tasks(t, "gold"); got != strconv.Itoa(p.Pid)+"\n" {
		t.Errorf("in the class: %q, want %d", got, p.Pid)
	}
	b.end(t, c, p)
	gold := filepath.Join(r.dir, "gold")
	// As the kernel shows it: masks without zeros, bandwidths in steps.
	if err := errors.Join(os.WriteFile(gold+"/schemata", []byte("    MB:0= 20;1= 70\n    L3:0=f;1=f\n"), 0o644), os.WriteFile(gold+"/tasks", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, rdt := range []specs.LinuxIntelRdt{
		{ClosID: "gold"},
		{ClosID: "gold", Schemata: schema},
		{ClosID: "gold", L3CacheSchema: "L3:1=0x00f"},
		{ClosID: "gold", L3CacheSchema: "L3:1=7", Schemata: []string{"L3:1=f"}}, // the last one prevails
		{ClosID: "gold", MemBwSchema: "MB:0=20", EnableMonitoring: true},
		{ClosID: "/", EnableMonitoring: true},
		{ClosID: "/", MemBwSchema: "MB:0=100"},
	} {
		class := filepath.Join(r.dir, rdt.ClosID)
		before := r.all(t)
		b := withRDT(t, rdt)
		c, p, out := b.start(t)
		if got := readFile(t, class+"/tasks"); got != strconv.Itoa(p.Pid)+"\n" {
			t.Errorf("%+v: in the class: %q, want %d", rdt, got, p.Pid)
		}
		if _, err := os.Stat(class + "/mon_groups/probe"); (err == nil) != rdt.EnableMonitoring {
			t.Errorf("%+v: monitoring group: %v", rdt, err)
		}
		want := ""
		for _, s := range schemas(&rdt) {
			want += s + "\n"
		}
		if got := strings.TrimPrefix(readFile(t, class+"/schemata"), before[class+"/schemata"]); got != want {
			t.Errorf("%+v: written to schemata: %q, want %q", rdt, got, want)
		}
		b.end(t, c, p)
		if err := errors.Join(out.Close(), os.WriteFile(class+"/tasks", nil, 0o644), os.WriteFile(class+"/schemata", []byte(before[class+"/schemata"]), 0o644)); err != nil {
			t.Error(err)
		}
		r.same(t, before)
	}
	for want, rdt := range map[string]specs.LinuxIntelRdt{
		"class gold exists, with L3:0=f in place of 1f": {ClosID: "gold", L3CacheSchema: "L3:0=1f"},
		"class gold exists, with MB:0=20 in place of 5": {ClosID: "gold", MemBwSchema: "MB:0=5"},
	} {
		before := r.all(t)
		b := withRDT(t, rdt)
		if err := b.createFails(t, "bad"); !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		r.same(t, before)
	}
}

// TestRDTExistingClassOfItsName: a class that somebody else has made is used, and not removed, though it has the container's id.
func TestRDTExistingClassOfItsName(t *testing.T) {
	r := useResctrl(t)
	if err := r.mkdir(filepath.Join(r.dir, "probe")); err != nil {
		t.Fatal(err)
	}
	b := withRDT(t, specs.LinuxIntelRdt{EnableMonitoring: true})
	before := r.all(t)
	c, p, out := b.start(t)
	defer out.Close()
	if got := r.tasks(t, "probe/mon_groups/probe"); got != strconv.Itoa(p.Pid)+"\n" {
		t.Errorf("in the monitoring group: %q, want %d", got, p.Pid)
	}
	b.end(t, c, p)
	before[filepath.Join(r.dir, "probe/tasks")] = strconv.Itoa(p.Pid) + "\n"
	r.same(t, before)
}

func TestRDTPlan(t *testing.T) {
	r := useResctrl(t)
	b := withRDT(t, specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f", EnableMonitoring: true})
	before := r.all(t)
	plan, err := Compile(b.dir, b.spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if _, err := plan.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("join resctrl groups %s/gold and %s/gold/mon_groups/ID\n", r.dir, r.dir); !strings.Contains(text.String(), want) {
		t.Errorf("no %q in the plan:\n%.1000s", want, text.String())
	}
	r.same(t, before)
}

func TestRDTUpdate(t *testing.T) {
	r := useResctrl(t)
	b := withRDT(t, specs.LinuxIntelRdt{})
	c, p, out := b.start(t)
	defer out.Close()
	defer b.end(t, c, p)
	if got := r.written(t, "probe"); got != "" {
		t.Errorf("without schemas, written: %q", got)
	}
	another, err := b.lib.Load("probe") // as another process would
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(another.UpdateRDT("", ""), another.UpdateRDT("L3:0=3", ""), another.UpdateRDT("", "MB:0=40"), another.UpdateRDT("L3:0=1", "MB:0=50")); err != nil {
		t.Error(err)
	}
	if got, want := r.written(t, "probe"), "L3:0=3\nMB:0=40\nL3:0=1\nMB:0=50\n"; got != want {
		t.Errorf("written: %q, want %q", got, want)
	}
	for want, args := range map[string][2]string{
		`memory bandwidth schema "L3:0=1" does not begin with MB:`:        {"", "L3:0=1"},
		`memory bandwidth schema "MB:0=1\nMB:0=2" has more than one line`: {"", "MB:0=1\nMB:0=2"},
		`L3 cache schema "L3:0=1\nL3:0=2" has more than one line`:         {"L3:0=1\nL3:0=2", ""},
	} {
		if err := c.UpdateRDT(args[0], args[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	resctrl.write = func(string, string) error { return unix.EINVAL }
	if err := c.UpdateRDT("L3:0=1", ""); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "update container probe: linux.intelRdt") {
		t.Errorf("the kernel refuses: %v", err)
	}
}

func TestRDTStats(t *testing.T) {
	r := useResctrl(t)
	const node, info = `"mbm_stats":[{"mbm_total_bytes":20,"mbm_local_bytes":10}],"cmt_stats":[{"llc_occupancy":1234},{"llc_occupancy":5}]`,
		`"l3_cache_info":{"cbm_mask":"7ff","min_cbm_bits":1,"num_closids":16},"l3_cache_schema_root":"L3:0=7ff;1=7ff","l3_cache_schema":"L3:0=7ff;1=7ff",` +
			`"mem_bw_info":{"bandwidth_gran":10,"delay_linear":1,"min_bandwidth":10,"num_closids":8},"mem_bw_schema_root":"MB:0=100;1=100","mem_bw_schema":"MB:0=100;1=100"`
	for want, rdt := range map[string]*specs.LinuxIntelRdt{
		"{}":                          nil,
		"{" + info + "}":              {ClosID: "/"}, // the counters are everybody's
		"{" + info + "," + node + "}": {EnableMonitoring: true},
	} {
		b := newBundle(t, "sleep")
		b.spec.Linux.IntelRdt = rdt
		c, p, out := b.start(t)
		s, err := c.RDTStats()
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(s)
		if err != nil || string(text) != want {
			t.Errorf("%s, want %s (%v)", text, want, err)
		}
		if rdt == nil {
			if err := c.UpdateRDT("L3:0=f", ""); err == nil || !strings.Contains(err.Error(), "created without") {
				t.Errorf("update: %v", err)
			}
		}
		b.end(t, c, p)
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := r.tasks(t, "mon_groups/.."); strings.Count(got, "\n") != 1 {
		t.Errorf("in the default class: %q, want the one that was to be there", got)
	}
}

// FuzzSchemata: any text is read or refused, and what is read is what the kernel's own form of it says.
func FuzzSchemata(f *testing.F) {
	f.Add(defaultSchemata)
	f.Add("L3:0=f;1=;\nMB:=1")
	f.Fuzz(func(t *testing.T, text string) {
		s, again := schemata{}, schemata{}
		if s.parse(text) != nil {
			return
		}
		for name, values := range s {
			for domain, value := range values {
				if err := again.parse(fmt.Sprintf("%s:%d=%s\n", name, domain, value)); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
			}
		}
		for name, values := range s {
			if !maps.Equal(values, again[name]) {
				t.Errorf("%q: %v, then %v", text, values, again[name])
			}
		}
	})
}
