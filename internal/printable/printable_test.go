package printable

import (
	"errors"
	"testing"
)

func TestText(t *testing.T) {
	for name, c := range map[string]struct{ in, text, line string }{
		"plain":            {"no such image: app:1", "no such image: app:1", "no such image: app:1"},
		"other languages":  {"größe 大きさ 🙂", "größe 大きさ 🙂", "größe 大きさ 🙂"},
		"lines and tabs":   {"a\n\tb\r\nc", "a\n\tb\nc", "a  b c"},
		"colors":           {"\x1b[31mred\x1b[0m", "[31mred[0m", "[31mred[0m"},
		"title of window":  {"\x1b]0;x\x07", "]0;x", "]0;x"},
		"C1 as UTF-8":      {"\u009b31mred", "31mred", "31mred"},
		"C1 as a byte":     {"\x9b31mred", "\uFFFD31mred", "\uFFFD31mred"},
		"DEL and NUL":      {"a\x7f\x00b", "ab", "ab"},
		"carriage return":  {"good\rbad", "goodbad", "goodbad"},
		"another order":    {"a\u202egnp.exe\u2069", "agnp.exe", "agnp.exe"},
		"backspace":        {"abc\b\b\bxyz", "abcxyz", "abcxyz"},
		"empty":            {"", "", ""},
		"only escapes":     {"\x1b\x1b", "", ""},
		"soft hyphen kept": {"a\u00adb", "a\u00adb", "a\u00adb"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Text(c.in); got != c.text {
				t.Errorf("text %q, want %q", got, c.text)
			}
			if got := Line(c.in); got != c.line {
				t.Errorf("line %q, want %q", got, c.line)
			}
		})
	}
}

func TestError(t *testing.T) {
	if Error(nil) != nil {
		t.Error("an error was made of none")
	}
	plain := errors.New("plain")
	if Error(plain) != plain {
		t.Error("a plain error was wrapped")
	}
	bad := errors.New("\x1b[2Jbad\nanswer")
	if err := Error(bad); err.Error() != "[2Jbad answer" || !errors.Is(err, bad) {
		t.Errorf("%q", err)
	}
}

func FuzzText(f *testing.F) {
	f.Add("\x1b[31m\u009b\u202e\n\t")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Line(s) {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				t.Errorf("%q has %q", s, r)
			}
		}
		if again := Text(Text(s)); again != Text(s) {
			t.Errorf("%q, then %q", Text(s), again)
		}
	})
}
