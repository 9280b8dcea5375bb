package spawn

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSuccessor: the process that Start returns is a child of this one, in namespaces that belong to a user namespace
// that its predecessor joined; the predecessor is gone.
func TestSuccessor(t *testing.T) {
	holder := exec.Command("/bin/sleep", "60")
	holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 10}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 10}},
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(holder.Process.Kill(), holder.Wait()) }()
	user, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	for _, program := range []string{"/bin/true", "/no/such"} {
		pids := []int{}
		look := func(child *Process) error {
			pids = append(pids, child.Pid)
			return nil
		}
		p := &Plan{}
		p.Steps = append(p.Steps, Step{Name: "look", Sync: look})
		p.Add("join", unix.SYS_SETNS, Desc(FD{Num: int(user.Fd()), Name: "user"}), Int(unix.CLONE_NEWUSER))
		p.Steps = append(p.Steps, Step{Name: "succeed", Succeed: true, Clone: unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWNS})
		p.Steps = append(p.Steps, Step{Name: "look", Sync: func(child *Process) error {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child.Pid))
			if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) || !strings.Contains(string(status), fmt.Sprintf("\nNSpid:\t%d\t1\n", child.Pid)) {
				t.Errorf("the successor: %v\n%s", err, status)
			}
			return look(child)
		}})
		p.Add("set the host name", unix.SYS_SETHOSTNAME, Str("mine"), Int(4)) // which the root of the user namespace may
		p.Add("execute", unix.SYS_EXECVE, Str(program), Strs([]string{"x"}), Strs(nil))
		child, err := Start(p)
		if program == "/no/such" {
			var step *StepError
			if !errors.As(err, &step) || step.Name != "execute" || !errors.Is(err, unix.ENOENT) {
				t.Errorf("%v", err)
			}
		} else if err != nil {
			t.Fatal(err)
		} else {
			if status, err := child.Wait(); err != nil || status != 0 || child.Pid != pids[1] {
				t.Errorf("status %v, %v; pid %d of %v", status, err, child.Pid, pids)
			}
			if err := child.Close(); err != nil {
				t.Error(err)
			}
		}
		if len(pids) != 2 || pids[0] == pids[1] {
			t.Fatalf("pids %v", pids)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, 0); err != unix.ESRCH {
				t.Errorf("process %d is left: %v", pid, err)
			}
		}
	}
}
