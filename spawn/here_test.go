package spawn

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHere makes steps in the calling thread: each kind of argument, and those that it cannot pass.
func TestHere(t *testing.T) {
	const one, two Slot = 1, 2
	dir, text := t.TempDir(), make([]byte, 8)
	p := &Plan{}
	p.Add("open the directory", unix.SYS_OPENAT, Int(unix.AT_FDCWD), Str(dir), Int(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)).Result = one
	p.Add("make a link", unix.SYS_SYMLINKAT, Str("target"), Of(one), Str("link"))
	p.Add("read it", unix.SYS_READLINKAT, Of(one), Str("link"), Bytes(text, ""), Int(len(text))).Result = two
	p.Add("close the directory", unix.SYS_CLOSE, Of(one))
	var slots Slots
	for i := range p.Steps {
		if err := p.Steps[i].Here(&slots); err != nil {
			t.Fatalf("%s: %v", p.Steps[i].Name, err)
		}
	}
	if got := string(text[:slots[two]]); got != "target" {
		t.Errorf("read %q", got)
	}
	for name, tt := range map[string]struct {
		step Step
		want error
		says string
	}{
		"a failing call":    {Step{Call: unix.SYS_CLOSE, Args: []Arg{Int(-1)}}, unix.EBADF, ""},
		"a NUL":             {Step{Call: unix.SYS_CHDIR, Args: []Arg{Str("a\x00b")}}, unix.EINVAL, "NUL"},
		"a vector":          {Step{Call: unix.SYS_EXECVE, Args: []Arg{Strs(nil)}}, unix.EINVAL, "new process"},
		"seven arguments":   {Step{Call: unix.SYS_GETPID, Args: make([]Arg, 7)}, unix.EINVAL, ""},
		"a slot beyond all": {Step{Call: unix.SYS_GETPID, Args: []Arg{Of(MaxSlots + 1)}}, nil, "slot"},
		"a meeting":         {Step{Ready: true}, unix.EINVAL, ""},
	} {
		if err := tt.step.Here(&slots); err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v; want %v %q", name, err, tt.want, tt.says)
		}
	}
}
