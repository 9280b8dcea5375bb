package image

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// unpackInto unpacks a stream into DIR/fs, beside which there is a file that no layer may reach.
func unpackInto(t *testing.T, limits unpacker, entries ...entry) (root string, err error) {
	t.Helper()
	base := t.TempDir()
	root = filepath.Join(base, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(base, "secret")
	if err := os.WriteFile(secret, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = limits.unpack(root, bytes.NewReader(tarOf(t, entries...)))
	if text, readErr := os.ReadFile(secret); string(text) != "untouched" {
		t.Errorf("the file beside the layer: %q, %v", text, readErr)
	}
	if list, readErr := os.ReadDir(base); len(list) != 2 {
		t.Errorf("beside the layer: %v, %v", list, readErr)
	}
	return root, err
}

func TestEvilTars(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		refused bool // else it is unpacked, but inside
	}{
		"dot dot":                     {[]entry{file("../secret", "x")}, true},
		"dot dot within":              {[]entry{file("a/../../secret", "x")}, true},
		"absolute":                    {[]entry{file("/secret", "x")}, false},
		"absolute link, then through": {[]entry{link(tar.TypeSymlink, "l", "/"), file("l/secret", "x")}, false},
		"relative link, then through": {[]entry{link(tar.TypeSymlink, "l", "../"), file("l/secret", "x")}, false},
		"link in place of the file":   {[]entry{link(tar.TypeSymlink, "l", "../secret"), file("l", "x")}, false},
		"link as directory":           {[]entry{link(tar.TypeSymlink, "l", "../"), dir("l"), file("l/secret", "x")}, false},
		"hard link out":               {[]entry{link(tar.TypeLink, "l", "../secret"), file("l", "x")}, true},
		"hard link through a link":    {[]entry{link(tar.TypeSymlink, "d", ".."), link(tar.TypeLink, "l", "d/secret")}, true},
		"hard link to a link":         {[]entry{link(tar.TypeSymlink, "s", "../secret"), link(tar.TypeLink, "l", "s"), file("l", "x")}, false},
		"hard link to itself":         {[]entry{file("a", "x"), link(tar.TypeLink, "a", "a")}, true},
		"whiteout of dot dot":         {[]entry{file(".wh...", "")}, true},
		"whiteout of nothing":         {[]entry{file(".wh.", "")}, true},
		"whiteout through a link":     {[]entry{link(tar.TypeSymlink, "l", ".."), file("l/.wh.secret", "")}, false},
		"root as a file":              {[]entry{file(".", "")}, true},
		"root as a link":              {[]entry{link(tar.TypeSymlink, ".", "..")}, true},
		"magic link":                  {[]entry{link(tar.TypeSymlink, "l", "/proc/self/cwd"), file("l/x", "x")}, true},
		"file as a directory":         {[]entry{file("a", "x"), file("a/b", "x")}, true},
		"link loop":                   {[]entry{link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), file("a/x", "x")}, true},
		"long name":                   {[]entry{file(strings.Repeat("n", 300), "x")}, true},
		"unknown type":                {[]entry{{tar.Header{Name: "a", Typeflag: 'Z'}, ""}}, true},
		"replaced while it is used":   {[]entry{file("d/a", "x"), link(tar.TypeSymlink, "d", ".."), file("d/secret", "x")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpackInto(t, unpacker{entries: 100}, c.entries...); (err != nil) != c.refused {
				t.Errorf("refused %v, want %v: %v", err != nil, c.refused, err)
			}
		})
	}
}

func TestEntryLimit(t *testing.T) {
	if _, err := unpackInto(t, unpacker{entries: 2}, file("a", ""), file("b", ""), file("c", "")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("three entries of two: %v", err)
	}
}
