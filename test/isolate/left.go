package isolate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// nothingLeft waits until there is nothing that was not there before: a supervisor ends a moment after its engine.
func nothingLeft(before map[string]bool) error {
	return await(func() error {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 && err != syscall.EINTR {
				break
			}
		}
		after, err := look()
		if err != nil {
			return err
		}
		var left []error
		for thing := range after {
			if !before[thing] {
				left = append(left, errors.New("left behind: "+thing))
			}
		}
		return errors.Join(left...)
	})
}

// look lists everything in the namespaces that outlives a test.
func look() (map[string]bool, error) {
	all := map[string]bool{}
	for _, kind := range []func(add func(what, name string)) error{processes, mounts, interfaces, tables, cgroups, files} {
		if err := kind(func(what, name string) { all[what+" "+name] = true }); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func processes(add func(what, name string)) error {
	found, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range found {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			continue // it has ended
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		add("process", fmt.Sprintf("%d %s", pid, bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte{' '})))
	}
	return nil
}

func mounts(add func(what, name string)) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		add("mount", fields[4]+" (id "+fields[0]+")")
	}
	return err
}

func interfaces(add func(what, name string)) error {
	found, err := os.ReadDir("/sys/class/net")
	for _, e := range found {
		add("interface", e.Name())
	}
	return err
}

// tables lists nftables' tables, over netlink.
func tables(add func(what, name string)) error {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("list nftables' tables: %w", err)
	}
	defer unix.Close(socket)
	request := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+4)
	request = binary.NativeEndian.AppendUint16(request, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request = append(request, make([]byte, 8+4)...) // sequence and port; then every family, version 0
	if err := unix.Sendto(socket, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("list nftables' tables: %w", err)
	}
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(socket, buffer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("list nftables' tables: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return fmt.Errorf("list nftables' tables: %w", err)
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE, m.Header.Type == unix.NLMSG_ERROR: // a kernel without nftables has no tables
				return nil
			case len(m.Data) > 8:
				end := 4 + int(binary.NativeEndian.Uint16(m.Data[4:])) // its name is its first attribute
				add("nftables' table", strings.TrimRight(string(m.Data[8:min(end, len(m.Data))]), "\x00"))
			}
		}
	}
}

func cgroups(add func(what, name string)) error {
	for _, dir := range directories("/sys/fs/cgroup") {
		add("cgroup", dir)
	}
	return nil
}

// others are files that mount and iptables make for themselves.
var others = []string{"/run/mount", "/run/xtables.lock"}

// files lists what is at the directories where there was nothing, and stays in memory or on the disk for good.
func files(add func(what, name string)) error {
	for _, top := range []string{temporary, "/run", "/dev/shm", "/dev/mqueue"} {
		err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err != nil || path == top {
				return nil // it has gone in the meantime
			}
			if path == temporary || slices.Contains(others, path) {
				if e.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if top == temporary {
				add("file", path)
				if e.IsDir() {
					return fs.SkipDir
				}
			}
			if !e.IsDir() { // programs keep their empty directories there
				add("file", path)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
