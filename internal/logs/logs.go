// Package logs writes and reads container logs in Docker's json-file format: one JSON object a line
// ({"log":"…\n","stream":"stdout","time":"RFC 3339 with nanoseconds"}), rotated as FILE, FILE.1, FILE.2, ….
//
// The supervisor writes, the engine reads; the file is all that is between them, so no line depends on the engine.
package logs

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stream tells the two outputs of a process apart. The numbers are those of Docker's multiplexed stream header.
type Stream byte

const (
	Stdin  Stream = 0
	Stdout Stream = 1
	Stderr Stream = 2
)

// String is the stream's name in the log.
func (s Stream) String() string {
	return [...]string{"stdin", "stdout", "stderr"}[min(s, Stderr)]
}

// Options are where and how much.
type Options struct {
	Path     string
	MaxSize  int64             // bytes before a rotation; 0: never
	MaxFiles int               // how many files are kept in all; at least 1
	Attrs    map[string]string // labels and environment, from log-opts
}

const scheme = "json-file"

// URI gives the options the form that a Task's stdout and stderr carry to the supervisor:
// json-file:///path?max-size=10485760&max-file=3. ParseURI is the way back.
func (o Options) URI() string {
	query := url.Values{}
	if o.MaxSize > 0 {
		query.Set("max-size", strconv.FormatInt(o.MaxSize, 10))
	}
	if o.MaxFiles > 0 {
		query.Set("max-file", strconv.Itoa(o.MaxFiles))
	}
	for key, value := range o.Attrs {
		query.Add("attr", key+"="+value)
	}
	u := url.URL{Scheme: scheme, Path: o.Path, OmitHost: false, RawQuery: query.Encode()}
	return u.String()
}

// ParseURI reads what URI wrote.
func ParseURI(uri string) (Options, error) {
	bad := func(why string) (Options, error) { return Options{}, fmt.Errorf("log address %q: %s", uri, why) }
	u, err := url.Parse(uri)
	if err != nil {
		return bad(err.Error())
	}
	if u.Scheme != scheme || u.Host != "" || !filepath.IsAbs(u.Path) {
		return bad("want " + scheme + ":///absolute/path")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad(err.Error())
	}
	o := Options{Path: u.Path, MaxFiles: 1}
	for key, values := range query {
		switch value := values[0]; key {
		case "max-size":
			if o.MaxSize, err = strconv.ParseInt(value, 10, 64); err != nil || o.MaxSize < 0 {
				return bad("max-size is not a number of bytes")
			}
		case "max-file":
			if o.MaxFiles, err = strconv.Atoi(value); err != nil || o.MaxFiles < 1 {
				return bad("max-file is not a number of at least 1")
			}
		case "attr":
			o.Attrs = make(map[string]string, len(values))
			for _, attr := range values {
				name, text, _ := strings.Cut(attr, "=")
				o.Attrs[name] = text
			}
		default:
			return bad("unknown option " + key)
		}
	}
	return o, nil
}

// Entry is one line. It may be kept.
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

// Frame writes one frame of Docker's multiplexed stream: 8 bytes of header (stream, 0, 0, 0, length big-endian), payload.
func Frame(w io.Writer, s Stream, payload []byte) error {
	_, err := w.Write(AppendFrame(make([]byte, 0, frameHeader+len(payload)), s, payload))
	return err
}

const frameHeader = 8

// AppendFrame appends a frame to b.
func AppendFrame(b []byte, s Stream, payload []byte) []byte {
	b = append(b, byte(s), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}
