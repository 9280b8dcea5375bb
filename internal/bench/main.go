// Command bench measures for test/bench.sh what a shell cannot: it runs commands in turn, so that whatever disturbs the
// machine disturbs them alike, and containers without a process in between.
//
//	bench compare [-runs N] [-pause D] COMMAND…   the median time of each, in ms; "A ; B" are programs one after the other
//	bench spawn ROOTFS WORKDIR CGROUP N           ms a container that package spawn makes (test/floor.c is the same in C)
//	bench oci BUNDLE ROOT N                       ms a container that package oci creates, starts and deletes
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("bench compare|spawn|oci …")
	}
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "compare":
		err = compare(args)
	case "spawn":
		err = withCount(args, 4, func(n int) (time.Duration, error) { return spawnMany(args[0], args[1], args[2], n) })
	case "oci":
		err = withCount(args, 3, func(n int) (time.Duration, error) { return createMany(args[0], args[1], n) })
	default:
		err = fmt.Errorf("no such measurement: %s", os.Args[1])
	}
	if err != nil {
		log.Fatal("bench: ", err)
	}
}

// withCount prints the milliseconds that one of N takes; N is the last argument.
func withCount(args []string, want int, measure func(n int) (time.Duration, error)) error {
	if len(args) != want {
		return fmt.Errorf("%d arguments, want %d", len(args), want)
	}
	n, err := strconv.Atoi(args[want-1])
	if err != nil || n < 1 {
		return fmt.Errorf("how many: %q", args[want-1])
	}
	took, err := measure(n)
	if err != nil {
		return err
	}
	fmt.Printf("%.3f\n", milliseconds(took)/float64(n))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// compare prints the median of each command, on a line each.
func compare(args []string) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	runs := flags.Int("runs", 20, "`TIMES` that each command is measured")
	pause := flags.Duration("pause", 50*time.Millisecond, "`TIME` before each: what the one before left to the kernel is done")
	if err := flags.Parse(args); err != nil {
		return err
	}
	const warmUp = 2
	times := make([][]time.Duration, flags.NArg())
	for round := range warmUp + *runs {
		for i, command := range flags.Args() {
			time.Sleep(*pause)
			took, err := run(command)
			if err != nil {
				return err
			}
			if round >= warmUp {
				times[i] = append(times[i], took)
			}
		}
	}
	for _, t := range times {
		slices.Sort(t)
		fmt.Printf("%.3f\n", milliseconds(t[len(t)/2]))
	}
	return nil
}

// run is how long a command takes, whose words have no spaces in them.
func run(command string) (time.Duration, error) {
	began := time.Now()
	for program := range strings.SplitSeq(command, " ; ") {
		words := strings.Fields(program)
		c := exec.Command(words[0], words[1:]...)
		var complaint strings.Builder
		c.Stderr = &complaint
		if err := c.Run(); err != nil {
			return 0, errors.Join(fmt.Errorf("%s: %w", program, err), errors.New(complaint.String()))
		}
	}
	return time.Since(began), nil
}
