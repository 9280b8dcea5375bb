// Package user resolves a container's user string against passwd and group files, which are untrusted input:
// bounded, line by line, no links followed out of the root.
package user

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
)

// Why a user string is refused. The texts are those of other engines: scripts match them.
var (
	ErrNoPasswdEntries = errors.New("no matching entries in passwd file")
	ErrNoGroupEntries  = errors.New("no matching entries in group file")
	ErrRange           = fmt.Errorf("uids and gids must be in range 0-%d", maxID)
	ErrSyntax          = errors.New("want user, uid, user:group or uid:gid")
	ErrTooManyGroups   = fmt.Errorf("more than %d supplementary groups", maxGroups)
)

const (
	maxID     = math.MaxInt32
	maxGroups = 65536 // NGROUPS_MAX, see setgroups(2)
)

// Identity is what a process runs as.
type Identity struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, the primary GID included
	Home     string   // "/" if passwd has none
	Name     string   // "" if passwd has none
}

// Opener opens a file of a container by its path in there (open(2), O_PATH), without leaving the container's root. The
// caller closes the descriptor.
type Opener func(path string) (fd int, err error)

// Resolve resolves a user with the passwd and group files below a directory, which was opened in any way (open(2), O_PATH).
// See ResolveWith.
func Resolve(root *os.File, spec string, extra []string) (Identity, error) {
	return ResolveWith(func(path string) (int, error) { return inroot.Open(int(root.Fd()), path, unix.O_PATH, 0) }, spec, extra)
}

// ResolveWith resolves "user", "user:group", "uid", "uid:gid" and mixtures, as docker's --user does, with extra groups by
// name or number. Files that open does not find are empty. A number is always the number, 0 to 2³¹-1; names must exist. The
// group file's memberships count only if spec names no group.
func ResolveWith(open Opener, spec string, extra []string) (Identity, error) {
	userArg, groupArg, _ := strings.Cut(spec, ":")
	if strings.Contains(groupArg, ":") {
		return Identity{}, fmt.Errorf("user %q: %w", spec, ErrSyntax)
	}
	id, err := findUser(open, userArg)
	if err != nil {
		return Identity{}, err
	}
	if groupArg == "" && id.Name == "" && len(extra) == 0 {
		id.Groups = []uint32{id.GID}
		return id, nil
	}
	groups, err := readGroups(open)
	if err != nil {
		return Identity{}, err
	}
	if groupArg != "" {
		if id.GID, err = findGroup(groups, groupArg); err != nil {
			return Identity{}, err
		}
	}
	id.Groups = []uint32{id.GID}
	if groupArg == "" && id.Name != "" {
		for _, g := range groups {
			if slices.Contains(g.members, id.Name) {
				id.Groups = append(id.Groups, g.gid)
			}
		}
	}
	for _, arg := range extra {
		gid, err := findGroup(groups, arg)
		if err != nil {
			return Identity{}, err
		}
		id.Groups = append(id.Groups, gid)
	}
	id.Groups = unique(id.Groups)
	if len(id.Groups) > maxGroups {
		return Identity{}, fmt.Errorf("groups of user %q: %w", spec, ErrTooManyGroups)
	}
	return id, nil
}

// findUser resolves the part before the colon; "" is root. The first matching line counts.
func findUser(open Opener, arg string) (Identity, error) {
	uid, isNumber, err := number(arg)
	if err != nil {
		return Identity{}, fmt.Errorf("user %q: %w", arg, err)
	}
	users, err := readUsers(open)
	if err != nil {
		return Identity{}, err
	}
	byNumber := isNumber || arg == ""
	for _, u := range users {
		if byNumber && u.uid == uid || !byNumber && u.name == arg {
			return Identity{UID: u.uid, GID: u.gid, Home: u.home, Name: u.name}, nil
		}
	}
	if !byNumber {
		return Identity{}, fmt.Errorf("unable to find user %s: %w", arg, ErrNoPasswdEntries)
	}
	return Identity{UID: uid, Home: "/"}, nil
}

func findGroup(groups []group, arg string) (uint32, error) {
	gid, isNumber, err := number(arg)
	if err != nil {
		return 0, fmt.Errorf("group %q: %w", arg, err)
	}
	if isNumber {
		return gid, nil
	}
	for _, g := range groups {
		if g.name == arg {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("unable to find group %s: %w", arg, ErrNoGroupEntries)
}

// number reads an id. Digits, with or without a sign, are never a name: a passwd line named "99999999999" must
// not decide what the number means.
func number(s string) (id uint32, ok bool, err error) {
	digits := strings.TrimLeft(s, "+-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > maxID {
		return 0, true, ErrRange
	}
	return uint32(n), true, nil
}

// unique keeps the first of equal ids, in linear time: the list comes from an untrusted file.
func unique(ids []uint32) []uint32 {
	seen := make(map[uint32]bool, len(ids))
	return slices.DeleteFunc(ids, func(id uint32) bool {
		was := seen[id]
		seen[id] = true
		return was
	})
}
