package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxText bounds a line that is read as one.
const maxText = 64 << 20

func lines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxText)
	return s
}

func cat(args []string) error {
	_, names, err := getopt(args, "u")
	if err != nil {
		return err
	}
	return eachInput(names, func(_ string, r io.Reader) error {
		_, err := io.Copy(os.Stdout, r)
		return err
	})
}

// count reads the number of head and tail, "-n 5", "-n +5" or "-5".
func count(args []string, spec string) (opts options, n int, fromStart bool, names []string, err error) {
	if len(args) > 1 && len(args[1]) > 1 && args[1][0] == '-' && args[1][1] >= '0' && args[1][1] <= '9' {
		args = append([]string{args[0], "-n", args[1][1:]}, args[2:]...)
	}
	if opts, names, err = getopt(args, spec); err != nil {
		return nil, 0, false, nil, err
	}
	text := "10"
	for _, flag := range "nc" {
		if opts.has(flag) {
			text = opts[flag]
		}
	}
	fromStart = strings.HasPrefix(text, "+")
	if n, err = strconv.Atoi(text); err != nil {
		return nil, 0, false, nil, fmt.Errorf("invalid number %q", text)
	}
	return opts, max(n, -n), fromStart, names, nil
}

func head(args []string) error {
	opts, n, _, names, err := count(args, "n:c:q")
	if err != nil {
		return err
	}
	return eachInput(names, func(_ string, r io.Reader) error {
		if opts.has('c') {
			_, err := io.CopyN(os.Stdout, r, int64(n))
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		in := bufio.NewReader(r)
		for range n {
			line, err := in.ReadBytes('\n')
			if _, werr := os.Stdout.Write(line); werr != nil {
				return werr
			}
			if err != nil {
				break
			}
		}
		return nil
	})
}

func tail(args []string) error {
	opts, n, fromStart, names, err := count(args, "n:c:fF")
	if err != nil {
		return err
	}
	follow := opts.has('f') || opts.has('F')
	return eachInput(names, func(_ string, r io.Reader) error {
		if err := lastPart(r, n, fromStart, opts.has('c')); err != nil || !follow {
			return err
		}
		for {
			if _, err := io.Copy(os.Stdout, r); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// lastPart keeps no more than what it will print.
func lastPart(r io.Reader, n int, fromStart, bytewise bool) error {
	in := bufio.NewReader(r)
	var kept [][]byte
	for number := 1; ; number++ {
		var piece []byte
		var err error
		if bytewise {
			var b byte
			if b, err = in.ReadByte(); err == nil {
				piece = []byte{b}
			}
		} else {
			piece, err = in.ReadBytes('\n')
		}
		if len(piece) > 0 && (!fromStart || number >= n) {
			kept = append(kept, piece)
		}
		if !fromStart && len(kept) > n {
			kept = kept[1:]
		}
		if err != nil {
			break
		}
	}
	_, err := os.Stdout.Write(bytes.Join(kept, nil))
	return err
}

func wc(args []string) error {
	opts, names, err := getopt(args, "lwcm")
	if err != nil {
		return err
	}
	show := func(numbers [4]int, name string) {
		var out []string
		for i, flag := range "lwmc" {
			if opts.has(flag) || len(opts) == 0 && flag != 'm' {
				out = append(out, strconv.Itoa(numbers[i]))
			}
		}
		if name != "-" {
			out = append(out, name)
		}
		fmt.Println(strings.Join(out, " "))
	}
	var total [4]int
	err = eachInput(names, func(name string, r io.Reader) error {
		numbers, err := measure(r)
		for i, n := range numbers {
			total[i] += n
		}
		show(numbers, name)
		return err
	})
	if len(names) > 1 {
		show(total, "total")
	}
	return err
}

// measure counts lines, words, characters and bytes.
func measure(r io.Reader) (n [4]int, err error) {
	buf, inWord := make([]byte, 64<<10), false
	for {
		k, err := r.Read(buf)
		for _, b := range buf[:k] {
			space := b == ' ' || b >= '\t' && b <= '\r'
			if !space && !inWord {
				n[1]++
			}
			inWord = !space
			if b == '\n' {
				n[0]++
			}
			if utf8.RuneStart(b) {
				n[2]++
			}
		}
		n[3] += k
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func sortLines(args []string) error {
	opts, names, err := getopt(args, "nruk:t:")
	if err != nil {
		return err
	}
	field := 0
	if opts.has('k') {
		first, _, _ := strings.Cut(opts['k'], ",")
		if field, err = strconv.Atoi(first); err != nil || field < 1 {
			return fmt.Errorf("invalid field %q", opts['k'])
		}
	}
	key := func(line string) string {
		if field == 0 {
			return line
		}
		fields := strings.Fields(line)
		if opts.has('t') {
			fields = strings.Split(line, opts['t'])
		}
		if field > len(fields) {
			return ""
		}
		return fields[field-1]
	}
	var all []string
	if err := eachInput(names, func(_ string, r io.Reader) error {
		s := lines(r)
		for s.Scan() {
			all = append(all, s.Text())
		}
		return s.Err()
	}); err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b string) int {
		order := 0
		if opts.has('n') {
			order = cmp.Compare(leadingNumber(key(a)), leadingNumber(key(b)))
		} else {
			order = strings.Compare(key(a), key(b))
		}
		if opts.has('r') {
			return -order
		}
		return order
	})
	if opts.has('u') {
		all = slices.Compact(all)
	}
	out := bufio.NewWriter(os.Stdout)
	for _, line := range all {
		_, _ = fmt.Fprintln(out, line)
	}
	return out.Flush()
}

// leadingNumber is 0 where there is none.
func leadingNumber(s string) float64 {
	s = strings.TrimSpace(s)
	if end := strings.IndexFunc(s, func(r rune) bool { return !strings.ContainsRune("+-.0123456789", r) }); end >= 0 {
		s = s[:end]
	}
	n, _ := strconv.ParseFloat(s, 64)
	return n
}

func seq(args []string) error {
	first, step, last := int64(1), int64(1), int64(0)
	var into []*int64
	switch len(args) {
	case 2:
		into = []*int64{&last}
	case 3:
		into = []*int64{&first, &last}
	case 4:
		into = []*int64{&first, &step, &last}
	default:
		return usage("seq [FIRST [STEP]] LAST")
	}
	for i, p := range into {
		n, err := strconv.ParseInt(args[i+1], 10, 64)
		if err != nil {
			return fmt.Errorf("invalid number %q", args[i+1])
		}
		*p = n
	}
	if step == 0 {
		return errors.New("the step is 0")
	}
	out := bufio.NewWriter(os.Stdout)
	for n := first; step > 0 && n <= last || step < 0 && n >= last; n += step {
		if _, err := out.WriteString(strconv.FormatInt(n, 10) + "\n"); err != nil {
			return err
		}
	}
	return out.Flush()
}

func tee(args []string) error {
	opts, names, err := getopt(args, "a")
	if err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if opts.has('a') {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	outs := []io.Writer{os.Stdout}
	var files []*os.File
	for _, name := range names {
		file, err := os.OpenFile(name, flags, 0o666)
		if err != nil {
			return err
		}
		outs, files = append(outs, file), append(files, file)
	}
	_, err = io.Copy(io.MultiWriter(outs...), os.Stdin)
	for _, file := range files {
		err = errors.Join(err, file.Close())
	}
	return err
}

func yes(args []string) error {
	text := "y"
	if len(args) > 1 {
		text = strings.Join(args[1:], " ")
	}
	block := bytes.Repeat([]byte(text+"\n"), 1+(32<<10)/(len(text)+1))
	for {
		if _, err := os.Stdout.Write(block); err != nil {
			return err
		}
	}
}

// echo knows -n only; the shell has its own.
func echo(args []string) error {
	words, end := args[1:], "\n"
	if len(words) > 0 && words[0] == "-n" {
		words, end = words[1:], ""
	}
	_, err := os.Stdout.WriteString(strings.Join(words, " ") + end)
	return err
}
