// Package osthread runs functions that change what only one thread has: its namespaces, its root, its directory.
package osthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls f on a thread of its own and returns when f has; the thread ends then. It is never the process's first one,
// which cannot end and represents the process in /proc.
func Run(f func()) {
	done := make(chan struct{})
	go run(f, done)
	<-done
}

func run(f func(), done chan<- struct{}) {
	defer close(done)
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		Run(f) // on another thread, since this one is held
		runtime.UnlockOSThread()
		return
	}
	f() // without an unlock, the thread ends with the goroutine
}
