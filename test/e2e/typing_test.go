package e2e

import (
	"os"
	"testing"
	"time"
)

// typing is a keyboard: the lines come one after the other, as from a person, and then nothing until the test ends. It
// is a file, so that nobody waits for its end who waits for the command's.
func typing(t *testing.T, lines string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.Close()
		_ = w.Close()
	})
	go func() {
		for _, c := range []byte(lines) {
			if c == '\n' {
				time.Sleep(200 * time.Millisecond)
			}
			if _, err := w.Write([]byte{c}); err != nil {
				return
			}
		}
	}()
	return r
}
