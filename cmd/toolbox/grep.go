//go:build !toolbox_core

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

func grep(args []string) error {
	opts, rest, err := getopt(args, "EFivnclqhHoe:rw")
	if err != nil {
		return withStatus{err, 2}
	}
	pattern, given := opts['e'], opts.has('e')
	if !given {
		if len(rest) == 0 {
			return withStatus{usage("grep [-EFivnclqhHow] PATTERN [FILE]..."), 2}
		}
		pattern, rest = rest[0], rest[1:]
	}
	re, err := grepPattern(pattern, opts)
	if err != nil {
		return withStatus{err, 2}
	}
	found := false
	prefix := (len(rest) > 1 || opts.has('H')) && !opts.has('h')
	out := bufio.NewWriter(os.Stdout)
	err = eachInput(rest, func(name string, r io.Reader) error {
		if !prefix {
			name = ""
		} else {
			name += ":"
		}
		hit, err := grepFile(out, re, opts, name, r)
		found = found || hit
		return err
	})
	if err := errors.Join(err, out.Flush()); err != nil {
		return withStatus{err, 2}
	}
	if !found {
		return status(1)
	}
	return nil
}

func grepPattern(pattern string, opts options) (*regexp.Regexp, error) {
	switch {
	case opts.has('F'):
		pattern = regexp.QuoteMeta(pattern)
	case !opts.has('E'): // basic: these are special only after a backslash
		pattern = regexp.MustCompile(`\\?[(){}|+?]`).ReplaceAllStringFunc(pattern, func(s string) string {
			if s[0] == '\\' {
				return s[1:]
			}
			return `\` + s
		})
	}
	if opts.has('w') {
		pattern = `\b(?:` + pattern + `)\b`
	}
	if opts.has('i') {
		pattern = "(?i)" + pattern
	}
	return regexp.Compile(pattern)
}

func grepFile(out *bufio.Writer, re *regexp.Regexp, opts options, prefix string, r io.Reader) (bool, error) {
	hits, number := 0, 0
	s := lines(r)
	for s.Scan() {
		number++
		if re.Match(s.Bytes()) == opts.has('v') {
			continue
		}
		hits++
		if opts.has('q') || opts.has('l') {
			break
		}
		if opts.has('c') {
			continue
		}
		at := prefix
		if opts.has('n') {
			at += strconv.Itoa(number) + ":"
		}
		shown := [][]byte{s.Bytes()}
		if opts.has('o') {
			shown = re.FindAll(s.Bytes(), -1)
		}
		for _, text := range shown {
			_, _ = fmt.Fprintf(out, "%s%s\n", at, text) // Flush reports it
		}
		if _, buffered := r.(*os.File); buffered && out.Buffered() > 0 {
			if err := out.Flush(); err != nil { // the input may be a pipe that goes on for long
				return true, err
			}
		}
	}
	if opts.has('c') {
		_, _ = fmt.Fprintf(out, "%s%d\n", prefix, hits)
	}
	if opts.has('l') && hits > 0 {
		_, _ = fmt.Fprintln(out, strings.TrimSuffix(prefix, ":"))
	}
	return hits > 0, s.Err()
}
