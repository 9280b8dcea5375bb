package spawn

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBornHidden: a process that is born into a pid namespace with others in it is not dumpable from its first moment,
// and its parent is what it was.
func TestBornHidden(t *testing.T) {
	own, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for range 3 {
		dumpable := -1
		p := &Plan{JoinPID: &FD{Num: int(own.Fd()), Name: "own"}}
		p.Add("am I dumpable", unix.SYS_PRCTL, Int(unix.PR_GET_DUMPABLE), Int(0), Int(0), Int(0), Int(0)).Result = 1
		p.Steps = append(p.Steps, Step{Name: "tell", Pass: 1, Sync: func(child *Process) error {
			dumpable = child.Passed
			return nil
		}})
		p.Add("execute", unix.SYS_EXECVE, Str("/bin/true"), Strs([]string{"true"}), Strs(nil))
		child, err := Start(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := child.Wait(); err != nil {
			t.Error(err)
		}
		if err := child.Close(); err != nil {
			t.Error(err)
		}
		if dumpable != 0 {
			t.Errorf("PR_GET_DUMPABLE of the child: %d", dumpable)
		}
		if is, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || is != 1 {
			t.Errorf("of the parent: %d (%v)", is, err)
		}
	}
}
