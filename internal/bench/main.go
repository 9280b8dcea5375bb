// Command bench measures for test/bench.sh what a shell cannot: it runs commands in turn, so that whatever disturbs the
// machine disturbs them alike, and makes containers without a process in between.
//
//	bench compare [-runs N] [-pause D] COMMAND…   the median times of each, in ms; "A ; B" are programs one after the other
//	bench counts [-runs N] COMMAND…               the least page faults and system calls of each
//	bench spawn ROOTFS WORKDIR CGROUP N           ms a container that package spawn makes (test/floor.c is the same in C)
//	bench oci BUNDLE ROOT N                       ms a container that package oci creates, starts and deletes
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"gantry/spawn"
)

func main() {
	spawn.KeepMemory() // as programs that make containers do
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("bench compare|counts|spawn|oci …")
	}
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "compare":
		err = compare(args)
	case "counts":
		err = counts(args)
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

// warmUp is how often a command runs before it is measured.
const warmUp = 2

// compare prints two medians for each command, on a line: when the commands take turns, with a pause before each, so
// that none pays for what another left to the kernel; and when each runs again and again without a pause.
func compare(args []string) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	runs := flags.Int("runs", 20, "`TIMES` that each command is measured")
	pause := flags.Duration("pause", 50*time.Millisecond, "`TIME` before each turn")
	if err := flags.Parse(args); err != nil {
		return err
	}
	inTurn := make([][]time.Duration, flags.NArg())
	for range warmUp + *runs {
		for i, command := range flags.Args() {
			time.Sleep(*pause)
			if err := measure(command, &inTurn[i]); err != nil {
				return err
			}
		}
	}
	for i, command := range flags.Args() {
		time.Sleep(3 * time.Second) // for what the one before has left
		var inARow []time.Duration
		for range warmUp + *runs {
			if err := measure(command, &inARow); err != nil {
				return err
			}
		}
		fmt.Printf("%.3f %.3f\n", median(inTurn[i]), median(inARow))
	}
	return nil
}

// median is that of the measured runs, in milliseconds.
func median(times []time.Duration) float64 {
	measured := slices.Sorted(slices.Values(times[warmUp:]))
	return milliseconds(measured[len(measured)/2])
}

// measure runs a command, whose words have no spaces in them, and notes how long it took.
func measure(command string, times *[]time.Duration) error {
	began := time.Now()
	err := each(command, func(words []string) error {
		c := exec.Command(words[0], words[1:]...)
		c.Stderr = os.Stderr // not a pipe: what goes on in the background would hold it
		return c.Run()
	})
	*times = append(*times, time.Since(began))
	return err
}
