package cgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// removeTree removes a directory of one hierarchy, and waits for who dies in it.
func removeTree(dir string) error {
	return poll("remove "+dir, newDeadline(), func() (bool, error) {
		err := removeOnce(dir)
		if errors.Is(err, unix.EBUSY) {
			return false, nil
		}
		return err == nil, err
	})
}

// timelessly runs f with a clock that waits for nothing, and returns how long f has waited by that clock.
func timelessly(t *testing.T, f func()) (waited time.Duration) {
	t.Helper()
	real := clock
	defer func() { clock = real }()
	start := real.now()
	clock.now = func() time.Time { return start.Add(waited) }
	clock.sleep = func(d time.Duration) {
		waited += d
		runtime.Gosched()
	}
	f()
	return waited
}

// TestDeleteWaitsOnce: a group that stays busy, in every hierarchy, is waited for once, and the error names who is in it.
func TestDeleteWaitsOnce(t *testing.T) {
	g := testGroup(t, nil)
	cmd := sleeper(t, g)
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	waited := timelessly(t, func() {
		err := g.Delete()
		if !errors.Is(err, unix.EBUSY) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("process %d (%s) is in it", cmd.Process.Pid, filepath.Base(cmd.Path))) {
			t.Errorf("delete: %v", err)
		}
		if n := strings.Count(fmt.Sprint(err), "still not after"); n != 1 {
			t.Errorf("delete has waited for %d hierarchies: %v", n, err)
		}
	})
	if most := dying + time.Second; waited > most {
		t.Errorf("delete has waited for %v, want at most %v", waited, most)
	}
}

// TestDestroyTheUnkillable: killing, freezing and deleting a process that cannot die is one wait; once it can, it works.
func TestDestroyTheUnkillable(t *testing.T) {
	g := testGroup(t, nil)
	pid, release := unkillable(t)
	if err := g.Add(pid); err != nil {
		t.Fatal(err)
	}
	waited := timelessly(t, func() {
		if err := g.Destroy(nil); !errors.Is(err, unix.EBUSY) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("process %d (cat) is in it and does not die", pid)) {
			t.Errorf("destroy: %v", err)
		}
	})
	if most := dying + time.Second; waited > most {
		t.Errorf("destroy has waited for %v, want at most %v", waited, most)
	}
	release()
	if err := g.Destroy(nil); err != nil {
		t.Errorf("destroy after the release: %v", err)
	}
	if _, err := Open(g.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group is left: %v", err)
	}
}

// unkillable starts a process that waits in the kernel for a file system's answer, which SIGKILL does not interrupt once the
// file system has read the request; see fuse(4). After release the file system is gone and the process can die.
func unkillable(t *testing.T) (pid int, release func()) {
	t.Helper()
	dir := t.TempDir()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	if err := unix.Mount("test", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err, unix.Close(fd))
	}
	const opInit, opLookup = 26, 1
	cmd := exec.Command("cat", filepath.Join(dir, "file"))
	released := false
	release = func() {
		if released {
			return
		}
		released = true
		if err := errors.Join(unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH), unix.Close(fd)); err != nil {
			t.Error(err)
		}
		if cmd.Process != nil {
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()
		}
	}
	t.Cleanup(release)
	request := func(opcode uint32) (unique uint64) {
		buf := make([]byte, 1<<17)
		n, err := unix.Read(fd, buf)
		if err != nil || n < 40 {
			t.Fatalf("read a request of the kernel: %d bytes, %v", n, err)
		}
		if got := binary.NativeEndian.Uint32(buf[4:]); got != opcode {
			t.Fatalf("request %d, want %d", got, opcode)
		}
		return binary.NativeEndian.Uint64(buf[8:])
	}
	unique := request(opInit)
	var answer bytes.Buffer // fuse_out_header, fuse_init_out
	const headerSize, initSize = 16, 64
	for _, field := range []any{uint32(headerSize + initSize), int32(0), unique, uint32(7), uint32(31), [initSize - 8]byte{}} {
		if err := binary.Write(&answer, binary.NativeEndian, field); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := unix.Write(fd, answer.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	request(opLookup) // whose answer never comes
	return cmd.Process.Pid, release
}
