package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestScanner: a container with CAP_SYS_PTRACE (the usual flag for debuggers) looks at all processes that it sees, and never
// reads a file or the environment of the host, whatever comes in: exec, health checks, and containers that share its
// processes.
func TestScanner(t *testing.T) {
	const word = "A-WORD-OF-THE-HOST"
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(word+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	both(t, func(t *testing.T, do func(args ...string) result) {
		script := fmt.Sprintf("echo ready; while test ! -e /tmp/stop; do for p in /proc/[0-9]*; do cat $p/root%s $p/cwd/../../../..%s $p/environ; done 2>/dev/null; done", secret, secret)
		must(t, do("run", "-d", "--name", "scanner", "--cap-add", "SYS_PTRACE", "--health-cmd", "true", "--health-interval", "20ms", "toolbox", "sh", "-c", script))
		defer do("rm", "-f", "scanner")
		eventually(t, "it scans", func() bool { return strings.HasPrefix(must(t, do("logs", "scanner")), "ready") })
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 25 {
					if r := do("exec", "scanner", "true"); r.code != 0 {
						t.Errorf("exec: %d %s", r.code, r.err)
						return
					}
				}
			})
		}
		all.Wait()
		for range 5 {
			must(t, do("run", "--rm", "--pid", "container:scanner", "--network", "container:scanner", "toolbox", "true"))
			must(t, do("exec", "-t", "-u", "1000", "-w", "/tmp", "scanner", "true"))
		}
		eventually(t, "its health was checked", func() bool { return len(healthOf(t, do, "scanner").Log) == 5 })
		must(t, do("exec", "scanner", "touch", "/tmp/stop"))
		must(t, do("wait", "scanner"))
		said := must(t, do("logs", "scanner"))
		for _, bad := range []string{word, "GANTRY_BIN="} {
			if n := strings.Count(said, bad); n > 0 {
				t.Errorf("%q was read %d times", bad, n)
			}
		}
		if !strings.Contains(said, "PATH=") { // the environments of programs of the container
			t.Errorf("the scanner has seen nothing: %.2000q", said)
		}
	})
}
