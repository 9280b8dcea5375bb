package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/cgroup"
	"gantry/spawn"
)

// place is a value somewhere in a configuration: the way to it from the root by field and element, and its name.
type place struct {
	path string // linux.resources.memory.limit, process.rlimits[0].type
	way  []int  // of a structure: the field; of a slice: the element, or whole
	kind reflect.Type
}

const whole = -1 // the slice or map itself, not an element

// places are all values of the specification's types for Linux, by reflection: a new field is covered as soon as it is there.
func places() []place {
	var all []place
	var walk func(t reflect.Type, path string, way []int)
	walk = func(t reflect.Type, path string, way []int) {
		way = slices.Clip(way)
		switch t.Kind() {
		case reflect.Pointer:
			all = append(all, place{path, append(way, whole), t})
			walk(t.Elem(), path, way)
		case reflect.Slice:
			all = append(all, place{path, append(way, whole), t})
			walk(t.Elem(), path+"[0]", append(way, 0))
		case reflect.Map:
			all = append(all, place{path, append(way, whole), t})
		case reflect.Struct:
			for i := range t.NumField() {
				f := t.Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if strings.Contains(f.Tag.Get("platform"), "linux") || f.Tag.Get("platform") == "" {
					if slices.Contains([]string{"solaris", "windows", "vm", "zos", "freebsd"}, name) {
						continue
					}
					next := strings.TrimPrefix(path+"."+name, ".")
					if name == "" {
						next = path
					}
					walk(f.Type, next, append(way, i))
				}
			}
		default:
			all = append(all, place{path, append(way, whole), t})
		}
	}
	walk(reflect.TypeFor[specs.Spec](), "", nil)
	return all
}

// in finds the place in a configuration and makes what is missing on the way.
func (p place) in(s *specs.Spec) reflect.Value {
	v := reflect.ValueOf(s).Elem()
	for _, step := range p.way {
		if step == whole {
			return v
		}
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		if v.Kind() == reflect.Slice {
			if v.Len() <= step {
				v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			}
			v = v.Index(step)
			continue
		}
		v = v.Field(step)
	}
	return v
}

var (
	strange = []string{
		"", " ", ".", "..", "/", "/..", "../../../../etc", "a\x00b", "\x00", "\xff\xfe", "ä€😀\u202e", "\n", "%s%n", "-1", "0", "1-0", "99999999999999999999",
		"no-such", "/no/such", "/proc/self/fd/3", "a:b:c", ":", "=", "a=b", "rbind", "ro", "1:1", "SCMP_ACT_ALLOW", "RLIMIT_CPU", "network", "host",
		strings.Repeat("x", 300), strings.Repeat("y/", 3000), strings.Repeat("z", 200_000),
	}
	numbers = []int64{0, 1, -1, 2, 7, 100, 4095, 4096, 65536, math.MaxInt32, math.MinInt32, math.MaxUint32, math.MaxInt64, math.MinInt64, 1 << 40}
)

// change puts something else there: a wrong value, none, the same twice. The text says what, for the report.
func (p place) change(r *rand.Rand, s *specs.Spec) {
	v := p.in(s)
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		switch r.IntN(3) {
		case 0:
			v.SetZero()
			return
		case 1:
			p.enlarge(r, v)
			return
		}
		if v.Kind() == reflect.Pointer {
			v.Set(reflect.New(v.Type().Elem()))
			random(r, v.Elem(), 2)
			return
		}
		random(r, v, 2)
	default:
		random(r, v, 0)
	}
}

func (p place) enlarge(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		if v.Len() > 0 && r.IntN(2) == 0 {
			v.Set(reflect.Append(v, v.Index(r.IntN(v.Len()))))
			return
		}
		e := reflect.New(v.Type().Elem()).Elem()
		random(r, e, 1)
		v.Set(reflect.Append(v, e))
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		random(r, key, 1)
		random(r, value, 1)
		v.SetMapIndex(key, value)
	default:
		v.SetZero()
	}
}

