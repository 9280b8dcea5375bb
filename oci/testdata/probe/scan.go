package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// scanner looks at every other process for what it has of the host's: SECRET is a file of the host with WORD in it, WORD is
// also in the environment and the memory of who makes containers, and the rest are namespaces of the host.
type scanner struct {
	secret, word string
	namespaces   []string
	found        map[string]int
	looked       int // at processes
	waiting      int // of these, at some that had not executed a program of the container
}

// scan SECRET WORD NAMESPACE…, until SIGTERM.
func scan() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	s := &scanner{secret: os.Args[2], word: os.Args[3], namespaces: os.Args[4:], found: map[string]int{}}
	fmt.Println("ready")
	known, last := map[int]bool{}, os.Getpid()
	for round := 0; ; round++ {
		select {
		case <-stop:
			s.report()
			return
		default:
		}
		if round%50 == 0 {
			names, _ := os.ReadDir("/proc")
			for _, name := range names {
				if pid, err := strconv.Atoi(name.Name()); err == nil && pid != os.Getpid() {
					known[pid], last = true, max(last, pid)
				}
			}
		}
		for pid := last + 1; pid < last+20; pid++ {
			if syscall.Access(fmt.Sprintf("/proc/%d", pid), 0) == nil && syscall.Access(fmt.Sprintf("/proc/self/task/%d", pid), 0) != nil {
				known[pid] = true
			}
		}
		for pid := range known {
			last = max(last, pid)
			if pid != os.Getpid() && !s.look(pid) {
				delete(known, pid)
			}
		}
	}
}

func (s *scanner) report() {
	var list []string
	for what := range s.found {
		list = append(list, what)
	}
	sort.Strings(list)
	for _, what := range list {
		fmt.Printf("FOUND %s, %d times\n", what, s.found[what])
	}
	fmt.Println("looked at:", s.looked)
	fmt.Println("of the runtime:", s.waiting)
}

// look reports whether the process is worth another look.
func (s *scanner) look(pid int) bool {
	proc := fmt.Sprintf("/proc/%d/", pid)
	exe, err := os.Readlink(proc + "exe")
	if err != nil {
		return false
	}
	s.looked++
	ours := exe == "/bin/probe"
	if !ours {
		s.waiting++
	}
	up := strings.Repeat("/..", 12)
	for _, path := range []string{"root" + s.secret, "root" + up + s.secret, "cwd" + up + s.secret} {
		if text, err := os.ReadFile(proc + path); err == nil && bytes.Contains(text, []byte(s.word)) {
			s.found["a file of the host by "+strings.SplitN(path, "/", 2)[0]]++
		}
	}
	for _, file := range []string{"environ", "cmdline"} {
		if text, err := os.ReadFile(proc + file); err == nil && bytes.Contains(text, []byte(s.word)) {
			s.found["the host's word in "+file]++
		}
	}
	for _, kind := range []string{"mnt", "net", "ipc", "uts", "cgroup", "user", "time"} {
		if id, err := os.Readlink(proc + "ns/" + kind); err == nil && slices.Contains(s.namespaces, id) {
			s.found["the host's namespace "+kind]++
		}
	}
	text, _ := os.ReadFile(proc + "cgroup")
	for line := range strings.Lines(string(text)) { // that of a second container is beside ours
		line = strings.TrimSuffix(strings.TrimSpace(line), " (deleted)")
		if strings.Contains(line, "/..") && !strings.HasSuffix(line, "-second") {
			s.found["a cgroup of the host, "+line]++
		}
	}
	s.descriptors(proc)
	if ours { // it may have a descriptor from us, and has the word among its arguments
		return false
	}
	own := capabilities("/proc/self/")
	if theirs := capabilities(proc); theirs&^own != 0 {
		s.found[fmt.Sprintf("more capabilities: %x", theirs&^own)]++
	}
	s.memory(proc)
	return true
}

func capabilities(proc string) (mask uint64) {
	text, _ := os.ReadFile(proc + "status")
	_, rest, _ := strings.Cut(string(text), "\nCapPrm:\t")
	line, _, _ := strings.Cut(rest, "\n")
	mask, _ = strconv.ParseUint(line, 16, 64)
	return mask
}

func (s *scanner) descriptors(proc string) {
	entries, err := os.ReadDir(proc + "fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		target, err := os.Readlink(proc + "fd/" + e.Name())
		if err != nil {
			continue
		}
		switch {
		case strings.HasPrefix(target, "pipe:"), strings.HasPrefix(target, "/dev/pts/"), target == "/dev/null", strings.HasPrefix(target, "anon_inode:[event"),
			strings.HasSuffix(strings.TrimSuffix(target, " (deleted)"), "/exec.fifo"), strings.HasPrefix(target, "/memfd:state"), target == "anon_inode:[signalfd]":
		case exeOf(proc) == "/bin/probe", exeOf(proc) == "": // its own
		default:
			s.found["descriptor of "+strings.TrimRight(target, "0123456789[]")]++
		}
		if text, err := os.ReadFile(proc + "fd/" + e.Name() + s.secret); err == nil && bytes.Contains(text, []byte(s.word)) {
			s.found["a file of the host by a descriptor"]++
		}
	}
}

func exeOf(proc string) string {
	exe, _ := os.Readlink(proc + "exe")
	return exe
}

// memory looks for the word in what is no file's.
func (s *scanner) memory(proc string) {
	maps, err := os.ReadFile(proc + "maps")
	if err != nil {
		return
	}
	mem, err := os.Open(proc + "mem")
	if err != nil {
		return
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var start, end int64
		var perms string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &start, &end, &perms); n < 3 || !strings.HasPrefix(perms, "rw") || exeOf(proc) == "/bin/probe" {
			continue
		}
		text, err := io.ReadAll(io.NewSectionReader(mem, start, min(end-start, 1<<20)))
		if (err == nil || len(text) > 0) && bytes.Contains(text, []byte(s.word)) && exeOf(proc) != "/bin/probe" {
			s.found["the host's word in memory"]++
		}
	}
}

// hollow ends its first thread and sleeps in another one.
func hollow() {
	fmt.Println("ready")
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		os.Exit(0)
	}()
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}
