package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gantry/oci"
	"gantry/spawn"
)

// spawnMany makes containers one after the other: what test/floor.c does, step by step, by a plan.
func spawnMany(rootfs, work, cgroup string, n int) (time.Duration, error) {
	began := time.Now()
	for i := range n {
		name := strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(i)
		if err := spawnOne(rootfs, filepath.Join(work, name), filepath.Join(cgroup, name)); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func spawnOne(rootfs, dir, cgroup string) error {
	for _, d := range []string{dir, dir + "/upper", dir + "/work", dir + "/merged", cgroup} {
		if err := unix.Mkdir(d, 0o755); err != nil {
			return &os.PathError{Op: "mkdir", Path: d, Err: err}
		}
	}
	child, err := spawn.Start(floorPlan(rootfs, dir))
	if err != nil {
		return err
	}
	status, err := child.Wait()
	if err = errors.Join(err, child.Close()); err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("wait status %#x", status)
	}
	return nil
}

func floorPlan(rootfs, dir string) *spawn.Plan {
	p := &spawn.Plan{Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP | unix.CLONE_NEWNET}
	mount := func(source, target, kind string, flags uintptr, data string) {
		p.Add("mount "+kind+" on "+target, unix.SYS_MOUNT, spawn.Str(source), spawn.Str(target), spawn.Str(kind), spawn.Int(int(flags)), spawn.Str(data))
	}
	mkdir := func(path string) {
		p.Add("make "+path, unix.SYS_MKDIRAT, spawn.Int(unix.AT_FDCWD), spawn.Str(path), spawn.Int(0o755))
	}
	chdir := func(path string) { p.Add("go to "+path, unix.SYS_CHDIR, spawn.Str(path)) }
	mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	mount("overlay", dir+"/merged", "overlay", 0, "lowerdir="+rootfs+",upperdir="+dir+"/upper,workdir="+dir+"/work")
	chdir(dir + "/merged")
	mount("proc", "proc", "proc", 0, "")
	mount("tmpfs", "dev", "tmpfs", 0, "size=64k")
	mount("sysfs", "sys", "sysfs", 0, "")
	mkdir("dev/pts")
	mkdir("dev/shm")
	mkdir("dev/mqueue")
	mount("devpts", "dev/pts", "devpts", 0, "newinstance")
	mount("shm", "dev/shm", "tmpfs", 0, "")
	mount("mqueue", "dev/mqueue", "mqueue", 0, "")
	p.Add("change the root", unix.SYS_PIVOT_ROOT, spawn.Str("."), spawn.Str("."))
	p.Add("leave the old root", unix.SYS_UMOUNT2, spawn.Str("."), spawn.Int(unix.MNT_DETACH))
	chdir("/")
	p.Add("set hostname", unix.SYS_SETHOSTNAME, spawn.Str("x"), spawn.Int(1))
	p.Add("exec /bin/true", unix.SYS_EXECVE, spawn.Str("/bin/true"), spawn.Strs([]string{"/bin/true"}), spawn.Strs(nil))
	return p
}

// createMany takes containers of a bundle through their whole life, one after the other.
func createMany(bundle, root string, n int) (time.Duration, error) {
	runtime := &oci.Runtime{Root: root}
	ctx := context.Background()
	began := time.Now()
	for range n {
		if err := createOne(ctx, runtime, bundle); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func createOne(ctx context.Context, runtime *oci.Runtime, bundle string) error {
	c, process, err := runtime.Create(ctx, "bench", oci.CreateOptions{Bundle: bundle})
	if err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return errors.Join(err, c.Delete(ctx, true))
	}
	_, err = spawn.Reap(process.Pidfd)
	return errors.Join(err, process.Pidfd.Close(), c.Delete(ctx, true))
}
