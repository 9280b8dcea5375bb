package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// database reads a file of colon-separated fields, such as /etc/passwd; it is empty if there is none.
func database(path string) (rows [][]string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); len(fields) >= 3 {
			rows = append(rows, fields)
		}
	}
	return rows
}

// nameOf is the number itself if the database does not have it.
func nameOf(path string, id uint32) string {
	number := strconv.FormatUint(uint64(id), 10)
	for _, row := range database(path) {
		if row[2] == number {
			return row[0]
		}
	}
	return number
}

// idOf is -1 for "".
func idOf(path, name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	for _, row := range database(path) {
		if row[0] == name {
			return strconv.Atoi(row[2])
		}
	}
	return 0, fmt.Errorf("%s is not in %s", name, path)
}

func id(args []string) error {
	opts, _, err := getopt(args, "ugGn")
	if err != nil {
		return err
	}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	more, err := os.Getgroups()
	if err != nil {
		return err
	}
	groups := []uint32{gid}
	for _, g := range more {
		if !slices.Contains(groups, uint32(g)) {
			groups = append(groups, uint32(g))
		}
	}
	show := func(path string, ids ...uint32) {
		words := make([]string, len(ids))
		for i, id := range ids {
			words[i] = strconv.Itoa(int(id))
			if opts.has('n') {
				words[i] = nameOf(path, id)
			}
		}
		fmt.Println(strings.Join(words, " "))
	}
	named := func(path string, id uint32) string {
		if name := nameOf(path, id); name != strconv.Itoa(int(id)) {
			return fmt.Sprintf("%d(%s)", id, name)
		}
		return strconv.Itoa(int(id))
	}
	switch {
	case opts.has('u'):
		show("/etc/passwd", uid)
	case opts.has('g'):
		show("/etc/group", gid)
	case opts.has('G'):
		show("/etc/group", groups...)
	default:
		words := make([]string, len(groups))
		for i, g := range groups {
			words[i] = named("/etc/group", g)
		}
		fmt.Printf("uid=%s gid=%s groups=%s\n", named("/etc/passwd", uid), named("/etc/group", gid), strings.Join(words, ","))
	}
	return nil
}

func whoami([]string) error {
	fmt.Println(nameOf("/etc/passwd", uint32(os.Geteuid())))
	return nil
}

func hostname(args []string) error {
	opts, rest, err := getopt(args, "sfi")
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return unix.Sethostname([]byte(rest[0]))
	}
	name, err := os.Hostname()
	if opts.has('s') {
		name, _, _ = strings.Cut(name, ".")
	}
	fmt.Println(name)
	return err
}

func uname(args []string) error {
	opts, _, err := getopt(args, "asnrvmo")
	if err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	fields := []struct {
		flag rune
		text string
	}{
		{'s', unix.ByteSliceToString(u.Sysname[:])},
		{'n', unix.ByteSliceToString(u.Nodename[:])},
		{'r', unix.ByteSliceToString(u.Release[:])},
		{'v', unix.ByteSliceToString(u.Version[:])},
		{'m', unix.ByteSliceToString(u.Machine[:])},
		{'o', "GNU/Linux"},
	}
	var words []string
	for _, f := range fields {
		if opts.has('a') || opts.has(f.flag) || len(opts) == 0 && f.flag == 's' {
			words = append(words, f.text)
		}
	}
	fmt.Println(strings.Join(words, " "))
	return nil
}

// date knows the commonest of strftime(3)'s fields.
func date(args []string) error {
	opts, rest, err := getopt(args, "uIRd:")
	if err != nil {
		return err
	}
	now := time.Now()
	if text, ok := opts['d']; ok {
		seconds, err := strconv.ParseInt(strings.TrimPrefix(text, "@"), 10, 64)
		if err != nil {
			return fmt.Errorf("-d %s: want @SECONDS", text)
		}
		now = time.Unix(seconds, 0)
	}
	if opts.has('u') {
		now = now.UTC()
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	switch {
	case opts.has('I'):
		format = "%F"
	case opts.has('R'):
		format = "%a, %d %b %Y %T %z"
	case len(rest) > 0 && rest[0][:min(1, len(rest[0]))] == "+":
		format = rest[0][1:]
	case len(rest) > 0:
		return usage("date [-uIR] [-d @SECONDS] [+FORMAT]")
	}
	fmt.Println(strings.NewReplacer("%%", "%", "%Y", now.Format("2006"), "%m", now.Format("01"), "%d", now.Format("02"),
		"%e", now.Format("_2"), "%H", now.Format("15"), "%M", now.Format("04"), "%S", now.Format("05"),
		"%N", fmt.Sprintf("%09d", now.Nanosecond()), "%s", strconv.FormatInt(now.Unix(), 10), "%F", now.Format("2006-01-02"),
		"%T", now.Format("15:04:05"), "%Z", now.Format("MST"), "%z", now.Format("-0700"), "%a", now.Format("Mon"),
		"%b", now.Format("Jan"), "%j", fmt.Sprintf("%03d", now.YearDay()), "%y", now.Format("06"), "%n", "\n", "%t", "\t").Replace(format))
	return nil
}

func nproc([]string) error {
	fmt.Println(runtime.NumCPU())
	return nil
}

func sleep(args []string) error {
	if len(args) < 2 {
		return usage("sleep NUMBER[smhd]...")
	}
	var total time.Duration
	for _, arg := range args[1:] {
		if arg == "inf" || arg == "infinity" {
			arg = "100000d"
		}
		unit := time.Second
		if at := strings.IndexAny("smhd", arg[max(0, len(arg)-1):]); at >= 0 {
			unit = []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour}[at]
			arg = arg[:len(arg)-1]
		}
		n, err := strconv.ParseFloat(arg, 64)
		if err != nil || n < 0 || n > 1e9 {
			return fmt.Errorf("invalid duration %q", arg)
		}
		total += time.Duration(n * float64(unit))
	}
	time.Sleep(total)
	return nil
}

