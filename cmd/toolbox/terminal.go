package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

func clearScreen([]string) error {
	_, err := fmt.Print("\x1b[H\x1b[2J\x1b[3J")
	return err
}

// tty names the terminal of standard input; the status is 1 if it is none.
func tty([]string) error {
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
		fmt.Println("not a tty")
		return status(1)
	}
	name, err := os.Readlink("/proc/self/fd/0")
	if err != nil {
		return err
	}
	fmt.Println(name)
	return nil
}

// sttyFlags are the settings that stty changes with a word, or with - before it.
var sttyFlags = []struct {
	name string
	of   func(*unix.Termios) *uint32
	bits uint32
}{
	{"echo", func(t *unix.Termios) *uint32 { return &t.Lflag }, unix.ECHO},
	{"icanon", func(t *unix.Termios) *uint32 { return &t.Lflag }, unix.ICANON},
	{"isig", func(t *unix.Termios) *uint32 { return &t.Lflag }, unix.ISIG},
	{"icrnl", func(t *unix.Termios) *uint32 { return &t.Iflag }, unix.ICRNL},
	{"ixon", func(t *unix.Termios) *uint32 { return &t.Iflag }, unix.IXON},
	{"opost", func(t *unix.Termios) *uint32 { return &t.Oflag }, unix.OPOST},
	{"onlcr", func(t *unix.Termios) *uint32 { return &t.Oflag }, unix.ONLCR},
}

// stty shows the terminal's settings ("size" is rows and columns), or changes some of them.
func stty(args []string) error {
	settings, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	window, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return fmt.Errorf("size of standard input: %w", err)
	}
	switch {
	case slices.Equal(args[1:], []string{"size"}):
		_, err := fmt.Println(window.Row, window.Col)
		return err
	case len(args) == 1 || slices.Equal(args[1:], []string{"-a"}):
		fmt.Printf("rows %d; columns %d;", window.Row, window.Col)
		for _, f := range sttyFlags {
			sign := ""
			if *f.of(settings)&f.bits == 0 {
				sign = "-"
			}
			fmt.Print(" ", sign, f.name)
		}
		fmt.Println()
		return nil
	}
	for _, word := range args[1:] {
		if err := change(settings, word); err != nil {
			return err
		}
	}
	return unix.IoctlSetTermios(0, unix.TCSETSW, settings)
}

func change(settings *unix.Termios, word string) error {
	off := len(word) > 1 && word[0] == '-'
	name := word
	if off {
		name = word[1:]
	}
	for _, f := range sttyFlags {
		if f.name != name {
			continue
		}
		if off {
			*f.of(settings) &^= f.bits
		} else {
			*f.of(settings) |= f.bits
		}
		return nil
	}
	return errors.New("unknown setting " + word)
}
