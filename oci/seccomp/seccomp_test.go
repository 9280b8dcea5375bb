package seccomp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	mobyseccomp "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// event is a struct seccomp_data.
type event struct {
	number, audit uint32
	args          [6]uint64
}

func (e event) bytes() []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b[0:], e.number)
	binary.LittleEndian.PutUint32(b[4:], e.audit)
	for i, arg := range e.args {
		binary.LittleEndian.PutUint64(b[16+8*i:], arg)
	}
	return b
}

// interpret runs a filter as the kernel does, and counts the instructions.
func interpret(code []unix.SockFilter, e event) (result uint32, steps int, err error) {
	data, acc := e.bytes(), uint32(0)
	for pc := 0; pc < len(code); pc++ {
		steps++
		in := code[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K%4 != 0 || in.K >= 64 {
				return 0, steps, fmt.Errorf("pc %d: load at %d", pc, in.K)
			}
			acc = binary.LittleEndian.Uint32(data[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(acc > in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= in.K)
		case unix.BPF_RET | unix.BPF_K:
			return in.K, steps, nil
		default:
			return 0, steps, fmt.Errorf("pc %d: code %#x", pc, in.Code)
		}
	}
	return 0, steps, fmt.Errorf("ran off the end")
}

// evaluate says what a profile means, straight from its text: no tables by number, no ranges, no halves.
func evaluate(m machine, p *specs.LinuxSeccomp, e event) uint32 {
	var at *abi
	isX32 := e.number >= x32Bit && e.number != noCall
	for i, a := range m {
		if a.audit != e.audit || i > 0 && !slices.Contains(p.Architectures, a.name) {
			continue
		}
		if a.audit == unix.AUDIT_ARCH_X86_64 && (a.name == specs.ArchX32) != isX32 && e.number != noCall {
			continue
		}
		at = &m[i]
	}
	if at == nil {
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	byDefault, _ := action(p.DefaultAction, p.DefaultErrnoRet)
	newest, known := int64(-1), false
	for _, call := range p.Syscalls {
		act, _ := action(call.Action, call.ErrnoRet)
		for _, name := range call.Names {
			if c := find(name); c != nil && c.numbers[at.column] >= 0 {
				number := uint32(c.numbers[at.column])
				if !(at.name == specs.ArchARM && number >= 0xf0000) {
					newest = max(newest, int64(number))
				}
				known = known || number == e.number
				if number == e.number && holds(call.Args, e, at.narrow) {
					return act
				}
			}
			if sub, ok := subcalls[name]; ok && at.name == specs.ArchX86 && int32(e.number) == find(sub.call).numbers[x86] {
				counts := len(call.Args) == 0 || !permits(act)
				if counts && uint32(e.args[0])&uint32(sub.mask) == uint32(sub.number) {
					return act
				}
			}
		}
	}
	if newest >= 0 && int64(e.number) > newest && !known && !permits(byDefault) {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return byDefault
}

func holds(args []specs.LinuxSeccompArg, e event, narrow bool) bool {
	count := map[uint]int{}
	anyOf := false
	hits := 0
	for _, a := range args {
		count[a.Index]++
		anyOf = anyOf || count[a.Index] > 1
		got, want, second := e.args[a.Index], a.Value, a.ValueTwo
		if narrow {
			got, want, second = uint64(uint32(got)), uint64(uint32(want)), uint64(uint32(second))
		}
		hit := map[specs.LinuxSeccompOperator]bool{
			specs.OpEqualTo: got == want, specs.OpNotEqual: got != want,
			specs.OpLessThan: got < want, specs.OpLessEqual: got <= want,
			specs.OpGreaterThan: got > want, specs.OpGreaterEqual: got >= want,
			specs.OpMaskedEqual: got&want == second&want,
		}[a.Op]
		if hit {
			hits++
		}
	}
	return hits == len(args) || anyOf && hits > 0
}

var (
	operators = []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
		specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual,
	}
	actions = []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap,
		specs.ActTrace, specs.ActLog, specs.ActNotify,
	}
	values = []uint64{0, 1, 2, 5, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 + 1, 5 << 32, 1 << 63, ^uint64(0)}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: pick(r, actions[:len(actions)-1])}
	for _, a := range []specs.Arch{specs.ArchX86, specs.ArchX32, specs.ArchARM, specs.ArchMIPS, specs.ArchX86_64} {
		if r.IntN(2) == 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	pool := calls[:]
	if r.IntN(2) == 0 { // few names: many rules for each
		pool = calls[r.IntN(len(calls)-8):][:8]
	}
	for range r.IntN(60) {
		call := specs.LinuxSyscall{Action: pick(r, actions)}
		if call.Action == specs.ActErrno || call.Action == specs.ActTrace {
			if n := uint(r.IntN(200)); n > 0 {
				call.ErrnoRet = &n
			}
		}
		for range 1 + r.IntN(6) {
			if name := pick(r, pool).name; name != "write" {
				call.Names = append(call.Names, name)
			}
		}
		call.Names = append(call.Names, pick(r, []string{"socket", "semop", "no_such_call", "cacheflush"}))
		for range r.IntN(4) {
			call.Args = append(call.Args, specs.LinuxSeccompArg{
				Index: uint(r.IntN(6)), Value: pick(r, values), ValueTwo: pick(r, values), Op: pick(r, operators),
			})
		}
		p.Syscalls = append(p.Syscalls, call)
	}
	return p
}

func randomEvent(r *rand.Rand, m machine) event {
	a := pick(r, m)
	e := event{audit: a.audit}
	switch r.IntN(5) {
	case 0:
		e.number = pick(r, []uint32{0, 470, 471, 472, 547, 600, x32Bit - 1, x32Bit, x32Bit | 59, x32Bit | 600, noCall - 1, noCall, armOwn, armOwn + 7})
	case 1:
		e.number = uint32(max(0, find(pick(r, []string{"socketcall", "ipc", "socket", "cacheflush"})).numbers[a.column]))
	default:
		e.number = uint32(max(0, pick(r, calls[:]).numbers[a.column]))
	}
	for i := range e.args {
		e.args[i] = pick(r, values)
	}
	if r.IntN(3) == 0 {
		e.args[0] = uint64(r.IntN(26))
	}
	if r.IntN(50) == 0 {
		e.audit = unix.AUDIT_ARCH_S390X
	}
	return e
}

func TestFilterMeansWhatTheProfileSays(t *testing.T) {
	for name, m := range map[string]machine{"amd64": amd64Machine, "arm64": arm64Machine} {
		for seed := range uint64(150) {
			r := rand.New(rand.NewPCG(seed, 1))
			p := randomProfile(r)
			program, err := compileFor(m, p)
			if err != nil {
				t.Fatalf("%s, seed %d: %v", name, seed, err)
			}
			for range 1000 {
				e := randomEvent(r, m)
				got, _, err := interpret(program.Filter, e)
				if want := evaluate(m, p, e); err != nil || got != want {
					t.Fatalf("%s, seed %d, %+v: %#x, %v; want %#x", name, seed, e, got, err, want)
				}
			}
		}
	}
}

func defaultProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := mobyseccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultProfileForEveryCall(t *testing.T) {
	for name, m := range map[string]machine{"amd64": amd64Machine, "arm64": arm64Machine} {
		p := defaultProfile(t)
		p.Architectures = append(p.Architectures, specs.ArchARM)
		program, err := compileFor(m, p)
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for _, a := range m {
			for number := range uint32(700) {
				for _, first := range []uint64{0, 1, 38, 39, 40, 0x7e020000, 8} {
					e := event{number: number | a.lo, audit: a.audit, args: [6]uint64{first}}
					got, steps, err := interpret(program.Filter, e)
					if want := evaluate(m, p, e); err != nil || got != want {
						t.Fatalf("%s %+v: %#x, %v; want %#x", a.name, e, got, err, want)
					}
					most = max(most, steps)
				}
			}
		}
		t.Logf("%s: %d instructions, at most %d for a call", name, len(program.Filter), most)
		if most > 64 {
			t.Errorf("%s: %d instructions for a call", name, most)
		}
	}
}

func TestOneRule(t *testing.T) {
	eperm := uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	enosys := uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	seven := uint(7)
	mount := func(act specs.LinuxSeccompAction, errno *uint, args ...specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: act, ErrnoRet: errno, Args: args}},
		}
	}
	arg := func(index uint, op specs.LinuxSeccompOperator, value, two uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: value, ValueTwo: two}
	}
	const audit = unix.AUDIT_ARCH_X86_64
	for _, c := range []struct {
		name string
		p    *specs.LinuxSeccomp
		e    event
		want uint32
	}{
		{"allowed", mount(specs.ActAllow, nil), event{165, audit, [6]uint64{}}, unix.SECCOMP_RET_ALLOW},
		{"not named", mount(specs.ActAllow, nil), event{164, audit, [6]uint64{}}, eperm},
		{"newer", mount(specs.ActAllow, nil), event{166, audit, [6]uint64{}}, enosys},
		{"386 allowed", mount(specs.ActAllow, nil), event{21, unix.AUDIT_ARCH_I386, [6]uint64{}}, unix.SECCOMP_RET_ALLOW},
		{"386 newer", mount(specs.ActAllow, nil), event{165, unix.AUDIT_ARCH_I386, [6]uint64{}}, enosys},
		{"x32 not listed", mount(specs.ActAllow, nil), event{x32Bit | 165, audit, [6]uint64{}}, unix.SECCOMP_RET_KILL_PROCESS},
		{"foreign", mount(specs.ActAllow, nil), event{165, unix.AUDIT_ARCH_ARM, [6]uint64{}}, unix.SECCOMP_RET_KILL_PROCESS},
		{"errno", mount(specs.ActErrno, &seven), event{165, audit, [6]uint64{}}, unix.SECCOMP_RET_ERRNO | 7},
		{"trace", mount(specs.ActTrace, &seven), event{165, audit, [6]uint64{}}, unix.SECCOMP_RET_TRACE | 7},
		{"masked", mount(specs.ActAllow, nil, arg(3, specs.OpMaskedEqual, 0xf0, 0x50)), event{165, audit, [6]uint64{3: 0x55}}, unix.SECCOMP_RET_ALLOW},
		{"not masked", mount(specs.ActAllow, nil, arg(3, specs.OpMaskedEqual, 0xf0, 0x50)), event{165, audit, [6]uint64{3: 0x65}}, eperm},
		{"upper half", mount(specs.ActAllow, nil, arg(3, specs.OpEqualTo, 5, 0)), event{165, audit, [6]uint64{3: 1<<32 | 5}}, eperm},
		{"both", mount(specs.ActAllow, nil, arg(0, specs.OpEqualTo, 1, 0), arg(1, specs.OpEqualTo, 2, 0)), event{165, audit, [6]uint64{1, 3}}, eperm},
		{"either", mount(specs.ActAllow, nil, arg(0, specs.OpEqualTo, 1, 0), arg(0, specs.OpEqualTo, 2, 0)), event{165, audit, [6]uint64{2}}, unix.SECCOMP_RET_ALLOW},
	} {
		program, err := compileFor(amd64Machine, c.p)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got, _, err := interpret(program.Filter, c.e); err != nil || got != c.want {
			t.Errorf("%s: %#x, %v; want %#x", c.name, got, err, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	large, errno := uint(4096), uint(1)
	call := func(c specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{c}}
	}
	many := specs.LinuxSyscall{Names: []string{"mount"}, Action: specs.ActErrno}
	for i := range uint64(3000) {
		many.Args = append(many.Args, specs.LinuxSeccompArg{Value: i << 20, Op: specs.OpEqualTo})
	}
	for want, p := range map[string]*specs.LinuxSeccomp{
		"there is none":           nil,
		`unknown action ""`:       {},
		"for single system calls": {DefaultAction: specs.ActNotify},
		`architecture "SCMP_X"`:   {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_X"}},
		`unknown flag "X"`:        {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		"a name is missing":       call(specs.LinuxSyscall{Action: specs.ActErrno}),
		`unknown action "X"`:      call(specs.LinuxSyscall{Names: []string{"read"}, Action: "X"}),
		"larger than 4095":        call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: &large}),
		"has no errno":            call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, ErrnoRet: &errno}),
		"SCMP_ACT_NOTIFY cannot be used for the write syscall": call(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}),
		"argument 6": call(specs.LinuxSyscall{
			Names: []string{"read"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}},
		}),
		`unknown operator "X"`: call(specs.LinuxSyscall{
			Names: []string{"read"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Op: "X"}},
		}),
		"the kernel takes 4096": call(many),
	} {
		if program, err := Compile(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, program %v; want %q", err, program, want)
		}
	}
}

