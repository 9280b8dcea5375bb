package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestVerbIndex(t *testing.T) {
	for line, want := range map[string]string{
		"run -d img": "run", "-H unix:///x ps -a": "ps", "--host=unix:///x ps": "ps", "-Hunix:///x ps": "ps", "--config /d ps": "ps",
		"--help": "", "": "", "help run": "ALL", "__complete ru": "ALL",
	} {
		got := verbIndex(strings.Fields(line))
		if got.all != (want == "ALL") || !got.all && got.name != want {
			t.Errorf("verbIndex(%q) = %+v, want %q", line, got, want)
		}
	}
}

// Every verb of every table can be built under its own name, and only the one asked for is.
func TestEveryVerbIsBuilt(t *testing.T) {
	a := &app{}
	walk := func(prefix []string, table []verb) {
		for _, v := range table {
			path := append(append([]string{}, prefix...), v.name)
			cmd, _, err := a.root(append(path, "--help")).Find(path)
			if err != nil || cmd.Name() != v.name || cmd.Short == "" {
				t.Errorf("gantry %s: found %q, %v", strings.Join(path, " "), cmd.CommandPath(), err)
			}
			if siblings := len(cmd.Parent().Commands()); siblings != 1 {
				t.Errorf("gantry %s: %d commands were built", strings.Join(path, " "), siblings)
			}
		}
	}
	walk(nil, verbs())
	groups := map[string]func() []verb{
		"container": containerVerbs, "image": imageVerbs, "volume": volumeVerbs, "network": networkVerbs, "system": systemVerbs,
	}
	for name, table := range groups {
		walk([]string{name}, table())
	}
}

func TestHelp(t *testing.T) {
	for line, parts := range map[string][]string{
		"--help":           {"Usage:  gantry [OPTIONS] COMMAND", "\n  container ", "\n  run "},
		"":                 {"Usage:  gantry [OPTIONS] COMMAND"},
		"run --help":       {"Usage:  gantry run [OPTIONS] IMAGE [COMMAND] [ARG...]\n", "-h, --hostname string", "--plan"},
		"help run":         {"Usage:  gantry run [OPTIONS] IMAGE"},
		"volume --help":    {"Usage:  gantry volume COMMAND", "\n  prune "},
		"volume":           {"Usage:  gantry volume COMMAND"},
		"image rm --help":  {"Usage:  gantry image rm [OPTIONS] IMAGE"},
		"image remove -h":  {"Usage:  gantry image remove [OPTIONS] IMAGE"},
		"container ls -h":  {"Usage:  gantry container ls [OPTIONS]\n"},
		"__complete volu ": {"volume"},
	} {
		var out bytes.Buffer
		a := &app{out: &out, errOut: &bytes.Buffer{}}
		args := strings.Fields(line)
		if code := a.main(context.Background(), args); code != 0 {
			t.Errorf("gantry %s: exit code %d", line, code)
		}
		for _, part := range parts {
			if !strings.Contains(out.String(), part) {
				t.Errorf("gantry %s lacks %q:\n%s", line, part, out.String())
			}
		}
		if strings.Contains(out.String(), "[flags]") {
			t.Errorf("gantry %s: %s", line, out.String())
		}
	}
}

func TestWantedArgs(t *testing.T) {
	for want, bounds := range map[string][2]int{
		"accepts no arguments": {0, 0}, "requires at least 1 argument": {1, -1}, "requires 2 arguments": {2, 2},
		"accepts at most 1 argument": {0, 1}, "requires at least 1 and at most 2 arguments": {1, 2},
	} {
		if got := wantedArgs(bounds[0], bounds[1]); got != want {
			t.Errorf("wantedArgs%v = %q, want %q", bounds, got, want)
		}
		check := argsBetween(bounds[0], bounds[1])
		if err := check(&cobra.Command{Use: "x"}, make([]string, bounds[0])); err != nil {
			t.Errorf("%v: %d arguments: %v", bounds, bounds[0], err)
		}
	}
}
