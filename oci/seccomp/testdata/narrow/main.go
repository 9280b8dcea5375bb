// Command narrow makes system calls as a 32-bit program and prints their errnos: its arguments are families of sockets.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

func main() {
	const socket, datagram = 359, 2 // of i386, which has had it since Linux 4.3
	for _, text := range os.Args[1:] {
		family, err := strconv.Atoi(text)
		if err != nil {
			panic(err)
		}
		_, _, errno := syscall.RawSyscall(socket, uintptr(family), datagram, 0)
		fmt.Println(int(errno))
	}
}