func df(args []string) error {
	opts, names, err := getopt(args, "hkTaPi")
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	_, _ = fmt.Fprintf(out, "%-20s %10s %10s %10s %4s %s\n", "Filesystem", "Size", "Used", "Available", "Use%", "Mounted on")
	show := func(source, path string) error {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if st.Blocks == 0 && !opts.has('a') && len(names) == 0 {
			return nil
		}
		unit := func(blocks uint64) string {
			if n := blocks * uint64(st.Bsize); opts.has('h') {
				return human(n)
			} else {
				return strconv.FormatUint(n/1024, 10)
			}
		}
		used, percent := st.Blocks-st.Bfree, uint64(0)
		if all := used + st.Bavail; all > 0 {
			percent = (used*100 + all - 1) / all
		}
		_, _ = fmt.Fprintf(out, "%-20s %10s %10s %10s %3d%% %s\n", source, unit(st.Blocks), unit(used), unit(st.Bavail), percent, path)
		return nil
	}
	var errs []error
	if len(names) > 0 {
		for _, name := range names {
			errs = append(errs, show("-", name))
		}
		return errors.Join(append(errs, out.Flush())...)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 {
			_ = show(f[0], mountPath(f[1])) // what is hidden or forbidden is not shown
		}
	}
	return out.Flush()
}

// mountPath undoes the escapes of /proc/mounts.
func mountPath(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func free(args []string) error {
	opts, _, err := getopt(args, "hkmb")
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	kb := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 {
			kb[f[0]], _ = strconv.ParseUint(f[1], 10, 64)
		}
	}
	unit := func(n uint64) string {
		switch {
		case opts.has('h'):
			return human(n << 10)
		case opts.has('m'):
			return strconv.FormatUint(n>>10, 10)
		case opts.has('b'):
			return strconv.FormatUint(n<<10, 10)
		}
		return strconv.FormatUint(n, 10)
	}
	cached := kb["Buffers:"] + kb["Cached:"] + kb["SReclaimable:"]
	total, unused := kb["MemTotal:"], kb["MemFree:"]
	fmt.Printf("%-6s %11s %11s %11s %11s %11s %11s\n", "", "total", "used", "free", "shared", "buff/cache", "available")
	fmt.Printf("%-6s %11s %11s %11s %11s %11s %11s\n", "Mem:", unit(total), unit(total-min(total, unused+cached)), unit(unused),
		unit(kb["Shmem:"]), unit(cached), unit(kb["MemAvailable:"]))
	fmt.Printf("%-6s %11s %11s %11s\n", "Swap:", unit(kb["SwapTotal:"]), unit(kb["SwapTotal:"]-kb["SwapFree:"]), unit(kb["SwapFree:"]))
	return nil
}

// findProgram looks in PATH; "" if it is not there.
func findProgram(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// become executes a program in place of this one: 127 if there is none, 126 if it cannot be executed.
func become(argv, environ []string) error {
	path, err := exec.LookPath(argv[0])
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		if _, found := lookup(argv[0]); !found {
			return withStatus{fmt.Errorf("%s: not found", argv[0]), 127}
		}
		path, err = "/proc/self/exe", nil
	}
	if err == nil {
		err = unix.Exec(path, argv, environ)
	}
	return withStatus{fmt.Errorf("%s: %w", argv[0], err), 126}
}

func env(args []string) error {
	environ, rest := os.Environ(), args[1:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		switch {
		case rest[0] == "-i" || rest[0] == "-":
			environ = nil
		case rest[0] == "-u" && len(rest) > 1:
			environ = slices.DeleteFunc(environ, func(v string) bool { return strings.HasPrefix(v, rest[1]+"=") })
			rest = rest[1:]
		default:
			return withStatus{usage("env [-i] [-u NAME] [NAME=VALUE]... [COMMAND [ARGUMENT]...]"), 125}
		}
		rest = rest[1:]
	}
	for len(rest) > 0 && strings.Contains(rest[0], "=") {
		name, _, _ := strings.Cut(rest[0], "=")
		environ = slices.DeleteFunc(environ, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		environ, rest = append(environ, rest[0]), rest[1:]
	}
	if len(rest) > 0 {
		return become(rest, environ)
	}
	for _, v := range environ {
		fmt.Println(v)
	}
	return nil
}

func timeCommand(args []string) error {
	if len(args) < 2 {
		return usage("time COMMAND [ARGUMENT]...")
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	start := time.Now()
	err := cmd.Run()
	real := time.Since(start)
	if cmd.ProcessState == nil {
		return withStatus{err, 127}
	}
	fmt.Fprintf(os.Stderr, "real\t%.3fs\nuser\t%.3fs\nsys\t%.3fs\n", real.Seconds(),
		cmd.ProcessState.UserTime().Seconds(), cmd.ProcessState.SystemTime().Seconds())
	return exitOf(cmd)
}

// exitOf is a finished command's status in a shell's terms.
func exitOf(cmd *exec.Cmd) error {
	ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && ws.Signaled():
		return status(128 + int(ws.Signal()))
	case cmd.ProcessState.Success():
		return nil
	}
	return status(cmd.ProcessState.ExitCode())
}
