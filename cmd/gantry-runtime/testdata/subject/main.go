// Subject is what tests of checkpoint and restore save: it counts in memory and tells the count in /tmp/n. What else it
// holds (memory, a connection, a lock, a terminal) its flags say. It ends with the code that is in /tmp/exit, with 99 if
// its memory has changed, and with 98 if what it holds fails it.
//
//go:debug containermaxprocs=0
package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	mib := flag.Int("mib", 1, "memory that is looked at all the time")
	tcp := flag.String("tcp", "", "`ADDRESS` of who answers each number with the next one")
	socket := flag.String("unix", "", "`PATH` of a datagram socket that is told the count")
	lock := flag.String("lock", "", "`FILE` that is locked")
	child := flag.Bool("child", false, "have a child process that counts too, in /tmp/child")
	name := flag.String("name", "/tmp/n", "`FILE` of the count")
	tty := flag.Bool("tty", false, "tell the count on standard output too")
	inner := flag.Bool("inner", false, "have a pipe of its own as standard output, and read what it says there")
	leave := flag.Bool("leave", false, "leave the child alone, as a shell does with what is in the background")
	flag.Parse()
	memory := make([]byte, *mib<<20)
	for i := range memory {
		memory[i] = byte(i>>12 + i)
	}
	work := []func(n int){func(n int) {
		for i := n % 4096; i < len(memory); i += 4096 {
			if memory[i] != byte(i>>12+i) {
				os.Exit(99)
			}
		}
	}}
	if *lock != "" {
		f, err := os.OpenFile(*lock, os.O_CREATE|os.O_RDWR, 0o666)
		check(err)
		check(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		work = append(work, func(int) { check(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)) })
	}
	if *tcp != "" {
		work = append(work, talk(*tcp))
	}
	if *socket != "" {
		conn, err := net.Dial("unixgram", *socket)
		check(err)
		work = append(work, func(n int) { _, err := fmt.Fprint(conn, n); check(err) })
	}
	if *inner {
		work = append(work, hear())
	}
	if *tty {
		work = append(work, func(n int) { _, err := fmt.Printf("count %d\n", n); check(err) })
	}
	if *child { // not by os/exec: criu 3.17 cannot save the pidfd that it keeps
		_, err := syscall.ForkExec("/proc/self/exe", []string{"child", "-name", "/tmp/child"}, nil)
		check(err)
		if *leave {
			return
		}
	}
	for n := 1; ; n++ {
		for _, f := range work {
			f(n)
		}
		check(os.WriteFile(*name+".new", []byte(strconv.Itoa(n)), 0o666))
		check(os.Rename(*name+".new", *name))
		if text, err := os.ReadFile("/tmp/exit"); err == nil {
			code, err := strconv.Atoi(string(text))
			check(err)
			os.Exit(code)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// hear puts a pipe in the place of standard output, and looks for each number that is said there.
func hear() func(int) {
	read, write, err := os.Pipe()
	check(err)
	check(unix.Dup3(int(write.Fd()), 1, 0))
	said := bufio.NewReader(read)
	return func(n int) {
		_, err := fmt.Println(n)
		check(err)
		line, err := said.ReadString('\n')
		check(err)
		if strings.TrimSpace(line) != strconv.Itoa(n) {
			check(fmt.Errorf("%d is heard as %q", n, line))
		}
	}
}

func talk(address string) func(int) {
	conn, err := net.Dial("tcp", address)
	check(err)
	answers := bufio.NewReader(conn)
	return func(n int) {
		_, err := fmt.Fprintln(conn, n)
		check(err)
		line, err := answers.ReadString('\n')
		check(err)
		if strings.TrimSpace(line) != strconv.Itoa(n+1) {
			check(fmt.Errorf("%d is answered with %q", n, line))
		}
	}
}

func check(err error) {
	if err != nil {
		_ = os.WriteFile("/tmp/error", []byte(err.Error()), 0o666)
		os.Exit(98)
	}
}
