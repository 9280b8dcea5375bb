package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Allows reports whether the filter lets a call of the native architecture through. It runs the filter as the kernel does, on
// arguments that are 0 where none are given.
func (p *Program) Allows(number uintptr, args ...uint64) bool {
	m, err := native()
	if err != nil {
		return false
	}
	const allow, log = 0x7fff0000, 0x7ffc0000 // SECCOMP_RET_…
	data := make([]byte, 64)                  // struct seccomp_data
	binary.NativeEndian.PutUint32(data[0:], uint32(number))
	binary.NativeEndian.PutUint32(data[4:], m[0].audit)
	for i, arg := range args {
		binary.NativeEndian.PutUint64(data[16+8*i:], arg)
	}
	action := run(p.Filter, data)
	return action == allow || action == log
}

// run returns what a filter of this package returns; 0, which kills, for one that is not of this package.
func run(code []unix.SockFilter, data []byte) uint32 {
	acc := uint32(0)
	for pc := 0; pc < len(code); pc++ {
		in := code[pc]
		holds := false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if int(in.K)+4 > len(data) {
				return 0
			}
			acc = binary.NativeEndian.Uint32(data[in.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = acc == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			holds = acc > in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = acc >= in.K
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			return 0
		}
		if holds {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	return 0
}
