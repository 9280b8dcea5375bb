package seccomp

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// column is an ABI's place in the table of calls.
type column int

const (
	amd64 column = iota
	x86
	x32
	arm64
	arm
	columns
)

// call is a system call's number in each ABI, -1 where it does not exist.
type call struct {
	name    string
	numbers [columns]int32
}

// find returns the call's numbers, nil if no ABI has it.
func find(name string) *call {
	i, found := slices.BinarySearchFunc(calls[:], name, func(c call, name string) int { return cmp.Compare(c.name, name) })
	if !found {
		return nil
	}
	return &calls[i]
}

// abi is one way to make system calls on a machine.
type abi struct {
	name   specs.Arch
	audit  uint32 // AUDIT_ARCH_…, which amd64 and x32 share
	column column
	narrow bool // arguments are of 32 bits
	// The numbers lo to hi are this ABI's, those from private on (if not 0) out of the order in which calls were added.
	lo, hi, private uint32
}

const (
	x32Bit = 0x40000000 // __X32_SYSCALL_BIT
	noCall = ^uint32(0) // what a tracer leaves to skip a call; also syscall(-1)
	armOwn = 0xf0000    // __ARM_NR_BASE
)

// machine is a kernel's native ABI, first, and those that it offers besides.
type machine []abi

var (
	amd64Machine = machine{
		{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, amd64, false, 0, x32Bit - 1, 0},
		{specs.ArchX86, unix.AUDIT_ARCH_I386, x86, true, 0, noCall, 0},
		{specs.ArchX32, unix.AUDIT_ARCH_X86_64, x32, false, x32Bit, noCall, 0},
	}
	arm64Machine = machine{
		{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, arm64, false, 0, noCall, 0},
		{specs.ArchARM, unix.AUDIT_ARCH_ARM, arm, true, 0, noCall, armOwn},
	}
)

// native is the machine that this program is built for.
func native() (machine, error) {
	switch runtime.GOARCH {
	case "amd64":
		return amd64Machine, nil
	case "arm64":
		return arm64Machine, nil
	}
	return nil, fmt.Errorf("no table of system calls for %s", runtime.GOARCH)
}

// foreign are architectures that a profile may name although no call can be made by them on these machines.
var foreign = []specs.Arch{
	specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS, specs.ArchMIPS64,
	specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64,
	specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64,
	specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// nativeName is libseccomp's word for the machine's own architecture.
const nativeName specs.Arch = "SCMP_ARCH_NATIVE"

// selected returns the native ABI and the others that are named, in the machine's order.
func (m machine) selected(names []specs.Arch) ([]abi, error) {
	for _, name := range names {
		if name != nativeName && !slices.Contains(foreign, name) {
			return nil, fmt.Errorf("unknown architecture %q", name)
		}
	}
	abis := m[:1:1]
	for _, a := range m[1:] {
		if slices.Contains(names, a.name) {
			abis = append(abis, a)
		}
	}
	return abis, nil
}

// multiplexer is a call and the part of its first argument that counts: ipc(2) has a version in the upper half.
type multiplexer struct {
	call string
	mask uint64
}

var (
	muxSocket = multiplexer{"socketcall", 0xffffffff}
	muxIPC    = multiplexer{"ipc", 0xffff}
)

// subcalls are the multiplexed calls of 386: socketcall(2) and ipc(2), whose first argument says what is meant.
// The source is Linux, include/uapi/linux/net.h and ipc.h.
var subcalls = map[string]struct {
	multiplexer
	number uint64
}{
	"socket": {muxSocket, 1}, "bind": {muxSocket, 2}, "connect": {muxSocket, 3}, "listen": {muxSocket, 4},
	"accept": {muxSocket, 5}, "getsockname": {muxSocket, 6}, "getpeername": {muxSocket, 7}, "socketpair": {muxSocket, 8},
	"send": {muxSocket, 9}, "recv": {muxSocket, 10}, "sendto": {muxSocket, 11}, "recvfrom": {muxSocket, 12},
	"shutdown": {muxSocket, 13}, "setsockopt": {muxSocket, 14}, "getsockopt": {muxSocket, 15}, "sendmsg": {muxSocket, 16},
	"recvmsg": {muxSocket, 17}, "accept4": {muxSocket, 18}, "recvmmsg": {muxSocket, 19}, "sendmmsg": {muxSocket, 20},
	"semop": {muxIPC, 1}, "semget": {muxIPC, 2}, "semctl": {muxIPC, 3}, "semtimedop": {muxIPC, 4},
	"msgsnd": {muxIPC, 11}, "msgrcv": {muxIPC, 12}, "msgget": {muxIPC, 13}, "msgctl": {muxIPC, 14},
	"shmat": {muxIPC, 21}, "shmdt": {muxIPC, 22}, "shmget": {muxIPC, 23}, "shmctl": {muxIPC, 24},
}

// ruleset is an ABI's rules by call number. A call without an entry gets the default action.
type ruleset struct {
	rules map[uint32][]rule
	// newest is the highest number that the profile names, if it names any.
	newest uint32
	named  bool
}

func (a abi) ruleset(p *parsed) ruleset {
	s := ruleset{rules: make(map[uint32][]rule, len(calls))}
	for _, entry := range p.entries {
		for _, name := range entry.names {
			if c := find(name); c != nil && c.numbers[a.column] >= 0 {
				number := uint32(c.numbers[a.column])
				s.add(number, entry.rules)
				if a.private == 0 || number < a.private {
					s.newest, s.named = max(s.newest, number), true
				}
			}
			if a.column == x86 {
				s.addSubcall(name, entry.rules)
			}
		}
	}
	return s
}

func (s ruleset) add(number uint32, rules []rule) {
	have := s.rules[number]
	if len(have) == 0 {
		s.rules[number] = rules[:len(rules):len(rules)] // shared, until something is appended
		return
	}
	if n := len(have); len(have[n-1].conditions) == 0 {
		return // the last one always matches
	}
	s.rules[number] = append(have, rules...)
}

// addSubcall gives the multiplexer the rules of the call that it can make. The call's arguments are out of a filter's
// sight there: a rule with conditions counts without them if it refuses, and not at all if it permits.
func (s ruleset) addSubcall(name string, rules []rule) {
	sub, found := subcalls[name]
	if !found {
		return
	}
	mux := uint32(find(sub.call).numbers[x86])
	for _, r := range rules {
		if len(r.conditions) == 0 || !permits(r.action) {
			first := condition{op: specs.OpMaskedEqual, value: sub.number, mask: sub.mask}
			s.add(mux, []rule{{r.action, []condition{first}}})
		}
	}
}
