package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func chmod(args []string) error {
	recursive := len(args) > 1 && args[1] == "-R"
	if recursive {
		args = args[1:]
	}
	if len(args) < 3 {
		return usage("chmod [-R] MODE FILE...")
	}
	if _, err := newMode(args[1], 0); err != nil {
		return err
	}
	return each(args[2:], func(name string) error {
		if !recursive {
			return changeMode(name, args[1])
		}
		return filepath.WalkDir(name, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.Type()&fs.ModeSymlink != 0 {
				return err
			}
			return changeMode(path, args[1])
		})
	})
}

func changeMode(name, spec string) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	mode, err := newMode(spec, st.Mode)
	if err == nil {
		err = unix.Chmod(name, mode&0o7777)
	}
	if err != nil {
		return fmt.Errorf("change the mode of %s: %w", name, err)
	}
	return nil
}

// newMode applies "755" or "u+rwx,go-w" to a mode.
func newMode(spec string, mode uint32) (uint32, error) {
	if n, err := strconv.ParseUint(spec, 8, 32); err == nil && n <= 0o7777 {
		return uint32(n), nil
	}
	for clause := range strings.SplitSeq(spec, ",") {
		at := strings.IndexAny(clause, "+-=")
		if at < 0 {
			return 0, fmt.Errorf("invalid mode %q", spec)
		}
		bits, affected, err := clauseBits(clause[:at], clause[at+1:], mode)
		if err != nil {
			return 0, fmt.Errorf("invalid mode %q: %w", spec, err)
		}
		switch clause[at] {
		case '+':
			mode |= bits
		case '-':
			mode &^= bits
		case '=':
			mode = mode&^affected | bits
		}
	}
	return mode, nil
}

// clauseBits returns the bits that a clause names, and all that it could name for its users.
func clauseBits(who, what string, mode uint32) (bits, affected uint32, err error) {
	if who == "" || strings.Contains(who, "a") {
		who = "ugo"
	}
	for _, w := range who {
		shift := strings.IndexRune("ogu", w) * 3
		if shift < 0 {
			return 0, 0, errors.New("users are u, g, o and a")
		}
		affected |= 7 << shift
		special := map[rune]uint32{'u': unix.S_ISUID, 'g': unix.S_ISGID}[w]
		affected |= special
		for _, p := range what {
			switch p {
			case 'r', 'w', 'x':
				bits |= map[rune]uint32{'r': 4, 'w': 2, 'x': 1}[p] << shift
			case 'X':
				if mode&unix.S_IFMT == unix.S_IFDIR || mode&0o111 != 0 {
					bits |= 1 << shift
				}
			case 's':
				bits |= special
			case 't':
				bits |= unix.S_ISVTX
			default:
				return 0, 0, errors.New("permissions are r, w, x, X, s and t")
			}
		}
	}
	return bits, affected, nil
}
