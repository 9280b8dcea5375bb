package seccomp

import (
	"encoding/binary"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// content is everything that a profile says. Each string and list is preceded by its length, so no two profiles are
// written alike.
func content(p *specs.LinuxSeccomp) string {
	w := writer(make([]byte, 0, 16<<10))
	w.text(string(p.DefaultAction))
	w.optional(p.DefaultErrnoRet)
	w.number(uint64(len(p.Architectures)))
	for _, a := range p.Architectures {
		w.text(string(a))
	}
	if p.Flags == nil { // which is not the same as none
		w.number(0)
	} else {
		w.number(1)
	}
	w.number(uint64(len(p.Flags)))
	for _, f := range p.Flags {
		w.text(string(f))
	}
	w.number(uint64(len(p.Syscalls)))
	for _, c := range p.Syscalls {
		w.text(string(c.Action))
		w.optional(c.ErrnoRet)
		w.number(uint64(len(c.Names)))
		for _, name := range c.Names {
			w.text(name)
		}
		w.number(uint64(len(c.Args)))
		for _, a := range c.Args {
			w.number(uint64(a.Index))
			w.number(a.Value)
			w.number(a.ValueTwo)
			w.text(string(a.Op))
		}
	}
	return string(w)
}

type writer []byte

func (w *writer) number(n uint64) { *w = binary.AppendUvarint(*w, n) }

func (w *writer) text(s string) {
	w.number(uint64(len(s)))
	*w = append(*w, s...)
}

func (w *writer) optional(n *uint) {
	if n == nil {
		w.number(0)
		return
	}
	w.number(1)
	w.number(uint64(*n))
}
