package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// uniq joins adjacent equal lines.
func uniq(args []string) error {
	opts, names, err := getopt(args, "cdui")
	if err != nil {
		return err
	}
	if len(names) > 1 {
		return usage("uniq [-cdui] [FILE]")
	}
	out := bufio.NewWriter(os.Stdout)
	equal := func(a, b string) bool { return a == b || opts.has('i') && strings.EqualFold(a, b) }
	show := func(line string, n int) {
		switch {
		case n == 0 || opts.has('d') && n == 1 || opts.has('u') && n > 1:
		case opts.has('c'):
			_, _ = fmt.Fprintf(out, "%7d %s\n", n, line)
		default:
			_, _ = fmt.Fprintln(out, line)
		}
	}
	err = eachInput(names, func(_ string, r io.Reader) error {
		last, n := "", 0
		s := lines(r)
		for s.Scan() {
			if n > 0 && equal(last, s.Text()) {
				n++
				continue
			}
			show(last, n)
			last, n = s.Text(), 1
		}
		show(last, n)
		return s.Err()
	})
	return errors.Join(err, out.Flush())
}

// span is a range of positions, from 1, both ends included.
type span struct{ from, to int }

const lastPosition = int(^uint(0) >> 1)

// spans reads a list such as "1,3-5,7-".
func spans(text string) ([]span, error) {
	var list []span
	for _, word := range strings.Split(text, ",") {
		first, last, isRange := strings.Cut(word, "-")
		s := span{1, lastPosition}
		var err error
		if first != "" {
			s.from, err = strconv.Atoi(first)
		}
		if last != "" && err == nil {
			s.to, err = strconv.Atoi(last)
		}
		if !isRange {
			s.to = s.from
		}
		if err != nil || word == "" || word == "-" || s.from < 1 || s.to < s.from {
			return nil, fmt.Errorf("invalid list %q", text)
		}
		list = append(list, s)
	}
	return list, nil
}

// chosenOf returns the parts whose positions are in the list, in their own order.
func chosenOf(parts []string, list []span) (kept []string) {
	for i, part := range parts {
		if slices.ContainsFunc(list, func(s span) bool { return s.from <= i+1 && i+1 <= s.to }) {
			kept = append(kept, part)
		}
	}
	return kept
}

func cut(args []string) error {
	opts, names, err := getopt(args, "f:c:b:d:s")
	if err != nil {
		return err
	}
	text, separator, delimiter := opts['f'], "\t", "\t"
	switch {
	case opts.has('d'):
		delimiter, separator = opts['d'], opts['d']
	case opts.has('c'):
		text, delimiter, separator = opts['c'], "", ""
	case opts.has('b'):
		text, delimiter, separator = opts['b'], "", ""
	}
	if text == "" || opts.has('f') == (delimiter == "") {
		return usage("cut -f LIST [-d CHARACTER] [-s] | -c LIST [FILE]...")
	}
	list, err := spans(text)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	err = eachInput(names, func(_ string, r io.Reader) error {
		s := lines(r)
		for s.Scan() {
			line := s.Text()
			switch {
			case delimiter == "" || strings.Contains(line, delimiter):
				line = strings.Join(chosenOf(strings.Split(line, delimiter), list), separator)
			case opts.has('s'):
				continue
			}
			_, _ = fmt.Fprintln(out, line)
		}
		return s.Err()
	})
	return errors.Join(err, out.Flush())
}

// class is a character class of tr, by byte.
type class struct {
	name string
	has  func(b byte) bool
}