// random fills a value. Depth is how much of what is below is filled too.
func random(r *rand.Rand, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(pick(r, strange))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(pick(r, numbers))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(pick(r, numbers)))
	case reflect.Pointer:
		if depth > 0 && r.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			random(r, v.Elem(), depth)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			random(r, v.Field(i), depth-1)
		}
	case reflect.Slice:
		v.SetZero()
		for range r.IntN(1 + max(0, depth)) {
			e := reflect.New(v.Type().Elem()).Elem()
			random(r, e, depth-1)
			v.Set(reflect.Append(v, e))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(1 + max(0, depth)) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			random(r, key, depth-1)
			random(r, value, depth-1)
			v.SetMapIndex(key, value)
		}
	}
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// valid are bases for changes: a small one and ones with much in them.
func valid(t testing.TB, b *bundle, r *rand.Rand) *specs.Spec {
	t.Helper()
	s := clone(t, b.spec)
	if r.IntN(3) == 0 {
		return s
	}
	adj, umask, mode, limit, shares, pids := 10, uint32(0o22), os.FileMode(0o600), int64(64<<20), uint64(512), int64(40)
	p := s.Process
	p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5}, Umask: &umask}
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 64}, {Type: "RLIMIT_CORE"}}
	p.OOMScoreAdj, p.NoNewPrivileges, p.Cwd = &adj, true, "/tmp"
	p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 4}
	p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}
	s.Linux.Sysctl = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/one", Type: "c", Major: 1, Minor: 3, FileMode: &mode}}
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares, Cpus: "0"}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
		Names: []string{"bpf", "keyctl"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 7, Op: specs.OpEqualTo}},
	}}}
	s.Annotations = map[string]string{"a": "b"}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: b.dir + "/upper", Options: []string{"rbind", "ro"}})
	if r.IntN(4) == 0 {
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 70000}}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings, s.Linux.Devices = ids, ids, nil
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 5}}
	}
	return s
}

