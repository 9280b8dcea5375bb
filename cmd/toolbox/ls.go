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
	"time"

	"golang.org/x/sys/unix"
)

// entry is a file that ls shows.
type entry struct {
	name string
	path string
	st   unix.Stat_t
}

func look(path, name string) (entry, error) {
	e := entry{name: name, path: path}
	if err := unix.Lstat(path, &e.st); err != nil {
		return e, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return e, nil
}

func ls(args []string) error {
	opts, names, err := getopt(args, "1aAldhiRrtSFnC")
	if err != nil {
		return err
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	out := bufio.NewWriter(os.Stdout)
	var errs []error
	var files, dirs []entry
	for _, name := range names {
		e, err := look(name, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		info, err := os.Stat(name) // a link to a directory is listed as one
		if err == nil && info.IsDir() && !opts.has('d') && (e.st.Mode&unix.S_IFMT == unix.S_IFDIR || !opts.has('l')) {
			dirs = append(dirs, e)
		} else {
			files = append(files, e)
		}
	}
	list(out, files, opts)
	for i, dir := range dirs {
		if len(names) > 1 {
			if i > 0 || len(files) > 0 {
				_, _ = fmt.Fprintln(out)
			}
			_, _ = fmt.Fprintf(out, "%s:\n", dir.path)
		}
		errs = append(errs, listDir(out, dir.path, opts))
	}
	return errors.Join(append(errs, out.Flush())...)
}

func listDir(out *bufio.Writer, path string, opts options) error {
	found, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	var names []string
	if opts.has('a') {
		names = []string{".", ".."}
	}
	for _, f := range found {
		if f.Name()[0] != '.' || opts.has('a') || opts.has('A') {
			names = append(names, f.Name())
		}
	}
	var all, below []entry
	var errs []error
	for _, name := range names {
		e, err := look(filepath.Join(path, name), name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, e)
		if e.st.Mode&unix.S_IFMT == unix.S_IFDIR && name != "." && name != ".." {
			below = append(below, e)
		}
	}
	if opts.has('l') {
		var blocks int64
		for _, e := range all {
			blocks += e.st.Blocks
		}
		_, _ = fmt.Fprintf(out, "total %d\n", blocks/2)
	}
	list(out, all, opts)
	if opts.has('R') {
		for _, e := range below {
			_, _ = fmt.Fprintf(out, "\n%s:\n", e.path)
			errs = append(errs, listDir(out, e.path, opts))
		}
	}
	return errors.Join(errs...)
}

func list(out *bufio.Writer, all []entry, opts options) {
	slices.SortFunc(all, func(a, b entry) int {
		order := strings.Compare(a.name, b.name)
		switch {
		case opts.has('t'):
			order = time.Unix(b.st.Mtim.Unix()).Compare(time.Unix(a.st.Mtim.Unix()))
		case opts.has('S'):
			order = int(min(1, max(-1, b.st.Size-a.st.Size)))
		}
		if opts.has('r') {
			return -order
		}
		return order
	})
	rows := make([][]string, len(all))
	widths := make([]int, 6)
	for i, e := range all {
		rows[i] = row(e, opts)
		for j, text := range rows[i][:len(rows[i])-1] {
			widths[j] = max(widths[j], len(text))
		}
	}
	for _, r := range rows {
		for j, text := range r[:len(r)-1] {
			_, _ = fmt.Fprintf(out, "%*s ", widths[j], text)
		}
		_, _ = fmt.Fprintln(out, r[len(r)-1])
	}
}

// row is the columns of a line, the name last.
func row(e entry, opts options) []string {
	name := e.name
	if opts.has('F') {
		name += mark(e.st.Mode)
	}
	if !opts.has('l') {
		if opts.has('i') {
			return []string{strconv.FormatUint(e.st.Ino, 10), name}
		}
		return []string{name}
	}
	if e.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if target, err := os.Readlink(e.path); err == nil {
			name += " -> " + target
		}
	}
	size := strconv.FormatInt(e.st.Size, 10)
	switch kind := e.st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFCHR || kind == unix.S_IFBLK:
		size = fmt.Sprintf("%d,%d", unix.Major(e.st.Rdev), unix.Minor(e.st.Rdev))
	case opts.has('h'):
		size = human(uint64(e.st.Size))
	}
	owner, group := nameOf("/etc/passwd", e.st.Uid), nameOf("/etc/group", e.st.Gid)
	if opts.has('n') {
		owner, group = strconv.Itoa(int(e.st.Uid)), strconv.Itoa(int(e.st.Gid))
	}
	changed := time.Unix(e.st.Mtim.Unix())
	layout := "Jan _2 15:04"
	if age := time.Since(changed); age > 180*24*time.Hour || age < -time.Hour {
		layout = "Jan _2  2006"
	}
	return []string{modeText(e.st.Mode), strconv.Itoa(int(e.st.Nlink)), owner, group, size, changed.Format(layout), name}
}

func mark(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "/"
	case unix.S_IFLNK:
		return "@"
	case unix.S_IFIFO:
		return "|"
	case unix.S_IFSOCK:
		return "="
	}
	if mode&0o111 != 0 {
		return "*"
	}
	return ""
}

// modeText is the mode as ls -l shows it, such as "drwxr-xr-x".
func modeText(mode uint32) string {
	kinds := map[uint32]byte{
		unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
	}
	text := []byte("-rwxrwxrwx")
	if kind, ok := kinds[mode&unix.S_IFMT]; ok {
		text[0] = kind
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			text[1+i] = '-'
		}
	}
	for _, s := range []struct {
		bit    uint32
		at     int
		on, no byte
	}{{unix.S_ISUID, 3, 's', 'S'}, {unix.S_ISGID, 6, 's', 'S'}, {unix.S_ISVTX, 9, 't', 'T'}} {
		if mode&s.bit == 0 {
			continue
		}
		if text[s.at] == 'x' {
			text[s.at] = s.on
		} else {
			text[s.at] = s.no
		}
	}
	return string(text)
}

// human is a size with one of K, M, G, T.
func human(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	f, unit := float64(n), 0
	for f >= 1024 && unit < 5 {
		f, unit = f/1024, unit+1
	}
	if f < 10 {
		return fmt.Sprintf("%.1f%c", f, " KMGTP"[unit])
	}
	return fmt.Sprintf("%.0f%c", f, " KMGTP"[unit])
}
