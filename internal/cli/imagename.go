package cli

import (
	"fmt"
	"strings"
)

// imageName is a parsed name of an image. The engine decides what is valid in all detail; here a name is only taken
// apart, to be shown as people write it and to find the registry's credentials. (The library for it compiles regular
// expressions at every start of the program, for almost a millisecond.)
type imageName struct {
	domain, path string // docker.io and library/x for x
	tag, digest  string
}

const (
	defaultDomain = "docker.io"
	officialPath  = "library/"
	defaultTag    = "latest"
)

// parseImageName reads [DOMAIN/]PATH[:TAG][@DIGEST].
func parseImageName(s string) (imageName, error) {
	bad := func(why string) (imageName, error) {
		return imageName{}, fmt.Errorf("invalid image name %q: %s", s, why)
	}
	if len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" {
		return bad("64 hexadecimal digits are an id")
	}
	var n imageName
	rest, digest, digested := strings.Cut(s, "@")
	if digested {
		if algorithm, hex, ok := strings.Cut(digest, ":"); !ok || algorithm == "" || len(hex) < 32 {
			return bad("the digest is malformed")
		}
		n.digest = digest
	}
	if domain, path, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(domain, ".:") || domain == "localhost" || strings.ToLower(domain) != domain) {
		n.domain, rest = domain, path
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		rest, n.tag = rest[:i], rest[i+1:]
		if n.tag == "" || len(n.tag) > 128 || strings.Contains(n.tag, "/") {
			return bad("the tag is malformed")
		}
	}
	n.path = rest
	if _, port, ok := strings.Cut(n.domain, ":"); ok && (port == "" || strings.Trim(port, "0123456789") != "") {
		return bad("the registry's port is malformed")
	}
	switch {
	case strings.ToLower(rest) != rest:
		return bad("the repository's name must be in lower case")
	case rest == "" || strings.HasPrefix(rest, "/") || strings.HasSuffix(rest, "/") || strings.Contains(rest, "//") ||
		strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789._-/") != "":
		return bad("want [DOMAIN/]PATH[:TAG][@DIGEST]")
	}
	if n.domain == "" || n.domain == "index.docker.io" {
		n.domain = defaultDomain
	}
	if n.domain == defaultDomain && !strings.Contains(n.path, "/") {
		n.path = officialPath + n.path
	}
	return n, nil
}

// bare tells a name without tag and digest.
func (n imageName) bare() bool { return n.tag == "" && n.digest == "" }

func (n imageName) withDefaultTag() imageName {
	if n.bare() {
		n.tag = defaultTag
	}
	return n
}

// repository is the name without tag and digest.
func (n imageName) repository() string { return n.domain + "/" + n.path }

// familiar is the repository as people write it: without the default registry.
func (n imageName) familiar() string {
	if n.domain != defaultDomain {
		return n.domain + "/" + n.path
	}
	return strings.TrimPrefix(n.path, officialPath)
}

// String is the whole name as people write it; full has the default registry too.
func (n imageName) String() string { return n.familiar() + n.suffix() }

func (n imageName) full() string { return n.repository() + n.suffix() }

func (n imageName) suffix() string {
	text := ""
	if n.tag != "" {
		text = ":" + n.tag
	}
	if n.digest != "" {
		text += "@" + n.digest
	}
	return text
}
