package user

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

const (
	maxFile = 4 << 20
	maxLine = 1 << 20
)

type passwd struct {
	name     string
	uid, gid uint32
	home     string
}

type group struct {
	name    string
	gid     uint32
	members []string
}

// readUsers reads passwd(5). Lines that do not have proper ids are passed over.
func readUsers(open Opener) ([]passwd, error) {
	var all []passwd
	err := eachLine(open, "etc/passwd", func(fields []string) {
		if len(fields) < 4 || fields[0] == "" {
			return
		}
		uid, isUID, err1 := number(fields[2])
		gid, isGID, err2 := number(fields[3])
		if !isUID || !isGID || err1 != nil || err2 != nil {
			return
		}
		u := passwd{name: fields[0], uid: uid, gid: gid, home: "/"}
		if len(fields) > 5 && isHome(fields[5]) {
			u.home = fields[5]
		}
		all = append(all, u)
	})
	return all, err
}

// isHome accepts absolute paths without control characters: the string becomes part of an environment.
func isHome(s string) bool {
	return strings.HasPrefix(s, "/") && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// readGroups reads group(5). Lines that do not have a proper id are passed over.
func readGroups(open Opener) ([]group, error) {
	var all []group
	err := eachLine(open, "etc/group", func(fields []string) {
		if len(fields) < 3 || fields[0] == "" {
			return
		}
		gid, ok, err := number(fields[2])
		if !ok || err != nil {
			return
		}
		g := group{name: fields[0], gid: gid}
		if len(fields) > 3 && fields[3] != "" {
			g.members = strings.Split(fields[3], ",")
		}
		all = append(all, g)
	})
	return all, err
}

// eachLine calls f with the colon-separated fields of each line of a file that is neither empty nor a comment.
func eachLine(open Opener, path string, f func(fields []string)) error {
	file, err := openRegular(open, path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the container's /%s: %w", path, err)
	}
	defer func() { _ = file.Close() }()
	limited := &io.LimitedReader{R: file, N: maxFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line != "" && line[0] != '#' {
			f(strings.Split(line, ":"))
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the container's /%s: %w", path, err)
	}
	if limited.N == 0 {
		return fmt.Errorf("read the container's /%s: larger than %d bytes", path, maxFile)
	}
	return nil
}

// openRegular opens a regular file. A FIFO or a device is recognised before it is opened for reading, which could block or
// act.
func openRegular(open Opener, path string) (*os.File, error) {
	fd, err := open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	return rawfile.Open(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY, 0)
}
