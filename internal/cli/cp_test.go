package cli

import "testing"

func TestContainerPath(t *testing.T) {
	for arg, want := range map[string][2]string{
		"box:/x": {"box", "/x"}, "box:": {"box", ""}, "box:a:b": {"box", "a:b"}, "/a:b": {"", "/a:b"}, "./a:b": {"", "./a:b"},
		"../a:b": {"", "../a:b"}, "plain": {"", "plain"}, "-": {"", "-"},
	} {
		if container, name := containerPath(arg); container != want[0] || name != want[1] {
			t.Errorf("%s: %q, %q", arg, container, name)
		}
	}
}

func TestLinkTarget(t *testing.T) {
	if a, b := linkTarget("/a/b", "../c"), linkTarget("/a/b", "/d"); a != "/c" || b != "/d" {
		t.Errorf("%s, %s", a, b)
	}
}
