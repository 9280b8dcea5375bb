package logs

import (
	"encoding/json"
	"time"
	"unicode/utf8"
)

// appendEntry appends one line of the log: the bytes that encoding/json gives for the fields in this order.
// attrs is either empty or `"attrs":{…},`.
func appendEntry(b, line []byte, s Stream, attrs []byte, at []byte) []byte {
	b = append(b, `{"log":`...)
	b = appendString(b, line)
	b = append(b, `,"stream":"`...)
	b = append(b, s.String()...)
	b = append(b, `",`...)
	b = append(b, attrs...)
	b = append(b, `"time":"`...)
	b = append(b, at...)
	return append(b, "\"}\n"...)
}

func appendTime(b []byte, at time.Time) []byte { return at.UTC().AppendFormat(b, time.RFC3339Nano) }

// encodeAttrs is the part of an entry that all entries of a log share.
func encodeAttrs(attrs map[string]string) ([]byte, error) {
	if len(attrs) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(attrs)
	if err != nil {
		return nil, err
	}
	return append(append([]byte(`"attrs":`), text...), ','), nil
}

const hex = "0123456789abcdef"

// plain marks the ASCII bytes that a JSON string carries as they are. <, > and & are escaped as encoding/json does.
var plain = func() (t [utf8.RuneSelf]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

// short are the escapes of two characters.
var short = [utf8.RuneSelf]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// appendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(b, s []byte) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			if e := short[c]; e != 0 {
				b = append(b, '\\', e)
			} else {
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + n
		case r == '\u2028' || r == '\u2029': // JavaScript takes them for line ends
			b = append(append(b, s[start:i]...), '\\', 'u', '2', '0', '2', hex[r&0xf])
			start = i + n
		}
		i += n
	}
	return append(append(b, s[start:]...), '"')
}
