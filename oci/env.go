package oci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/oci/inroot"
	"gantry/oci/user"
	"gantry/rawfile"
)

// environment gives each variable its last value, and HOME, if it is not set, the user's home in the container's
// /etc/passwd, or / if that does not list the user.
func (b *builder) environment(open user.Opener) error {
	spec, process := *b.spec, *b.spec.Process
	var env []string
	seen, home := map[string]bool{}, false
	for _, entry := range slices.Backward(process.Env) {
		name, value, found := strings.Cut(entry, "=")
		if !found || name == "" {
			return fmt.Errorf("config.json: process.env: %q is not of the form NAME=VALUE", entry)
		}
		if !seen[name] && (name != "HOME" || value != "") {
			env = append(env, entry)
		}
		home = home || (name == "HOME" && value != "" && !seen[name])
		seen[name] = true
	}
	slices.Reverse(env)
	if !home && !b.dry {
		env = append(env, "HOME="+homeOf(open, process.User.UID))
	}
	process.Env, spec.Process = env, &process
	b.spec = &spec
	return nil
}

func homeOf(open user.Opener, uid uint32) string {
	identity, err := user.ResolveWith(open, strconv.Itoa(int(uid)), nil)
	if err != nil || identity.Home == "" {
		return "/" // an image need not have users, nor well-formed files
	}
	return identity.Home
}

// filesOf opens files below a directory.
func filesOf(dir string) user.Opener {
	return func(path string) (int, error) {
		root, err := rawfile.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return -1, err
		}
		defer root.Close()
		return inroot.Open(int(root.Fd()), path, unix.O_PATH, 0)
	}
}

// futureMount is a mount of the plan: what will be at a destination; fd -1: an empty file system.
type futureMount struct {
	destination string
	fd          int
}

// futureFiles opens files as the process will see them, once the plan's mounts are made.
func (b *builder) futureFiles(path string) (int, error) {
	if len(b.future) == 0 {
		return inroot.Open(b.root.Num, path, unix.O_PATH, 0)
	}
	tree := inroot.NewTree(b.root.Num)
	for _, m := range b.future {
		if _, err := tree.Mount(m.destination, m.fd); err != nil {
			return -1, fmt.Errorf("look for what is at %s: %w", m.destination, err)
		}
	}
	return tree.Open(path)
}

// willMount notes a mount for futureFiles. What is mounted on the kernel's own file systems hides no file of the image.
func (b *builder) willMount(destination string, fd int) {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if inroot.Within(destination, dir) {
			return
		}
	}
	b.future = append(b.future, futureMount{destination, fd})
}
