package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// hog uses up what a limit should bound, to see it at work.
func hog(args []string) error {
	help := usage("hog memory SIZE [SECONDS] | cpu [THREADS] [SECONDS] | fork COUNT [SECONDS] | disk FILE SIZE")
	if len(args) < 2 {
		return help
	}
	rest := args[2:]
	switch {
	case args[1] == "memory" && len(rest) > 0:
		return hogMemory(rest)
	case args[1] == "cpu":
		return hogCPU(rest)
	case args[1] == "fork" && len(rest) > 0:
		return hogFork(rest)
	case args[1] == "disk" && len(rest) == 2:
		return hogDisk(rest[0], rest[1])
	}
	return help
}

// argument is the i-th word as a number that is not negative.
func argument(words []string, i, byDefault int) (int, error) {
	if i >= len(words) {
		return byDefault, nil
	}
	n, err := strconv.Atoi(words[i])
	if err != nil || n < 0 {
		return 0, fmt.Errorf("invalid number %q", words[i])
	}
	return n, nil
}

// hogMemory touches every page, says so, and holds them.
func hogMemory(words []string) error {
	n, err := size(words[0])
	if err != nil {
		return err
	}
	seconds, err := argument(words, 1, 0)
	if err != nil {
		return err
	}
	const chunk = 1 << 20
	var held [][]byte
	for done := int64(0); done < n; done += chunk {
		page, err := unix.Mmap(-1, 0, int(min(chunk, n-done)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("allocate after %d bytes: %w", done, err)
		}
		for i := 0; i < len(page); i += 4096 {
			page[i] = 1
		}
		held = append(held, page)
	}
	fmt.Printf("holding %d bytes\n", n)
	time.Sleep(time.Duration(seconds) * time.Second)
	runtime.KeepAlive(held)
	return nil
}

// hogCPU keeps threads busy, all processors by default, for ever if no seconds are given.
func hogCPU(words []string) error {
	threads, err := argument(words, 0, runtime.NumCPU())
	if err != nil {
		return err
	}
	seconds, err := argument(words, 1, 0)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(threads + 1)
	for range threads {
		go func() {
			for n := uint64(1); ; n = n*6364136223846793005 + 1 {
				if n == 0 {
					fmt.Print()
				}
			}
		}()
	}
	if seconds == 0 {
		select {}
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		return err
	}
	used := time.Duration(use.Utime.Nano() + use.Stime.Nano())
	fmt.Printf("used %.2f seconds of processor time in %d seconds\n", used.Seconds(), seconds)
	return nil
}

// hogFork starts processes and tells how many it got; the status is 1 if it did not get all.
func hogFork(words []string) error {
	n, err := argument(words, 0, 0)
	if err != nil {
		return err
	}
	seconds, err := argument(words, 1, 0)
	if err != nil {
		return err
	}
	var started []*exec.Cmd
	defer func() {
		for _, cmd := range started {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	for range n {
		cmd := exec.Command("/proc/self/exe", "1000000")
		cmd.Args[0] = "sleep"
		if err := cmd.Start(); err != nil {
			fmt.Printf("started %d of %d processes\n", len(started), n)
			return fmt.Errorf("process %d: %w", len(started)+1, err)
		}
		started = append(started, cmd)
	}
	fmt.Printf("started %d of %d processes\n", len(started), n)
	time.Sleep(time.Duration(seconds) * time.Second)
	return nil
}

// hogDisk writes a file of that size, without holes.
func hogDisk(name, text string) error {
	n, err := size(text)
	if err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	block := bytes.Repeat([]byte("hog "), 16<<10)
	for done := int64(0); done < n; {
		k, err := file.Write(block[:min(int64(len(block)), n-done)])
		if done += int64(k); err != nil {
			_ = file.Close()
			return fmt.Errorf("after %d bytes: %w", done, err)
		}
	}
	if err := file.Sync(); err != nil {
		_ = file.Close()
		return err
	}
	fmt.Printf("wrote %d bytes\n", n)
	return file.Close()
}
