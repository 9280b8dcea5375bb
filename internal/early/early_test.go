package early

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestEntry: a program that begins there has the arguments and the environment that it was given, and one processor unless it
// was told another number.
func TestEntry(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-ldflags", "-E gantry/internal/early.entry", "-o", program, "./testdata/program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	many := slices.Repeat([]string{"argument"}, 3000)
	for name, c := range map[string]struct {
		args, env []string
		want      string
	}{
		"nothing":       {want: "1 processors\n"},
		"environment":   {env: []string{"A=1", "B="}, want: "1 processors\n\"A=1\"\n\"B=\"\n"},
		"odd arguments": {args: []string{"", "x y", "z"}, env: []string{"A=1"}, want: "1 processors\n\"\"\n\"x y\"\n\"z\"\n\"A=1\"\n"},
		"its own":       {env: []string{"GOMAXPROCS=3", "C=1"}, want: "3 processors\n\"GOMAXPROCS=3\"\n\"C=1\"\n"},
		"many":          {args: many, want: "1 processors\n" + string(bytes.Repeat([]byte("\"argument\"\n"), len(many)))},
	} {
		cmd := exec.Command(program, c.args...)
		cmd.Env = append([]string{}, c.env...)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != c.want {
			t.Errorf("%s: %v: %.300q, want %.300q", name, err, out, c.want)
		}
	}
}
