package seccomp

import (
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	maxInstructions = 4096 // BPF_MAXINSNS

	// Where struct seccomp_data has what; see seccomp(2). Both machines are little-endian.
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16

	retNewCall = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	retForeign = unix.SECCOMP_RET_KILL_PROCESS
)

// assemble makes the program: by architecture, then a binary search over ranges of call numbers, then the arguments.
func assemble(abis []abi, p *parsed) ([]unix.SockFilter, error) {
	var b builder
	next := b.ret(retForeign)
	for _, group := range slices.Backward(byAudit(abis)) {
		b.narrow = group[0].narrow
		b.follow(b.search(spans(group, p), p.byDefault))
		tree := b.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offsetNumber)
		next = b.branch(unix.BPF_JEQ, group[0].audit, tree, next)
	}
	b.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offsetArch)
	if len(b.code) > maxInstructions {
		return nil, fmt.Errorf("%d instructions: the kernel takes %d", len(b.code), maxInstructions)
	}
	slices.Reverse(b.code)
	return b.code, nil
}

// byAudit puts ABIs that the kernel tells apart by the call's number only (amd64, x32) together, lower numbers first.
func byAudit(abis []abi) [][]abi {
	var groups [][]abi
next:
	for _, a := range abis {
		for i := range groups {
			if groups[i][0].audit == a.audit {
				groups[i] = append(groups[i], a)
				continue next
			}
		}
		groups = append(groups, []abi{a})
	}
	return groups
}

// span is a range of call numbers, up to the next span, that are treated alike.
type span struct {
	from  uint32
	rules []rule
}

// plain is the span of calls that get one action whatever their arguments.
func plain(from, action uint32) span { return span{from, []rule{{action: action}}} }

func (s span) same(o span) bool {
	return len(s.rules[0].conditions) == 0 && len(o.rules[0].conditions) == 0 && s.rules[0].action == o.rules[0].action
}

// spans covers all numbers from 0 up.
func spans(group []abi, p *parsed) []span {
	var all []span
	add := func(s span) {
		n := len(all)
		if n > 0 && all[n-1].from == s.from { // the one before is empty
			all, n = all[:n-1], n-1
		}
		if n == 0 || !all[n-1].same(s) {
			all = append(all, s)
		}
	}
	var last abi
	var rest uint32
	for _, a := range group {
		set := a.ruleset(p)
		gap := p.byDefault
		add(plain(a.lo, gap))
		for _, number := range slices.Sorted(maps.Keys(set.rules)) {
			add(span{number, set.rules[number]})
			if set.named && number >= set.newest && !permits(p.byDefault) {
				gap = retNewCall
			}
			add(plain(number+1, gap))
		}
		last, rest = a, gap
	}
	if last.hi != noCall {
		add(plain(last.hi+1, retForeign))
		add(plain(noCall, rest))
	}
	return all
}

// builder writes a program from its end to its beginning, so that every jump's target is already there: an index into
// code, which is reversed in the end.
type builder struct {
	code   []unix.SockFilter
	rets   map[uint32]int // the nearest return of each value
	narrow bool           // compare the lower half of arguments only
}

func (b *builder) emit(code uint16, k uint32) int {
	b.code = append(b.code, unix.SockFilter{Code: code, K: k})
	return len(b.code) - 1
}

// far reports whether target is out of a conditional jump's reach once a few more instructions are in between.
func (b *builder) far(target int) bool {
	const few = 4
	return len(b.code)+few-target-1 > 255
}

func (b *builder) ret(value uint32) int {
	if at, found := b.rets[value]; found && !b.far(at) {
		return at
	}
	if b.rets == nil {
		b.rets = map[uint32]int{}
	}
	b.rets[value] = b.emit(unix.BPF_RET|unix.BPF_K, value)
	return b.rets[value]
}

