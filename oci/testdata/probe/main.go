// Command probe is the program of test containers: it prints what it sees, as JSON, or does one thing.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func init() {
	if len(os.Args) > 1 && (os.Args[1] == "personality" || os.Args[1] == "hollow") {
		runtime.LockOSThread() // the first thread stays ours
	}
}

func main() {
	if len(os.Args) < 2 {
		report()
		return
	}
	switch os.Args[1] {
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "sleep":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		fmt.Println("ready")
		select {
		case <-stop:
		case <-time.After(time.Minute):
		}
	case "cat":
		for _, file := range os.Args[2:] {
			text, err := os.ReadFile(file)
			if err != nil {
				fmt.Println("error:", err)
				continue
			}
			_, _ = os.Stdout.Write(text)
		}
	case "write":
		if err := os.WriteFile(os.Args[2], []byte(os.Args[3]), 0o644); err != nil {
			fmt.Println("error:", err)
		}
	case "ls":
		for _, dir := range os.Args[2:] {
			entries, err := os.ReadDir(dir)
			if err != nil {
				fmt.Println("error:", err)
			}
			for _, e := range entries {
				fmt.Println(e.Name())
			}
		}
	case "stat": // stat FILE…: mode, owner, group and device number of each, or where a link leads
		for _, file := range os.Args[2:] {
			var st syscall.Stat_t
			if err := syscall.Lstat(file, &st); err != nil {
				fmt.Println("error:", err)
				continue
			}
			link, _ := os.Readlink(file)
			fmt.Printf("%s %#o %d:%d %d %s\n", file, st.Mode, st.Uid, st.Gid, st.Rdev, link)
		}
	case "interfaces": // name, up or down, addresses
		list, _ := net.Interfaces()
		for _, i := range list {
			addresses, _ := i.Addrs()
			fmt.Println(i.Name, strings.Split(i.Flags.String(), "|")[0], addresses)
		}
	case "fds":
		for n := range 64 {
			if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(n), syscall.F_GETFD, 0); errno == 0 {
				if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", n)); err == nil && !strings.Contains(target, "event") && !strings.Contains(target, "cgroup") {
					fmt.Println(n)
				}
			}
		}
	case "hook": // hook FILE: what a hook sees, into the file
		state, _ := io.ReadAll(os.Stdin)
		out := seen()
		out["stdin"] = string(state)
		text, _ := json.Marshal(out)
		if err := os.WriteFile(os.Args[2], text, 0o666); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	case "say": // say TEXT CODE
		fmt.Println(os.Args[2])
		code, _ := strconv.Atoi(os.Args[3])
		os.Exit(code)
	case "overwrite": // overwrite FILE
		f, err := os.OpenFile(os.Args[2], os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			fmt.Println("overwrite:", err)
			break
		}
		_, err = f.WriteString("overwritten")
		fmt.Println("overwrite: OVERWRITTEN", err)
	case "spy":
		spy()
	case "scan":
		scan()
	case "hollow":
		hollow()
	case "again":
		again()
	case "personality": // personality N: the errno of the call with N, of a thread of its own
		callPersonality()
	case "unshare":
		_, _, errno := syscall.RawSyscall(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER, 0, 0)
		fmt.Println(errno)
	}
}

func report() { _ = json.NewEncoder(os.Stdout).Encode(seen()) }

// seen is what this process is and sees.
func seen() map[string]any {
	out := map[string]any{"uid": os.Getuid(), "gid": os.Getgid(), "env": os.Environ(), "pid": os.Getpid(), "args": os.Args}
	out["groups"], _ = os.Getgroups()
	out["cwd"], _ = os.Getwd()
	out["hostname"], _ = os.Hostname()
	for _, file := range []string{"status", "limits", "mountinfo", "cgroup", "oom_score_adj", "uid_map"} {
		text, _ := os.ReadFile("/proc/self/" + file)
		out[file] = string(text)
	}
	links := map[string]string{}
	entries, _ := filepath.Glob("/proc/self/ns/*")
	for _, e := range entries {
		links[filepath.Base(e)], _ = os.Readlink(e)
	}
	out["ns"] = links
	for name, value := range attributes() {
		out[name] = value
	}
	return out
}
