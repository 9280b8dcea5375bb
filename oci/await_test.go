package oci

import (
	"testing"

	"golang.org/x/sys/unix"

	"gantry/spawn"
)

// A created container, the first process of its namespace, ends when it is told to, past the runtime; what it executes
// gets its signals as ever.
func TestCreatedContainerHeedsSignals(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		b := newBundle(t, "sleep")
		c, p, err := b.lib.Create(t.Context(), "probe", CreateOptions{Bundle: b.dir, Spec: b.spec})
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.PidfdSendSignal(int(p.Pidfd.Fd()), sig, nil, 0); err != nil {
			t.Fatal(err)
		}
		poll := []unix.PollFd{{Fd: int32(p.Pidfd.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 10_000); n != 1 {
			t.Errorf("%v: it waits on (%v)", sig, err)
			_ = c.Kill(unix.SIGKILL, false)
		}
		if ws, err := spawn.Reap(p.Pidfd); err != nil || ws.ExitStatus() != 128+int(unix.SIGTERM) {
			t.Errorf("%v: it ended by %v, %d (%v)", sig, ws.Signal(), ws.ExitStatus(), err)
		}
		if err := c.Start(t.Context()); err == nil {
			t.Error("it was started after its end")
		}
		if err := c.Delete(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
	b := newBundle(t)
	if got := b.report(t).field("SigBlk"); got != "0000000000000000" {
		t.Errorf("the program has blocked signals: %s", got)
	}
}
