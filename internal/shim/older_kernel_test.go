package shim

import (
	"os"
	"testing"

	"gantry/internal/shim/client"
)

// TestUnknownExit: before Linux 6.15, the descriptor of a process that another parent has reaped does not tell its status,
// as a pipe does not. It stays what it was.
func TestUnknownExit(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	const unknown, nobody = 1000, -1
	status := unknown
	if foreignEnded(nobody, int(r.Fd()), &status) {
		t.Error("a process whose descriptor cannot be read has ended")
	}
	if _, err := w.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if !foreignEnded(nobody, int(r.Fd()), &status) || status != unknown {
		t.Errorf("the status is %d", status)
	}
	if got, known := client.ExitStatus(nobody, int(r.Fd())); known || got != client.UnknownStatus {
		t.Errorf("a status that nobody knows is %d, known %v", got, known)
	}
}