func clone(t testing.TB, s *specs.Spec) *specs.Spec {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	out := new(specs.Spec)
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// harmless reports whether a test may run the configuration as root of this machine: nothing of the host is its root, comes
// into it writable or is executed as a hook, and its cgroup is below the test's own.
func harmless(b *bundle, s *specs.Spec) bool {
	inside := func(path string) bool {
		return path == "" || strings.HasPrefix(filepath.Clean(path)+"/", b.dir+"/") || strings.Contains(path, "no/such")
	}
	if s.Linux != nil {
		if path := (&builder{spec: s, id: "x"}).cgroupPath(); path != "/" && !strings.HasPrefix(path, filepath.Dir(b.spec.Linux.CgroupsPath)+"/") {
			return false
		}
		if len(s.Linux.NetDevices) > 0 {
			return false
		}
		for _, d := range s.Linux.Devices {
			if d.Type == "b" {
				return false
			}
		}
	}
	if s.Root != nil && s.Root.Path != "rootfs" && !inside(s.Root.Path) {
		return false
	}
	for _, m := range s.Mounts {
		if isBind(m) && !inside(m.Source) {
			return false
		}
	}
	if s.Hooks == nil {
		return true
	}
	for _, list := range [][]specs.Hook{
		//lint:ignore SA1019 deprecated is not gone
		s.Hooks.Prestart, s.Hooks.CreateRuntime, s.Hooks.CreateContainer, s.Hooks.StartContainer, s.Hooks.Poststart, s.Hooks.Poststop,
	} {
		for _, h := range list {
			if !inside(h.Path) {
				return false
			}
		}
	}
	return true
}

// names reports whether the error leads its reader to the place: by the field's name (with its parent's, if many have such a
// field), or by the words that stand for its parts in errors of the kernel ("mount tmpfs on /dev").
func names(err error, path string) bool {
	text := strings.ToLower(err.Error())
	parts := strings.Split(strings.ToLower(path), ".")
	for i, p := range parts {
		parts[i], _, _ = strings.Cut(p, "[")
	}
	if strings.Contains(text, strings.Join(parts, ".")) || path == "linux.resources" && strings.Contains(text, "limit cgroup") {
		return true
	}
	for prefix, words := range spoken {
		if !strings.HasPrefix(path+".", prefix) {
			continue
		}
		for _, word := range words {
			if strings.Contains(text, word) {
				return true
			}
		}
	}
	return false
}

// spoken are the words of steps for parts of the configuration.
var spoken = map[string][]string{
	"process.args":            {"exec", "program"},
	"linux":                   {"linux", "namespace"}, // emptied, it has no namespaces
	"linux.intelRdt":          {"linux.intelrdt:"},    // the host lacks it as a whole
	"process.env":             {"exec", "environment"},
	"process.cwd":             {"cwd"},
	"process.user":            {"user ", "uid", "gid", "group", "umask"},
	"process.rlimits":         {"rlimit"},
	"process.capabilities":    {"cap_", "capabilit"},
	"process.oomScoreAdj":     {"oom_score_adj"},
	"process.terminal":        {"process.terminal", "terminal"},
	"process.ioPriority":      {"process.iopriority", "i/o priority"},
	"process.scheduler":       {"process.scheduler", "scheduler"},
	"hostname":                {"hostname"},
	"domainname":              {"domainname"},
	"root":                    {"root"},
	"mounts":                  {"mount", "bind", "/proc", "/dev"}, // what is missing is missed where it is used
	"hooks":                   {"hook"},
	"linux.namespaces":        {"namespace"},
	"linux.uidMappings":       {"process.user", "uidmappings"},
	"linux.gidMappings":       {"process.user", "gidmappings", "linux.timeoffsets"},
	"linux.timeOffsets":       {"time offset", "timens"},
	"linux.sysctl":            {"sysctl"},
	"linux.devices":           {"device", "/dev"},
	"linux.cgroupsPath":       {"cgroup"},
	"linux.maskedPaths":       {"mask "},
	"linux.readonlyPaths":     {"read-only", "cover "},
	"linux.mountLabel":        {"linux.mountlabel"},
	"linux.rootfsPropagation": {"propagation"},
	"linux.seccomp":           {"linux.seccomp", "seccomp profile"},
	"linux.personality":       {"personality"},
	"linux.memoryPolicy":      {"memorypolicy", "memory policy"},

	"linux.resources.hugepageLimits": {"linux.resources.hugepagelimits["}, // with its page size
}

func init() { // the cgroup package says memory.limit for linux.resources.memory.limit
	for _, f := range reflect.VisibleFields(reflect.TypeFor[specs.LinuxResources]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		spoken["linux.resources."+name] = []string{strings.ToLower(name) + ".", strings.ToLower(name) + ":", strings.ToLower(name) + "["}
	}
}

// TestRandomSpecs changes valid configurations at random places and makes containers of them. None may end in a panic, leave
// something behind, or be refused without a word about what is wrong. GANTRY_SPECS is how many, GANTRY_SEED where to begin.
func TestRandomSpecs(t *testing.T) {
	count, seed := setting("GANTRY_SPECS", 200), uint64(setting("GANTRY_SEED", 1))
	b, all := newBundle(t, "exit", "0"), places()
	if len(all) < 200 {
		t.Fatalf("only %d places: the walk over the types is broken", len(all))
	}
	if err := runSpec(t, b, clone(t, b.spec)); err != nil { // what is opened once and kept is open now
		t.Fatal(err)
	}
	for range 2 { // what other tests left to the garbage collector
		runtime.GC()
		time.Sleep(20 * time.Millisecond)
	}
	before, ran, refused, kept := left(t, b), 0, 0, 0
	for n := range uint64(count) {
		r := rand.New(rand.NewPCG(seed, n))
		s := valid(t, b, r)
		var changed []string
		for range 1 + r.IntN(3)/2 {
			p := pick(r, all)
			p.change(r, s)
			changed = append(changed, p.path)
		}
		_, err := Compile(b.dir, s, nil)
		if harmless(b, s) {
			ran++
			runErr := runSpec(t, b, s)
			if err != nil && runErr == nil {
				t.Errorf("seed %d:%d: %q: not compiled (%v), but run", seed, n, changed, err)
			}
			err = runErr
		} else {
			kept++
		}
		if err != nil {
			refused++
			if !slices.ContainsFunc(changed, func(path string) bool { return names(err, path) }) {
				t.Errorf("seed %d:%d: the error does not name the field at fault, one of %q:\n\t%.500s", seed, n, changed, err)
			}
		}
		if after := left(t, b); after != before {
			t.Fatalf("seed %d:%d: %q: left behind:\n%s\nbefore:\n%s", seed, n, changed, after, before)
		}
	}
	t.Logf("%d configurations: %d run, %d compiled only, %d refused", count, ran, kept, refused)
	if refused == 0 || refused == count {
		t.Errorf("%d of %d refused: the generator is broken", refused, count)
	}
}

func setting(name string, byDefault int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return byDefault
}

// runSpec creates, starts and deletes.
func runSpec(t *testing.T, b *bundle, s *specs.Spec) error {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(b.dir, "work/work")); err != nil {
		t.Fatal(err)
	}
	o := CreateOptions{Bundle: b.dir, Spec: s, Rootfs: b.overlay(), Stdio: Stdio{Console: (*os.File).Close}}
	c, p, err := b.lib.Create(t.Context(), "random", o)
	if err != nil {
		return err
	}
	err = c.Start(t.Context())
	if killErr := unix.PidfdSendSignal(int(p.Pidfd.Fd()), unix.SIGKILL, nil, 0); killErr != nil && killErr != unix.ESRCH {
		t.Error(killErr)
	}
	if _, waitErr := spawn.Reap(p.Pidfd); waitErr != nil {
		t.Error(waitErr)
	}
	if deleteErr := c.Delete(t.Context(), true); deleteErr != nil {
		t.Errorf("delete: %v", deleteErr)
	}
	if closeErr := p.Pidfd.Close(); closeErr != nil {
		t.Error(closeErr)
	}
	return err
}