var classes = []class{
	{"digit", func(b byte) bool { return '0' <= b && b <= '9' }},
	{"lower", func(b byte) bool { return 'a' <= b && b <= 'z' }},
	{"upper", func(b byte) bool { return 'A' <= b && b <= 'Z' }},
	{"alpha", func(b byte) bool { return 'a' <= b|32 && b|32 <= 'z' }},
	{"alnum", func(b byte) bool { return 'a' <= b|32 && b|32 <= 'z' || '0' <= b && b <= '9' }},
	{"space", func(b byte) bool { return b == ' ' || 9 <= b && b <= 13 }},
	{"blank", func(b byte) bool { return b == ' ' || b == '\t' }},
	{"print", func(b byte) bool { return 32 <= b && b < 127 }},
	{"punct", func(b byte) bool {
		return 32 < b && b < 127 && !('a' <= b|32 && b|32 <= 'z') && !('0' <= b && b <= '9')
	}},
	{"cntrl", func(b byte) bool { return b < 32 || b == 127 }},
}

// bytesOf expands a set of tr: ranges, classes, and the escapes \n \t \r \\ \0 and octal.
func bytesOf(text string) (set []byte, err error) {
	for len(text) > 0 {
		if rest, ok := strings.CutPrefix(text, "[:"); ok {
			name, after, closed := strings.Cut(rest, ":]")
			i := slices.IndexFunc(classes, func(c class) bool { return c.name == name })
			if !closed || i < 0 {
				return nil, fmt.Errorf("unknown class in %q", text)
			}
			for b := range 256 {
				if classes[i].has(byte(b)) {
					set = append(set, byte(b))
				}
			}
			text = after
			continue
		}
		first, rest := trByte(text)
		text = rest
		last := first
		if len(text) > 1 && text[0] == '-' {
			last, text = trByte(text[1:])
		}
		if last < first {
			return nil, fmt.Errorf("range %c-%c is reversed", first, last)
		}
		for b := int(first); b <= int(last); b++ {
			set = append(set, byte(b))
		}
	}
	return set, nil
}

func trByte(text string) (b byte, rest string) {
	if text[0] != '\\' || len(text) == 1 {
		return text[0], text[1:]
	}
	if i := strings.IndexByte("abfnrtv", text[1]); i >= 0 {
		return "\a\b\f\n\r\t\v"[i], text[2:]
	}
	digits := 1
	for digits < 4 && digits < len(text) && '0' <= text[digits] && text[digits] <= '7' {
		digits++
	}
	if n, err := strconv.ParseUint(text[1:digits], 8, 8); err == nil {
		return byte(n), text[digits:]
	}
	return text[1], text[2:]
}

// tr translates, deletes and squeezes bytes.
func tr(args []string) error {
	opts, words, err := getopt(args, "cCds")
	if err != nil {
		return err
	}
	if len(words) == 0 || len(words) > 2 || len(words) == 1 && !opts.has('d') && !opts.has('s') {
		return usage("tr [-cds] SET [SET]")
	}
	from, err := bytesOf(words[0])
	if err != nil {
		return err
	}
	if opts.has('c') || opts.has('C') {
		inside := from
		from = nil
		for b := range 256 {
			if !slices.Contains(inside, byte(b)) {
				from = append(from, byte(b))
			}
		}
	}
	squeezed := from
	var table [256]int // what to write, -1 for nothing
	for b := range table {
		table[b] = b
	}
	if len(words) == 2 {
		to, err := bytesOf(words[1])
		if err != nil {
			return err
		}
		squeezed = to
		if !opts.has('d') && len(to) == 0 {
			return errors.New("the second set is empty")
		}
		for i, b := range from {
			if !opts.has('d') {
				table[b] = int(to[min(i, len(to)-1)])
			}
		}
	}
	if opts.has('d') {
		for _, b := range from {
			table[b] = -1
		}
	}
	if !opts.has('s') {
		squeezed = nil
	}
	return translate(bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout), &table, squeezed)
}

func translate(in *bufio.Reader, out *bufio.Writer, table *[256]int, squeezed []byte) error {
	last := -1
	for {
		b, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		c := table[b]
		if c < 0 || c == last && slices.Contains(squeezed, byte(c)) {
			continue
		}
		last = c
		if err := out.WriteByte(byte(c)); err != nil {
			return err
		}
	}
}
