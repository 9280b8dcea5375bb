package shim

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOutliveInACgroupNamespace: a supervisor in a container must not enter the root of the container's v2 hierarchy, or no
// group there could have controllers.
func TestOutliveInACgroupNamespace(t *testing.T) {
	const inside = "GANTRY_TEST_OUTLIVE"
	if os.Getenv(inside) != "" {
		if err := outliveInside(); err != nil {
			t.Fatal(err)
		}
		return
	}
	at := unifiedMount(t)
	group := filepath.Join(at, fmt.Sprint("gantry-outlive-", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = os.Remove(filepath.Join(group, "engine")) // of a failed run
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	}()
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+group)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// unifiedMount is where the v2 hierarchy is mounted.
func unifiedMount(t *testing.T) string {
	t.Helper()
	mounts, err := cgroupMounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if m.v2 {
			return m.dir
		}
	}
	t.Fatal("no cgroup v2 is mounted on this machine")
	return ""
}

// outliveInside runs in the group: makes it the root of a cgroup namespace, and leaves it for a group below.
func outliveInside() error {
	const root = "/sys/fs/cgroup"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	runtime.LockOSThread() // the namespace is this thread's
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		return err
	}
	leaf := root + "/engine"
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(leaf+"/cgroup.procs", []byte("0"), 0); err != nil {
		return err
	}
	leave, err := Outlive()
	if err != nil {
		return err
	}
	for _, group := range []string{root, leaf} {
		text, err := os.ReadFile(group + "/cgroup.procs")
		if err != nil || len(text) > 0 {
			return fmt.Errorf("after Outlive, %s has the processes %q, %v", group, text, err)
		}
	}
	controllers, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+"+name), 0); err != nil {
			return err
		}
		if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("-"+name), 0); err != nil {
			return err
		}
	}
	leave()
	if _, err := os.Stat(filepath.Join(root, supervisors)); !os.IsNotExist(err) {
		return fmt.Errorf("the supervisors' cgroup is left: %v", err)
	}
	if err := os.WriteFile(root+"/cgroup.procs", []byte("0"), 0); err != nil {
		return err
	}
	return os.Remove(leaf)
}
