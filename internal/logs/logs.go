// Package logs writes and reads container logs in Docker's json-file format: one JSON object a line
// ({"log":"…\n","stream":"stdout","time":"RFC 3339 with nanoseconds"}), rotated as FILE, FILE.1, FILE.2, ….
//
// The supervisor writes, the engine reads; the file is all that is between them, so no line depends on the engine.
package logs

import (
	"context"
	"io"
	"time"
)

// Stream tells the two outputs of a process apart. The numbers are those of Docker's multiplexed stream header.
type Stream byte

const (
	Stdin  Stream = 0
	Stdout Stream = 1
	Stderr Stream = 2
)

// Options are where and how much.
type Options struct {
	Path     string
	MaxSize  int64             // bytes before a rotation; 0: never
	MaxFiles int               // how many files are kept in all; at least 1
	Attrs    map[string]string // labels and environment, from log-opts
}

// URI gives the options the form that a Task's stdout and stderr carry to the supervisor:
// json-file:///path?max-size=10485760&max-file=3. ParseURI is the way back.
func (o Options) URI() string              { panic("contract") }
func ParseURI(uri string) (Options, error) { panic("contract") }

// Writer appends entries. It is safe for the two copying goroutines of one container.
type Writer struct{}

// OpenWriter opens or creates the log, repairing a torn last line.
func OpenWriter(o Options) (*Writer, error) { panic("contract") }

// Write logs chunk, cut into lines at newlines; a line without one is held back until its end, 16 KiB, or Flush.
func (w *Writer) Write(s Stream, chunk []byte, at time.Time) error { panic("contract") }

// Flush writes a held-back last line of a stream that has ended.
func (w *Writer) Flush(s Stream) error { panic("contract") }
func (w *Writer) Close() error         { panic("contract") }

// Entry is one line.
type Entry struct {
	Line   []byte // newline included if it had one
	Stream Stream
	Time   time.Time
	Attrs  map[string]string
}

// Query selects entries.
type Query struct {
	Since, Until time.Time // zero: no bound
	Tail         int       // last lines; negative: all
	Follow       bool      // wait for more until ctx ends or Done is closed and the file is read to its end
	Done         <-chan struct{}
}

// Read calls each for every selected entry in order, over all rotated files. It tails by seeking from the end and
// follows by inotify, through rotations. A missing file is an empty log.
func Read(ctx context.Context, path string, q Query, each func(Entry) error) error { panic("contract") }

// Frame writes one frame of Docker's multiplexed stream: 8 bytes of header (stream, 0, 0, 0, length big-endian), payload.
func Frame(w io.Writer, s Stream, payload []byte) error { panic("contract") }
