package e2e

import (
	"strings"
	"testing"
)

func TestVolumesFrom(t *testing.T) {
	both(t, func(t *testing.T, do func(args ...string) result) {
		dir := t.TempDir()
		must(t, do("create", "--name", "lender", "-v", "/data", "-v", dir+":/host:ro", "--tmpfs", "/scratch", "toolbox", "true"))
		defer do("rm", "-fv", "lender")
		must(t, do("run", "--rm", "--volumes-from", "lender", "toolbox", "sh", "-c", "echo lent > /data/file"))
		// A container's own mounts win; what was borrowed can be lent again, with the original gone.
		must(t, do("create", "--name", "middle", "--volumes-from", "lender:ro", "--tmpfs", "/host", "toolbox", "true"))
		defer do("rm", "-fv", "middle")
		must(t, do("rm", "-v", "lender"))
		for _, c := range []struct {
			script string
			code   int
			out    string
		}{
			{"cat /data/file", 0, "lent\n"},
			{"echo x > /data/file", 1, ""},
			{"ls -d /host /scratch", 1, ""},
		} {
			if r := do("run", "--rm", "--volumes-from", "middle", "toolbox", "sh", "-c", c.script); r.code != c.code || r.out != c.out {
				t.Errorf("%s: exit %d, output %q: %s", c.script, r.code, r.out, r.err)
			}
		}
		if got := must(t, do("inspect", "-f", "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}};{{end}}", "middle")); got != "volume /data false;tmpfs /host true;" && got != "volume /data false;" {
			t.Errorf("mounts: %q", got)
		}
		volume := must(t, do("inspect", "-f", "{{range .Mounts}}{{.Name}}{{end}}", "middle"))
		must(t, do("rm", "-v", "middle"))
		if r := do("volume", "inspect", volume); r.code == 0 {
			t.Error("the anonymous volume is left after its last user")
		}
		for text, want := range map[string]string{"nobody": "No such container: nobody", "middle:rx": "rx"} {
			if r := do("create", "--volumes-from", text, "toolbox"); r.code == 0 || !strings.Contains(r.err, want) {
				t.Errorf("%s: exit %d: %s", text, r.code, r.err)
			}
		}
	})
}
