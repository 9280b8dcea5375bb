package engine

import (
	"testing"

	"gantry/internal/logs"
)

// Whatever the pieces of a stream, it is known whether it is between two frames.
func TestFrameReader(t *testing.T) {
	var stream []byte
	ends := map[int]bool{0: true}
	for _, size := range []int{1, 0, 7, 8, 300} {
		stream = logs.AppendFrame(stream, logs.Stdout, make([]byte, size))
		ends[len(stream)] = true
	}
	for _, piece := range []int{1, 2, 3, 8, 9, len(stream)} {
		var f frameReader
		for at := 0; at < len(stream); {
			next := min(at+piece, len(stream))
			f.pass(stream[at:next])
			at = next
			if f.isBetween() != ends[at] {
				t.Errorf("pieces of %d bytes: after %d bytes the stream is between two frames: %v", piece, at, f.isBetween())
			}
		}
	}
}
