package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// counts prints for each command, on a line, how many page faults were served from memory and how many system calls were made,
// by it and what it waited for: the least of some runs. A busy machine changes neither; a heap at another address, and
// whatever threads wait for each other, a few.
func counts(args []string) error {
	flags := flag.NewFlagSet("counts", flag.ContinueOnError)
	runs := flags.Int("runs", 7, "`TIMES` that each command is counted")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, command := range flags.Args() {
		faults, calls := int64(0), int64(0)
		for run := range *runs {
			f, err := faultsOf(command)
			if err != nil {
				return err
			}
			c, err := callsOf(command)
			if err != nil {
				return err
			}
			if run == 0 {
				faults, calls = f, c
			}
			faults, calls = min(faults, f), min(calls, c)
		}
		fmt.Printf("%d %d\n", faults, calls)
	}
	return nil
}

// faultsOf are a command's minor faults: wait4(2) tells of a program and the children that it has waited for.
func faultsOf(command string) (faults int64, err error) {
	err = each(command, func(words []string) error {
		c := exec.Command(words[0], words[1:]...)
		c.Stderr = os.Stderr
		if err := c.Run(); err != nil {
			return err
		}
		usage, ok := c.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			return errors.ErrUnsupported
		}
		faults += usage.Minflt
		return nil
	})
	return faults, err
}

// waiting are calls by which threads wait for and wake each other, as often as the scheduler likes.
var waiting = map[string]bool{
	"futex": true, "nanosleep": true, "sched_yield": true, "restart_syscall": true, "epoll_pwait": true, "epoll_wait": true, "tgkill": true,
	"getpid": true, "rt_sigreturn": true,
}

// callsOf are a command's system calls but those, as strace(1) counts them. It waits for everything that it traces, which a
// created container is: of programs one after the other there is no count, 0.
func callsOf(command string) (calls int64, err error) {
	if strings.Contains(command, " ; ") {
		return 0, nil
	}
	err = each(command, func(words []string) error {
		read, write, err := os.Pipe()
		if err != nil {
			return err
		}
		defer read.Close()
		c := exec.Command("strace", append([]string{"-f", "-c", "-U", "calls,name", "-o", "/proc/self/fd/3", "--"}, words...)...)
		c.Stderr, c.ExtraFiles = os.Stderr, []*os.File{write}
		if err := c.Start(); err != nil {
			return errors.Join(err, write.Close())
		}
		if err := write.Close(); err != nil {
			return err
		}
		n, err := sumCalls(read)
		calls += n
		return errors.Join(err, c.Wait())
	})
	return calls, err
}

// sumCalls reads strace's table: a count and a name a line, between headings and the sum.
func sumCalls(table io.Reader) (sum int64, err error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 2 || fields[1] == "total" || waiting[fields[1]] {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			sum += n
		}
	}
	return sum, lines.Err()
}

// each calls run with the words of each of a command's programs.
func each(command string, run func(words []string) error) error {
	for program := range strings.SplitSeq(command, " ; ") {
		if err := run(strings.Fields(program)); err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
	}
	return nil
}
