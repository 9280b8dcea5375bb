package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a new pseudo-terminal; see pts(4).
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// screen is what a terminal has shown.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// next waits until text has been shown and takes everything up to it.
func (s *screen) next(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		at := bytes.Index(s.text.Bytes(), []byte(text))
		if at >= 0 {
			s.text.Next(at + len(text))
		}
		shown := s.text.String()
		s.mu.Unlock()
		if at >= 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q is not shown, but %q", text, shown)
		}
	}
}

func TestInteractiveShell(t *testing.T) {
	master, slave := terminal(t)
	cmd := exec.Command(filepath.Join(bin, "sh"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = []string{"PATH=" + bin, "PS1=ready> ", "PS2=more> "}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	shown := &screen{}
	go func() { _, _ = io.Copy(shown, master) }()
	press := func(keys string) {
		t.Helper()
		if _, err := master.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ expect, keys string }{
		{"ready> ", "echo $((40+2))\r"},
		{"42\r\nready> ", "for i in a b\r"},
		{"more> ", "do echo $i$i; done\r"},
		{"aa\r\nbb\r\nready> ", "exit 1\x03"}, // Ctrl-C gives up the line
		{"\r\nready> ", "if )\r"},
		{"sh: ", "env sh -c 'echo w\"\"ait; exec sleep 100'\r"},
		{"wait\r\n", "\x03"}, // and ends the command in the foreground, not the shell
	} {
		shown.next(t, step.expect)
		press(step.keys)
	}
	shown.next(t, "ready> ")
	press("echo al\"\"ive\r")
	shown.next(t, "alive\r\nready> ")
	press("echo w\"\"ait; while true; do sleep 0.01; done\r")
	shown.next(t, "wait\r\n")
	press("\x03") // a loop ends too
	shown.next(t, "ready> ")
	press("exit 7\r")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("the shell ended with %v", cmd.ProcessState)
	}
}
