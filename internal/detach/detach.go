// Package detach finds the keys in a terminal's input by which a user leaves a container that goes on running.
package detach

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// DefaultKeys is docker's sequence ctrl-p,ctrl-q.
var DefaultKeys = []byte{16, 17}

// ErrDetached is returned by the input when the user typed the detach sequence.
var ErrDetached = errors.New("read escape sequence")

// ParseKeys reads a comma-separated sequence of characters and ctrl-X, X one of a-z @ [ \ ] ^ _.
func ParseKeys(s string) ([]byte, error) {
	if s == "" {
		return DefaultKeys, nil
	}
	var keys []byte
	for _, key := range strings.Split(s, ",") {
		code, ok := keyCode(key)
		if !ok {
			return nil, fmt.Errorf("invalid detach keys %q: unknown character %q", s, key)
		}
		keys = append(keys, code)
	}
	return keys, nil
}

func keyCode(key string) (byte, bool) {
	if len(key) == 1 {
		return key[0], true
	}
	if len(key) != len("ctrl-x") || !strings.EqualFold(key[:5], "ctrl-") {
		return 0, false
	}
	switch c := key[5] | 0x20; {
	case key[5] >= '[' && key[5] <= '_':
		return key[5] - '@', true
	case key[5] == '@':
		return 0, true
	case c >= 'a' && c <= 'z':
		return c - 'a' + 1, true
	}
	return 0, false
}

// Reader passes on what it reads, except the detach sequence, where it ends with ErrDetached.
// The beginning of a sequence is held back until it is known not to be one.
type Reader struct {
	source  io.Reader
	keys    []byte
	matched int    // how many keys the last bytes of the input are
	ready   []byte // to be passed on
	err     error  // after ready
}

func NewReader(source io.Reader, keys []byte) *Reader {
	return &Reader{source: source, keys: keys}
}

func (d *Reader) Read(p []byte) (int, error) {
	for len(d.ready) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		buf := make([]byte, max(len(p), 1))
		n, err := d.source.Read(buf)
		for i := 0; i < n && d.err == nil; i++ {
			d.feed(buf[i])
		}
		if err != nil && d.err == nil {
			d.ready = append(d.ready, d.keys[:d.matched]...) // an unfinished sequence is ordinary input
			d.matched, d.err = 0, err
		}
	}
	n := copy(p, d.ready)
	d.ready = d.ready[n:]
	return n, nil
}

// feed takes one byte. On a mismatch the held bytes are replayed but for the longest suffix that starts the sequence.
func (d *Reader) feed(c byte) {
	for d.matched > 0 && d.keys[d.matched] != c {
		shorter := d.border(d.matched)
		d.ready = append(d.ready, d.keys[:d.matched-shorter]...)
		d.matched = shorter
	}
	if d.keys[d.matched] != c {
		d.ready = append(d.ready, c)
		return
	}
	if d.matched++; d.matched == len(d.keys) {
		d.matched, d.err = 0, ErrDetached
	}
}

// border is the length of the longest proper suffix of keys[:n] that is also its prefix.
func (d *Reader) border(n int) int {
	for k := n - 1; k > 0; k-- {
		if string(d.keys[:k]) == string(d.keys[n-k:n]) {
			return k
		}
	}
	return 0
}
