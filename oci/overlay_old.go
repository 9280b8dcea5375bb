package oci

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// appendsLayers tells whether the kernel takes an overlay's layers one by one (Linux 6.8). Older ones refuse the name,
// or, before 6.5, keep any word until the mount is created, and take no more than 256 bytes for all layers.
func appendsLayers() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return unix.FsconfigSetString(fs, "lowerdir+", "/") == nil && unix.FsconfigSetString(fs, "no such option", "/") != nil
}

// mountOverlayOld makes a detached overlay by mount(2), whose options may fill a page. The mount is made in a mount
// namespace of its own, so that the host never sees it.
func mountOverlayOld(options []string) (int, error) {
	var data []string
	for _, option := range options {
		if option != "ro" && option != "rw" {
			data = append(data, strings.ReplaceAll(option, ",", `\,`)) // a comma ends an option
		}
	}
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go onOwnThread(func() {
		fd, err := mountAside("overlay", strings.Join(data, ","))
		done <- result{fd, err}
	})
	r := <-done
	return r.fd, r.err
}

// onOwnThread runs f on a thread that ends with it: never the first one, which cannot end and stands for the process in
// /proc.
func onOwnThread(f func()) {
	runtime.LockOSThread() // never unlocked
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() { // this thread is held, so it runs on another
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

// mountAside mounts in a new mount namespace of this thread and returns a detached copy.
func mountAside(kind, data string) (int, error) {
	const where = "/proc" // a directory that is there; what it held stays reachable for everybody else
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("mount namespace for the %s: %w", kind, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make mounts private for the %s: %w", kind, err)
	}
	if err := unix.Mount(kind, where, kind, 0, data); err != nil {
		return -1, fmt.Errorf("mount %s with %s: %w", kind, data, err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, where, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "clone the mount of", Path: kind, Err: err}
	}
	return fd, nil
}
