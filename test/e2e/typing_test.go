package e2e

import (
	"io"
	"time"
)

// newTyping is a keyboard: the lines come one after the other, as from a person, and then nothing until w is closed.
func newTyping(lines string) (io.Reader, io.Closer) {
	r, w := io.Pipe()
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
	return r, w
}