// near returns target, or a stand-in for it that a conditional jump reaches.
func (b *builder) near(target int) int {
	if !b.far(target) {
		return target
	}
	if t := b.code[target]; t.Code == unix.BPF_RET|unix.BPF_K {
		return b.ret(t.K)
	}
	return b.emit(unix.BPF_JMP|unix.BPF_JA, uint32(len(b.code)-target-1))
}

// follow makes target what comes after the instruction that is emitted next.
func (b *builder) follow(target int) {
	if target != len(b.code)-1 {
		b.emit(unix.BPF_JMP|unix.BPF_JA, uint32(len(b.code)-target-1))
	}
}

// branch compares the accumulator with k.
func (b *builder) branch(op uint16, k uint32, yes, no int) int {
	if yes == no {
		return yes
	}
	yes = b.near(yes)
	no = b.near(no)
	at := b.emit(unix.BPF_JMP|op|unix.BPF_K, k)
	b.code[at].Jt, b.code[at].Jf = uint8(at-yes-1), uint8(at-no-1)
	return at
}

// search expects the call's number in the accumulator.
func (b *builder) search(all []span, byDefault uint32) int {
	if len(all) == 1 {
		return b.chain(all[0].rules, byDefault)
	}
	mid := len(all) / 2
	upper := b.search(all[mid:], byDefault)
	lower := b.search(all[:mid], byDefault)
	return b.branch(unix.BPF_JGE, all[mid].from, upper, lower)
}

// chain tries rules in order.
func (b *builder) chain(rules []rule, byDefault uint32) int {
	next := -1
	for _, r := range slices.Backward(rules) {
		if len(r.conditions) == 0 {
			next = b.ret(r.action)
			continue
		}
		if next < 0 {
			next = b.ret(byDefault)
		}
		yes := b.ret(r.action)
		for _, c := range slices.Backward(r.conditions) {
			yes = b.condition(c, yes, next)
		}
		next = yes
	}
	return next
}

// condition compares an argument of 64 bits in halves, since the accumulator has 32.
func (b *builder) condition(c condition, yes, no int) int {
	switch c.op {
	case specs.OpGreaterThan:
		return b.ordered(c, unix.BPF_JGT, yes, no)
	case specs.OpGreaterEqual:
		return b.ordered(c, unix.BPF_JGE, yes, no)
	case specs.OpLessEqual:
		return b.ordered(c, unix.BPF_JGT, no, yes)
	case specs.OpLessThan:
		return b.ordered(c, unix.BPF_JGE, no, yes)
	case specs.OpNotEqual:
		return b.equal(c, no, yes)
	}
	return b.equal(c, yes, no)
}

func (b *builder) equal(c condition, yes, no int) int {
	yes = b.half(c.index, 0, uint32(c.mask), uint32(c.value), yes, no)
	if b.narrow {
		return yes
	}
	return b.half(c.index, 4, uint32(c.mask>>32), uint32(c.value>>32), yes, no)
}

// half compares the masked half at offset of an argument.
func (b *builder) half(index uint, offset, mask, value uint32, yes, no int) int {
	if mask == 0 || yes == no { // value has been masked
		return yes
	}
	b.branch(unix.BPF_JEQ, value, yes, no)
	if mask != noCall {
		b.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask)
	}
	return b.load(index, offset)
}

// ordered decides by op (JGT or JGE) if the upper halves are equal, else by those.
func (b *builder) ordered(c condition, op uint16, yes, no int) int {
	if yes == no {
		return yes
	}
	b.branch(op, uint32(c.value), yes, no)
	lower := b.load(c.index, 0)
	if b.narrow {
		return lower
	}
	equal := b.branch(unix.BPF_JEQ, uint32(c.value>>32), lower, no)
	b.branch(unix.BPF_JGT, uint32(c.value>>32), yes, equal)
	return b.load(c.index, 4)
}

func (b *builder) load(index uint, offset uint32) int {
	return b.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offsetArguments+8*uint32(index)+offset)
}
