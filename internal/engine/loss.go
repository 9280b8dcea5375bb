package engine

import (
	"context"
	"encoding/binary"

	task "github.com/containerd/containerd/api/runtime/task/v3"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
)

// isGone reports whether a supervisor was killed, or is ending. A stream that it served can end a moment before the connection
// is known to be closed, so it is asked.
func isGone(ctx context.Context, shim *client.Shim) bool {
	select {
	case <-shim.Closed():
		return true
	default:
	}
	_, err := shim.Task.Connect(ctx, &task.ConnectRequest{})
	return lost(ctx, native(err))
}

// lossMessage is a message on a stream whose supervisor was killed.
func lossMessage(text string, tty bool, r client.AttachRequest) []byte {
	if tty {
		return []byte("\r\ngantry: " + text + "\r\n")
	}
	stream := logs.Stderr
	if !r.Stderr {
		stream = logs.Stdout
	}
	return logs.AppendFrame(nil, stream, []byte("gantry: "+text+"\n"))
}

// frameReader follows the frames of a multiplexed stream, to know whether the stream is between two frames.
type frameReader struct {
	header [8]byte
	have   int   // bytes of the header
	left   int64 // bytes of the payload that are still to come
}

// pass follows the next bytes of the stream.
func (f *frameReader) pass(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, int64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		n := copy(f.header[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have == len(f.header) {
			f.have, f.left = 0, int64(binary.BigEndian.Uint32(f.header[4:]))
		}
	}
}

// isBetween reports that the last frame is complete.
func (f *frameReader) isBetween() bool { return f.have == 0 && f.left == 0 }
