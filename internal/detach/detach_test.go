package detach

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseKeys(t *testing.T) {
	for text, want := range map[string]string{"": "\x10\x11", "ctrl-a": "\x01", "ctrl-p,ctrl-q": "\x10\x11", "a,b": "ab", "ctrl-[,ctrl-@": "\x1b\x00", "ctrl-_": "\x1f", "CTRL-Z": "\x1a"} {
		if got, err := ParseKeys(text); err != nil || string(got) != want {
			t.Errorf("ParseKeys(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{"ctrl-1", "ab", ",", "ctrl-"} {
		if _, err := ParseKeys(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestReader(t *testing.T) {
	for _, test := range []struct {
		keys, in, out string
		detached      bool
	}{
		{"pq", "hello", "hello", false},
		{"pq", "hepq after", "he", true},
		{"pq", "hepxpq", "hepx", true},
		{"pq", "pp", "pp", false},
		{"pq", "ppq", "p", true},
		{"aab", "aaab", "a", true},
		{"abab", "ababab", "", true},
		{"abac", "ababac", "ab", true},
		{"a", "xa", "x", true},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "late error": iotest.DataErrReader,
		} {
			got, err := io.ReadAll(NewReader(wrap(strings.NewReader(test.in)), []byte(test.keys)))
			if string(got) != test.out || errors.Is(err, ErrDetached) != test.detached || err != nil && !test.detached {
				t.Errorf("%s: keys %q, input %q: %q, %v; want %q, detached %v", name, test.keys, test.in, got, err, test.out, test.detached)
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add("ctrl", []byte("xxctrctrlyy"))
	f.Add("aab", []byte("aaaab"))
	f.Fuzz(func(t *testing.T, keys string, in []byte) {
		if keys == "" {
			return
		}
		want, _, detached := strings.Cut(string(in), keys)
		got, err := io.ReadAll(NewReader(bytes.NewReader(in), []byte(keys)))
		if string(got) != want || errors.Is(err, ErrDetached) != detached {
			t.Errorf("keys %q, input %q: %q, %v; want %q, %v", keys, in, got, err, want, detached)
		}
	})
}
