package engine

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"gantry/internal/logs"
)

func TestReframe(t *testing.T) {
	frames := logs.AppendFrame(logs.AppendFrame(logs.AppendFrame(nil, logs.Stdout, []byte("out\n")), logs.Stderr, []byte("err\n")), logs.Stdout, []byte("more"))
	for _, c := range []struct {
		name           string
		in             []byte
		isRaw, wantRaw bool
		want           []byte
	}{
		{"raw as it is", []byte("text"), true, true, []byte("text")},
		{"frames as they are", frames, false, false, frames},
		{"frames to raw", frames, false, true, []byte("out\nmore")},
		{"raw to frames", []byte("text"), true, false, logs.AppendFrame(nil, logs.Stdout, []byte("text"))},
		{"nothing to raw", nil, false, true, []byte{}},
		{"nothing to frames", nil, true, false, []byte{}},
	} {
		got, err := io.ReadAll(reframe(messageStream{bytes.NewReader(c.in)}, c.isRaw, c.wantRaw))
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	got, err := io.ReadAll(reframe(messageStream{iotest.OneByteReader(bytes.NewReader(frames))}, false, true))
	if err != nil || string(got) != "out\nmore" {
		t.Errorf("frames in pieces: %q, %v", got, err)
	}
	if _, err := io.ReadAll(reframe(messageStream{bytes.NewReader(frames[:5])}, false, true)); err != io.ErrUnexpectedEOF {
		t.Errorf("half a header: %v", err)
	}
}