func TestFlags(t *testing.T) {
	notify := []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}
	every := []specs.LinuxSeccompFlag{flagTsync, specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv}
	for _, c := range []struct {
		p    specs.LinuxSeccomp
		want uint
	}{
		{specs.LinuxSeccomp{}, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW}, // runc's default
		{specs.LinuxSeccomp{Flags: every[:0]}, 0},
		{specs.LinuxSeccomp{Flags: every}, unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{specs.LinuxSeccomp{Flags: every[:0], Syscalls: notify}, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
		{specs.LinuxSeccomp{Flags: every[3:], Syscalls: notify}, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
	} {
		c.p.DefaultAction = specs.ActAllow
		if program, err := Compile(&c.p); err != nil || program.Flags != c.want {
			t.Errorf("%+v: %+v, %v; want %#x", c.p, program, err, c.want)
		}
	}
}

func TestCompiledOnce(t *testing.T) {
	first, err := Compile(defaultProfile(t))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Compile(defaultProfile(t))
	if err != nil || first != again {
		t.Errorf("the same profile gave %p, then %p, %v", first, again, err)
	}
	changed := defaultProfile(t)
	for i := range changed.Syscalls {
		if len(changed.Syscalls[i].Args) > 0 {
			changed.Syscalls[i].Args[0].Value++
			break
		}
	}
	other, err := Compile(changed)
	if err != nil || other == first || reflect.DeepEqual(other, first) {
		t.Errorf("another profile gave the same program, %v", err)
	}
}

func TestTableIsCurrent(t *testing.T) {
	out, err := exec.Command("go", "run", "./gen").Output()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("zcalls.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != string(have) {
		t.Error("zcalls.go is out of date: run go generate")
	}
}

func BenchmarkDefaultProfile(b *testing.B) {
	p := defaultProfile(b)
	for b.Loop() {
		if _, err := compileFor(amd64Machine, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCached(b *testing.B) {
	p := defaultProfile(b)
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(uint64(1), "mount", "SCMP_ACT_ERRNO", uint64(5), "SCMP_CMP_MASKED_EQ", uint64(9))
	f.Fuzz(func(t *testing.T, seed uint64, name, act string, value uint64, op string, arg uint64) {
		r := rand.New(rand.NewPCG(seed, 2))
		p := randomProfile(r)
		p.Syscalls = append([]specs.LinuxSyscall{{
			Names: []string{name}, Action: specs.LinuxSeccompAction(act),
			Args: []specs.LinuxSeccompArg{{Value: value, Op: specs.LinuxSeccompOperator(op)}},
		}}, p.Syscalls...)
		for _, m := range []machine{amd64Machine, arm64Machine} {
			program, err := compileFor(m, p)
			if err != nil {
				return
			}
			for range 50 {
				e := randomEvent(r, m)
				e.args[0] = arg
				got, _, err := interpret(program.Filter, e)
				if want := evaluate(m, p, e); err != nil || got != want {
					t.Fatalf("%+v: %#x, %v; want %#x", e, got, err, want)
				}
			}
		}
	})
}