// left is what this process holds of the kernel: children, descriptors, mounts, containers, cgroups.
func left(t *testing.T, b *bundle) string {
	t.Helper()
	var text strings.Builder
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if children, err := os.ReadFile(task); err == nil && len(children) > 0 {
			fmt.Fprintf(&text, "children %s\n", children)
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && !strings.HasPrefix(target, "anon_inode:[event") && target != "/proc/"+strconv.Itoa(os.Getpid())+"/fd" && !strings.HasPrefix(target, "pid:[") {
			fmt.Fprintf(&text, "descriptor %s\n", target)
		}
	}
	for line := range strings.Lines(mountTable()) {
		if strings.Contains(line, b.dir) {
			fmt.Fprintf(&text, "mount %s", line)
		}
	}
	if ids, err := b.lib.List(); err != nil || len(ids) > 0 {
		fmt.Fprintf(&text, "containers %q %v\n", ids, err)
	}
	parent, err := cgroup.Open(filepath.Dir(b.spec.Linux.CgroupsPath))
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return text.String()
	}
	for _, dir := range parent.Paths() {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				fmt.Fprintf(&text, "cgroup %s/%s\n", dir, e.Name())
			}
		}
	}
	return text.String()
}

// TestEverythingRandom fills whole configurations with anything and compiles them: an error is fine, a panic is not.
func TestEverythingRandom(t *testing.T) {
	end := time.Now().Add(time.Duration(setting("GANTRY_RANDOM_SECONDS", 1)) * time.Second)
	seed := uint64(setting("GANTRY_SEED", 1))
	for n := uint64(0); time.Now().Before(end); n++ {
		r := rand.New(rand.NewPCG(seed, n))
		var s specs.Spec
		random(r, reflect.ValueOf(&s).Elem(), 2+r.IntN(6))
		_, _ = Compile("/bundle", &s, nil)
	}
}
