package image

import (
	"archive/tar"
	"bytes"
	"fmt"
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
		"magic link":                  {[]entry{link(tar.TypeSymlink, "l", "/proc/self/cwd"), file("l/x", "x")}, false},
		"file as a directory":         {[]entry{file("a", "x"), file("a/b", "x")}, true},
		"link loop":                   {[]entry{link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), file("a/x", "x")}, true},
		"long name":                   {[]entry{file(strings.Repeat("n", 300), "x")}, true},
		"unknown type":                {[]entry{{tar.Header{Name: "a", Typeflag: 'Z'}, ""}}, true},
		"replaced while it is used":   {[]entry{file("d/a", "x"), link(tar.TypeSymlink, "d", ".."), file("d/secret", "x")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, first := unpackInto(t, unpacker{entries: 100, left: 1 << 20}, c.entries...)
			_, err := unpackInto(t, unpacker{entries: 100, left: 1 << 20, lower: &lower{}}, c.entries...)
			if (err != nil) != c.refused || first != nil && err == nil {
				t.Errorf("refused %v, want %v: %v, and before the layers below were known: %v", err != nil, c.refused, err, first)
			}
		})
	}
}

// sparse is an entry of GNU's old sparse format: a file of a size of which the stream holds nothing.
func sparse(t testing.TB, name string, size int64) []byte {
	t.Helper()
	block := tarOf(t, entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatGNU}, ""})[:512]
	block[156] = tar.TypeGNUSparse
	copy(block[386:], fmt.Sprintf("%011o\x00%011o\x00", size, 0)) // one piece of data, empty, at the end
	copy(block[483:], fmt.Sprintf("%011o\x00", size))
	sum := 0
	for i, b := range block {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int(b)
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(block, make([]byte, 1024)...)
}

// TestUnpackLimits: what a layer would take beyond its limits is refused, and before it is taken.
func TestUnpackLimits(t *testing.T) {
	deep := strings.Repeat("d/", 50)
	for name, c := range map[string]struct {
		limits  unpacker
		stream  []byte
		refused bool
	}{
		"as many entries as allowed":      {unpacker{entries: 3, left: 9}, tarOf(t, file("a", ""), file("b", ""), file("c", "")), false},
		"an entry too many":               {unpacker{entries: 2, left: 9}, tarOf(t, file("a", ""), file("b", ""), file("c", "")), true},
		"the same entry again":            {unpacker{entries: 2, left: 9}, tarOf(t, file("a", ""), file("a", ""), file("a", "")), true},
		"directories without an entry":    {unpacker{entries: 20, left: 9}, tarOf(t, file(deep+"a", "")), true},
		"directories that just fit":       {unpacker{entries: 51, left: 9}, tarOf(t, file(deep+"a", "")), false},
		"whiteouts":                       {unpacker{entries: 1, left: 9}, tarOf(t, file(".wh.a", ""), file(".wh.b", "")), true},
		"as many bytes as allowed":        {unpacker{entries: 9, left: 9}, tarOf(t, file("a", "12345"), file("b", "6789")), false},
		"a byte too many":                 {unpacker{entries: 9, left: 8}, tarOf(t, file("a", "12345"), file("b", "6789")), true},
		"a sparse file of four gigabytes": {unpacker{entries: 9, left: 1 << 30}, sparse(t, "a", 1<<32), true},
		"a sparse file that fits":         {unpacker{entries: 9, left: 1 << 20}, sparse(t, "a", 1<<20), false},
		"an owner of more than 32 bits":   {unpacker{entries: 9, left: 9}, tarOf(t, entry{tar.Header{Name: "a", Typeflag: tar.TypeReg, Uid: 1 << 32, Mode: 0o4755}, ""}), true},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			err := c.limits.unpack(root, bytes.NewReader(c.stream))
			if c.refused != errdefs.IsInvalidArgument(err) || !c.refused && err != nil {
				t.Errorf("refused: want %v, got %v", c.refused, err)
			}
			var used int64
			if err := filepath.WalkDir(root, func(_ string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					info, infoErr := d.Info()
					if err = infoErr; err == nil {
						used += info.Size()
					}
				}
				return err
			}); err != nil || used > 1<<20 {
				t.Errorf("took %d bytes, %v", used, err)
			}
		})
	}
}
