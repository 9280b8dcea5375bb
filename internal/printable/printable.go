// Package printable makes text that others wrote safe to print: a registry's error, a file's name or a label must not
// move the cursor of a terminal, change its colors or answer for the user.
package printable

import (
	"strings"
	"unicode/utf8"
)

// Text drops control characters except line ends and tabs, and characters that change the direction of text.
func Text(s string) string { return clean(s, "\n\t") }

// Line is Text for what has to stay on one line: line ends and tabs become spaces.
func Line(s string) string {
	s = Text(s)
	if strings.ContainsAny(s, "\n\t") {
		s = strings.NewReplacer("\r\n", " ", "\n", " ", "\t", " ").Replace(s)
	}
	return s
}

func clean(s, keep string) string {
	if isClean(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unsafe(r) && !strings.ContainsRune(keep, r) {
			return -1
		}
		return r
	}, s)
}

// isClean tells plain ASCII without control characters, which most text is.
func isClean(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// unsafe tells control characters (C0, DEL and C1, which some terminals take for escape sequences) and the marks by
// which text is shown in another order than it is written.
func unsafe(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// Error gives an error a text that is safe to print. The error stays what it is for errors.Is and errors.As.
func Error(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if cleaned := Line(text); cleaned != text || !utf8.ValidString(text) {
		return &cleanError{strings.ToValidUTF8(cleaned, "\uFFFD"), err}
	}
	return err
}

type cleanError struct {
	text string
	err  error
}

func (e *cleanError) Error() string { return e.text }
func (e *cleanError) Unwrap() error { return e.err }
