package cli

import (
	"testing"

	"github.com/distribution/reference"
)

// TestImageNames compares with the library that the engine parses names with.
func TestImageNames(t *testing.T) {
	const digest = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, s := range []string{
		"x", "x:1", "x/y", "x/y:1.0-rc_1", "library/x", "docker.io/x", "docker.io/library/x:1", "index.docker.io/a/b", "localhost/x",
		"localhost:5000/x:y", "r.example/x", "r.example:5000/a/b/c:t", "x" + digest, "r.example/x:1" + digest, "192.0.2.1:5000/x",
		"toolbox:latest", "a.b/c", "ab_c/d--e.f",
	} {
		want, err := reference.ParseNormalizedNamed(s)
		if err != nil {
			t.Fatal(s, err)
		}
		got, err := parseImageName(s)
		if err != nil {
			t.Error(err)
			continue
		}
		if got.full() != want.String() || got.String() != reference.FamiliarString(want) || got.domain != reference.Domain(want) ||
			got.familiar() != reference.FamiliarName(want) || got.bare() != reference.IsNameOnly(want) ||
			got.withDefaultTag().full() != reference.TagNameOnly(want).String() {
			t.Errorf("%s: got %+v, want %s", s, got, want)
		}
	}
	for _, s := range []string{
		"", "X", "x:", "/x", "x/", "a//b", "x@y", "x@sha256:12", "x y", "r.example/", "x:a/b", "r.example/X",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	} {
		if _, err := reference.ParseNormalizedNamed(s); err == nil {
			t.Fatalf("%q is valid after all", s)
		}
		if n, err := parseImageName(s); err == nil {
			t.Errorf("%q is taken for %+v", s, n)
		}
	}
}
