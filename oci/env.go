package oci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/oci/user"
	"gantry/rawfile"
)

// environment gives each variable its last value, and a home to who was given none: that of the user in the container's
// /etc/passwd, else /. root is the container's root directory, as this process sees it.
func (b *builder) environment(root string) error {
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
		env = append(env, "HOME="+homeOf(root, process.User.UID))
	}
	process.Env, spec.Process = env, &process
	b.spec = &spec
	return nil
}

func homeOf(root string, uid uint32) string {
	dir, err := rawfile.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "/"
	}
	defer dir.Close()
	identity, err := user.Resolve(dir, strconv.Itoa(int(uid)), nil)
	if err != nil || identity.Home == "" {
		return "/" // an image need not have users, nor well-formed files
	}
	return identity.Home
}
