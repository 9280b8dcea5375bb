package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func ln(args []string) error {
	opts, names, err := getopt(args, "sfnv")
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return usage("ln [-sfn] TARGET... LINK")
	}
	last := names[len(names)-1]
	if len(names) == 1 {
		last = "."
	} else {
		names = names[:len(names)-1]
	}
	stat := os.Stat
	if opts.has('n') {
		stat = os.Lstat
	}
	info, err := stat(last)
	into := err == nil && info.IsDir()
	return each(names, func(target string) error {
		link := last
		if into {
			link = filepath.Join(last, filepath.Base(target))
		}
		if opts.has('f') {
			if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if opts.has('s') {
			return os.Symlink(target, link)
		}
		return os.Link(target, link)
	})
}

func rmdir(args []string) error {
	opts, names, err := getopt(args, "p")
	if err != nil {
		return err
	}
	return each(names, func(name string) error {
		for {
			if err := unix.Rmdir(name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			name = filepath.Dir(name)
			if !opts.has('p') || name == "." || name == "/" {
				return nil
			}
		}
	})
}

func chown(args []string) error {
	opts, names, err := getopt(args, "Rh")
	if err != nil {
		return err
	}
	if len(names) < 2 {
		return usage("chown [-Rh] USER[:GROUP] FILE...")
	}
	uid, gid, err := owner(names[0])
	if err != nil {
		return err
	}
	change := os.Chown
	if opts.has('h') {
		change = os.Lchown
	}
	return each(names[1:], func(name string) error {
		if !opts.has('R') {
			return change(name, uid, gid)
		}
		return filepath.WalkDir(name, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, uid, gid))
		})
	})
}

// owner reads USER, USER:GROUP or :GROUP; -1 is for what is not named.
func owner(spec string) (uid, gid int, err error) {
	user, group, _ := strings.Cut(spec, ":")
	if uid, err = idOf("/etc/passwd", user); err != nil {
		return 0, 0, err
	}
	gid, err = idOf("/etc/group", group)
	return uid, gid, err
}

func readlink(args []string) error {
	opts, names, err := getopt(args, "fen")
	if err != nil {
		return err
	}
	return each(names, func(name string) error {
		read := os.Readlink
		if opts.has('f') || opts.has('e') {
			read = canonical
		}
		target, err := read(name)
		if err != nil {
			return status(1)
		}
		fmt.Println(target)
		return nil
	})
}

// canonical resolves links; the last component need not exist.
func canonical(name string) (string, error) {
	full, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	target, err := filepath.EvalSymlinks(full)
	if errors.Is(err, fs.ErrNotExist) {
		var dir string
		if dir, err = filepath.EvalSymlinks(filepath.Dir(full)); err == nil {
			target = filepath.Join(dir, filepath.Base(full))
		}
	}
	return target, err
}

func stat(args []string) error {
	opts, names, err := getopt(args, "c:L")
	if err != nil {
		return err
	}
	return each(names, func(name string) error {
		e := entry{name: name, path: name}
		call := unix.Lstat
		if opts.has('L') {
			call = unix.Stat
		}
		if err := call(name, &e.st); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		changed := time.Unix(e.st.Mtim.Unix())
		fields := strings.NewReplacer("%%", "%", "%n", name, "%s", strconv.FormatInt(e.st.Size, 10),
			"%a", strconv.FormatUint(uint64(e.st.Mode&0o7777), 8), "%A", modeText(e.st.Mode),
			"%u", strconv.Itoa(int(e.st.Uid)), "%g", strconv.Itoa(int(e.st.Gid)),
			"%U", nameOf("/etc/passwd", e.st.Uid), "%G", nameOf("/etc/group", e.st.Gid),
			"%i", strconv.FormatUint(e.st.Ino, 10), "%h", strconv.FormatUint(uint64(e.st.Nlink), 10),
			"%Y", strconv.FormatInt(changed.Unix(), 10), "%y", changed.Format("2006-01-02 15:04:05.000000000 -0700"),
			"%b", strconv.FormatInt(e.st.Blocks, 10), "%F", kindText(e.st.Mode),
			"%t", strconv.FormatUint(uint64(unix.Major(e.st.Rdev)), 16), "%T", strconv.FormatUint(uint64(unix.Minor(e.st.Rdev)), 16))
		format := "  File: %n\n  Size: %s\tBlocks: %b\t%F\n Inode: %i\tLinks: %h\n" +
			"Access: (%a/%A)\tUid: (%u/%U)\tGid: (%g/%G)\nModify: %y"
		if opts.has('c') {
			format = opts['c']
		}
		fmt.Println(fields.Replace(format))
		return nil
	})
}

func kindText(mode uint32) string {
	return map[uint32]string{
		unix.S_IFREG: "regular file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symbolic link", unix.S_IFIFO: "fifo",
		unix.S_IFSOCK: "socket", unix.S_IFCHR: "character special file", unix.S_IFBLK: "block special file",
	}[mode&unix.S_IFMT]
}

func pwd([]string) error {
	dir, err := os.Getwd()
	if err == nil {
		fmt.Println(dir)
	}
	return err
}

func dirname(args []string) error {
	if len(args) < 2 {
		return usage("dirname PATH...")
	}
	for _, path := range args[1:] {
		fmt.Println(filepath.Dir(path))
	}
	return nil
}

