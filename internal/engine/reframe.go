package engine

import (
	"encoding/binary"
	"io"

	"gantry/internal/logs"
)

// reframe gives the output of a stream the form that its client expects: raw bytes, or frames of the multiplexed
// stream. As with docker, a client that expects raw bytes of a process without a terminal gets its standard output alone.
func reframe(s Stream, isRaw, wantRaw bool) Stream {
	switch {
	case isRaw && !wantRaw:
		return &reframed{Stream: s, output: &framer{from: s}}
	case !isRaw && wantRaw:
		return &reframed{Stream: s, output: &deframer{from: s, stream: logs.Stdout}}
	}
	return s
}

type reframed struct {
	Stream
	output io.Reader
}

func (r *reframed) Read(p []byte) (int, error) { return r.output.Read(p) }

// framer makes each piece of raw output a frame of standard output.
type framer struct {
	from io.Reader
	rest []byte // of a frame, not read yet
	err  error  // follows the rest
}

func (f *framer) Read(p []byte) (int, error) {
	if len(f.rest) == 0 && f.err == nil {
		buf := make([]byte, 32<<10)
		var n int
		if n, f.err = f.from.Read(buf); n > 0 {
			f.rest = logs.AppendFrame(nil, logs.Stdout, buf[:n])
		}
	}
	if len(f.rest) == 0 {
		return 0, f.err
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// deframer returns the payload of one stream's frames and drops the others.
type deframer struct {
	from   io.Reader
	stream logs.Stream
	left   int64 // of the payload being read
}

func (d *deframer) Read(p []byte) (int, error) {
	for d.left == 0 {
		var header [8]byte
		if _, err := io.ReadFull(d.from, header[:]); err != nil {
			return 0, err
		}
		size := int64(binary.BigEndian.Uint32(header[4:]))
		if logs.Stream(header[0]) == d.stream {
			d.left = size
		} else if _, err := io.CopyN(io.Discard, d.from, size); err != nil {
			return 0, err
		}
	}
	n, err := d.from.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	return n, err
}
