// Package user resolves a container's user string against passwd and group files, which are untrusted input:
// bounded, line by line, no links followed out of the root.
package user

import "os"

// Identity is what a process runs as.
type Identity struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, the primary GID included
	Home     string   // "/" if passwd has none
	Name     string   // "" if passwd has none
}

// Resolve resolves "user", "user:group", "uid", "uid:gid" and mixtures, as docker's --user does, with extra groups by
// name or number. root is the container's root; files missing there are empty. A number is always the number,
// 0 to 2³¹-1; names must exist.
func Resolve(root *os.Root, spec string, extra []string) (Identity, error) { panic("contract") }