func basename(args []string) error {
	if len(args) != 2 && len(args) != 3 {
		return usage("basename PATH [SUFFIX]")
	}
	name := filepath.Base(args[1])
	if len(args) == 3 && name != args[2] {
		name = strings.TrimSuffix(name, args[2])
	}
	fmt.Println(name)
	return nil
}

func which(args []string) error {
	missing := false
	for _, name := range args[1:] {
		path := findProgram(name)
		if path == "" {
			missing = true
			continue
		}
		fmt.Println(path)
	}
	if missing {
		return status(1)
	}
	return nil
}

func syncAll([]string) error {
	unix.Sync()
	return nil
}

func du(args []string) error {
	opts, names, err := getopt(args, "sahkmb")
	if err != nil {
		return err
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	type file struct{ dev, ino uint64 }
	seen := map[file]bool{} // hard links count once
	show := func(size int64, path string) {
		text := strconv.FormatInt((size+1023)/1024, 10)
		switch {
		case opts.has('h'):
			text = human(uint64(size))
		case opts.has('b'):
			text = strconv.FormatInt(size, 10)
		case opts.has('m'):
			text = strconv.FormatInt((size+1<<20-1)>>20, 10)
		}
		fmt.Printf("%s\t%s\n", text, path)
	}
	var measure func(path string, top bool) (int64, error)
	measure = func(path string, top bool) (int64, error) {
		e, err := look(path, path)
		if err != nil {
			return 0, err
		}
		key := file{uint64(e.st.Dev), e.st.Ino}
		if e.st.Nlink > 1 && seen[key] {
			return 0, nil
		}
		seen[key] = true
		size := e.st.Blocks * 512
		if opts.has('b') {
			size = e.st.Size
		}
		isDir := e.st.Mode&unix.S_IFMT == unix.S_IFDIR
		var errs []error
		if isDir {
			found, err := os.ReadDir(path)
			errs = append(errs, err)
			for _, f := range found {
				n, err := measure(filepath.Join(path, f.Name()), false)
				size, errs = size+n, append(errs, err)
			}
		}
		if top || !opts.has('s') && (isDir || opts.has('a')) {
			show(size, path)
		}
		return size, errors.Join(errs...)
	}
	return each(names, func(name string) error {
		_, err := measure(name, true)
		return err
	})
}

func dd(args []string) error {
	set := map[string]string{"bs": "512", "count": "-1", "skip": "0", "seek": "0"}
	for _, arg := range args[1:] {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return usage("dd [if=FILE] [of=FILE] [bs=N] [count=N] [skip=N] [seek=N]")
		}
		set[key] = value
	}
	numbers := map[string]int64{}
	for _, key := range []string{"bs", "count", "skip", "seek"} {
		n, err := size(set[key])
		if err != nil {
			return fmt.Errorf("%s=%s: %w", key, set[key], err)
		}
		numbers[key] = n
	}
	bs := numbers["bs"]
	if bs <= 0 || bs > 1<<30 {
		return fmt.Errorf("bs=%d: want 1 to 1G", bs)
	}
	in, out, err := ddFiles(set, numbers["seek"]*bs)
	if err != nil {
		return err
	}
	if n := numbers["skip"] * bs; n > 0 {
		if _, err := io.CopyN(io.Discard, in, n); err != nil {
			return err
		}
	}
	buf, whole, part, total := make([]byte, bs), 0, 0, int64(0)
	for n := numbers["count"]; n != 0; n-- {
		k, err := in.Read(buf)
		if k > 0 {
			if _, werr := out.Write(buf[:k]); werr != nil {
				return werr
			}
		}
		total += int64(k)
		if int64(k) == bs {
			whole++
		} else if k > 0 {
			part++
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if set["status"] != "none" {
		fmt.Fprintf(os.Stderr, "%d+%d records in\n%d+%d records out\n%d bytes copied\n", whole, part, whole, part, total)
	}
	if out != os.Stdout {
		return out.Close()
	}
	return nil
}

func ddFiles(set map[string]string, seek int64) (in, out *os.File, err error) {
	in, out = os.Stdin, os.Stdout
	if name := set["if"]; name != "" {
		if in, err = os.Open(name); err != nil {
			return nil, nil, err
		}
	}
	if name := set["of"]; name != "" {
		flags := os.O_WRONLY | os.O_CREATE
		if seek == 0 && !strings.Contains(set["conv"], "notrunc") {
			flags |= os.O_TRUNC
		}
		if out, err = os.OpenFile(name, flags, 0o666); err != nil {
			return nil, nil, err
		}
		if _, err = out.Seek(seek, io.SeekStart); seek > 0 && err != nil {
			return nil, nil, err
		}
	}
	return in, out, nil
}

// size reads a number with an optional k, m, g or t (powers of 1024, either case).
func size(text string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(text), "b")
	shift := 0
	if n := len(digits); n > 0 {
		if at := strings.IndexByte("kmgt", digits[n-1]); at >= 0 {
			digits, shift = digits[:n-1], 10*(at+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > (1<<62)>>shift {
		return 0, fmt.Errorf("invalid size %q", text)
	}
	return n << shift, nil
}
