package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is what /proc/PID tells.
type process struct {
	pid, ppid          int
	uid                uint32
	state, name, title string
	rss                int64 // bytes
	ticks              int64 // CPU time, in hundredths of a second
}

func ps(args []string) error {
	columns := []string{"pid", "user", "time", "command"}
	rest := args[1:]
	for len(rest) > 0 {
		switch word := rest[0]; {
		case word == "-o" && len(rest) > 1:
			columns, rest = strings.Split(rest[1], ","), rest[1:]
		case strings.HasPrefix(word, "-o"):
			columns = strings.Split(word[2:], ",")
		case strings.Contains(word, "f"):
			columns = []string{"user", "pid", "ppid", "time", "command"}
		case strings.Contains(word, "u"):
			columns = []string{"user", "pid", "rss", "stat", "time", "command"}
		}
		rest = rest[1:]
	}
	all, err := processes()
	if err != nil {
		return err
	}
	rows := [][]string{{}}
	for _, c := range columns {
		rows[0] = append(rows[0], strings.ToUpper(c))
	}
	for _, p := range all {
		row := make([]string, len(columns))
		for i, c := range columns {
			value, ok := p.column(c)
			if !ok {
				return fmt.Errorf("unknown column %q", c)
			}
			row[i] = value
		}
		rows = append(rows, row)
	}
	return table(rows)
}

func (p process) column(name string) (string, bool) {
	switch name {
	case "pid":
		return strconv.Itoa(p.pid), true
	case "ppid":
		return strconv.Itoa(p.ppid), true
	case "user":
		return nameOf("/etc/passwd", p.uid), true
	case "uid":
		return strconv.Itoa(int(p.uid)), true
	case "stat", "s", "state":
		return p.state, true
	case "rss":
		return strconv.FormatInt(p.rss/1024, 10), true
	case "time":
		seconds := p.ticks / 100
		return fmt.Sprintf("%d:%02d", seconds/60, seconds%60), true
	case "comm":
		return p.name, true
	case "command", "cmd", "args":
		return p.title, true
	}
	return "", false
}

// table prints aligned columns; the last is left as it is.
func table(rows [][]string) error {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], len(text))
		}
	}
	out := bufio.NewWriter(os.Stdout)
	for _, row := range rows {
		for i, text := range row[:len(row)-1] {
			_, _ = fmt.Fprintf(out, "%-*s ", widths[i], text)
		}
		_, _ = fmt.Fprintln(out, row[len(row)-1])
	}
	return out.Flush()
}

func processes() ([]process, error) {
	found, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, f := range found {
		pid, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil { // else it has ended
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b process) int { return a.pid - b.pid })
	return all, nil
}

// readProcess reads proc_pid_stat(5) and its neighbours.
func readProcess(pid int) (process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, err
	}
	open, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
	if open < 0 || end < open {
		return process{}, errors.New("unexpected format of /proc/PID/stat")
	}
	f := strings.Fields(string(text[end+1:]))
	if len(f) < 22 {
		return process{}, errors.New("unexpected format of /proc/PID/stat")
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(f[i], 10, 64)
		return n
	}
	p := process{
		pid: pid, state: f[0], ppid: int(number(1)), name: string(text[open+1 : end]),
		ticks: number(11) + number(12), rss: number(21) * int64(os.Getpagesize()),
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return process{}, err
	}
	p.uid = st.Uid
	title, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return process{}, err
	}
	p.title = strings.TrimSpace(strings.ReplaceAll(string(title), "\x00", " "))
	if p.title == "" {
		p.title = "[" + p.name + "]"
	}
	return p, nil
}

// signalNumber understands 9, KILL and SIGKILL.
func signalNumber(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("unknown signal %q", text)
}

func kill(args []string) error {
	rest, signal := args[1:], unix.SIGTERM
	if len(rest) > 0 && rest[0] == "-l" {
		for s := unix.Signal(1); s < 32; s++ {
			fmt.Printf("%d %s\n", s, strings.TrimPrefix(unix.SignalName(s), "SIG"))
		}
		return nil
	}
	if len(rest) > 1 && strings.HasPrefix(rest[0], "-") && rest[0] != "--" {
		text := rest[0][1:]
		rest = rest[1:]
		if text == "s" {
			text, rest = rest[0], rest[1:]
		}
		s, err := signalNumber(text)
		if err != nil {
			return err
		}
		signal = s
	}
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	if len(rest) == 0 {
		return usage("kill [-SIGNAL] PID...")
	}
	return each(rest, func(text string) error {
		pid, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("invalid process number %q", text)
		}
		if err := unix.Kill(pid, signal); err != nil {
			return fmt.Errorf("%d: %w", pid, err)
		}
		return nil
	})
}
