package spawn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMeddledReports: what a container writes into the pipe of a process that it sees is an error, and nothing worse.
func TestMeddledReports(t *testing.T) {
	report := func(index, failed int32, value int64) []byte {
		var b []byte
		b = binary.NativeEndian.AppendUint32(b, uint32(index))
		b = binary.NativeEndian.AppendUint32(b, uint32(failed))
		return binary.NativeEndian.AppendUint64(b, uint64(value))
	}
	for name, text := range map[string][]byte{
		"of a step that is not there":  report(1000, 1, 1),
		"of a negative step":           report(-1, 1, 1),
		"of a step that is over":       report(0, 0, 0),
		"of a step that cannot report": report(2, 0, 0),
		"of a successor, late":         report(0, 0, 1),
		"cut short":                    {1},
		"twice":                        append(report(1, 0, 0), report(1, 0, 0)...),
	} {
		for _, after := range []bool{false, true} {
			called := 0
			p := &Plan{}
			p.Steps = append(p.Steps, Step{Name: "be seen", Succeed: true}, Step{Name: "meet", Sync: func(child *Process) error {
				called++
				return nil
			}})
			if after {
				p.Steps = append(p.Steps, Step{Name: "ready", Ready: true})
			}
			p.Add("meddle", unix.SYS_WRITE, Int(200), Bytes(text, "a report"), Int(len(text)))
			p.Add("wait", unix.SYS_PPOLL, Nil(), Int(0), Nil(), Nil(), Int(0))
			child, err := startMeddler(p, len(p.Steps)-2)
			if after && err == nil {
				err = child.Executed()
				child.end()
			}
			if !errors.Is(err, errReport) || called != 1 {
				t.Errorf("%s, ready: %v: %v; the function was called %d times", name, after, err, called)
			}
		}
	}
}

// startMeddler starts a plan of which a step writes to the child's own pipe, whose descriptor is not known before.
func startMeddler(p *Plan, step int) (*Process, error) {
	pipes, err := openPipes(p)
	if err != nil {
		return nil, err
	}
	p.Steps[step].Args[0] = Int(pipes.childStatus)
	pid, pidfd, err := compileAndClone(p, pipes)
	pipes.closeChildEnds()
	if err != nil {
		return nil, err
	}
	child := &Process{Pid: pid, Pidfd: os.NewFile(uintptr(pidfd), "pidfd"), status: os.NewFile(uintptr(pipes.status), "status")}
	pipes.status = -1
	err = child.follow(p, pipes.acks)
	pipes.close()
	if err != nil {
		child.end()
		return nil, err
	}
	return child, nil
}

// TestPipeHeldOpen: Start returns when the process has ended, also if somebody who saw it keeps its pipe.
func TestPipeHeldOpen(t *testing.T) {
	var held *os.File
	p := &Plan{}
	p.Steps = append(p.Steps, Step{Name: "look", Sync: func(child *Process) error {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", child.Pid))
		if err != nil {
			return err
		}
		for _, e := range entries { // 0, 1, 2 and the two ends
			path := fmt.Sprintf("/proc/%d/fd/%s", child.Pid, e.Name())
			if info, err := os.Lstat(path); err == nil && info.Mode().Perm() == 0o300 && e.Name() > "2" {
				held, err = os.OpenFile(path, os.O_WRONLY, 0)
				return err
			}
		}
		return errors.New("no pipe was found")
	}})
	p.Add("execute", unix.SYS_EXECVE, Str("/bin/true"), Strs([]string{"true"}), Strs(nil))
	child, err := Start(p)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if status, err := child.Wait(); err != nil || status != 0 {
		t.Errorf("status %v (%v)", status, err)
	}
	if err := child.Close(); err != nil {
		t.Error(err)
	}
}

// TestOnly: after the step, no other descriptor is open.
func TestOnly(t *testing.T) {
	var kept, other [2]int
	if err := errors.Join(unix.Pipe2(kept[:], unix.O_CLOEXEC), unix.Pipe2(other[:], unix.O_CLOEXEC)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_, _, _, _ = unix.Close(kept[0]), unix.Close(kept[1]), unix.Close(other[0]), unix.Close(other[1])
	}()
	p := &Plan{}
	p.Add("mention it", unix.SYS_FCNTL, Desc(FD{Num: other[0], Name: "other"}), Int(unix.F_GETFD))
	p.Steps = append(p.Steps, Step{Name: "close the rest", Only: []FD{{Num: kept[0], Name: "kept"}}})
	p.Steps = append(p.Steps, Step{Name: "look", Sync: func(child *Process) error {
		for fd, want := range map[int]bool{kept[0]: true, kept[1]: false, other[0]: false} {
			if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", child.Pid, fd)); (err == nil) != want {
				t.Errorf("descriptor %d: %v", fd, err)
			}
		}
		return nil
	}})
	p.Add("see that it is closed", unix.SYS_FCNTL, Desc(FD{Num: other[0], Name: "other"}), Int(unix.F_GETFD)).Ignore = []unix.Errno{unix.EBADF}
	p.Add("end", unix.SYS_EXIT_GROUP, Int(0))
	child, err := Start(p)
	if err != nil {
		t.Fatal(err)
	}
	child.end()
}
