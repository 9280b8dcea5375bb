package docker

import (
	"encoding/binary"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"gantry/internal/engine"
	"gantry/internal/logs"
)

// stampFormat is RFC 3339 with all nine digits of the nanoseconds, so that lines align and sort.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// logPrinter gives entries the form that the client asked for.
type logPrinter struct {
	tty, timestamps, details bool

	payload, frame []byte // reused
}

// print returns the bytes of one entry, valid until the next call.
func (p *logPrinter) print(e logs.Entry) []byte {
	p.payload = p.payload[:0]
	if p.timestamps {
		p.payload = append(e.Time.UTC().AppendFormat(p.payload, stampFormat), ' ')
	}
	if p.details {
		p.payload = append(appendAttrs(p.payload, e.Attrs), ' ')
	}
	p.payload = append(p.payload, e.Line...)
	if p.tty {
		return p.payload
	}
	p.frame = appendFrame(p.frame[:0], e.Stream, p.payload)
	return p.frame
}

// appendFrame appends one frame of the multiplexed stream: stream, 0, 0, 0, length big-endian, payload.
func appendFrame(b []byte, s logs.Stream, payload []byte) []byte {
	b = append(b, byte(s), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// appendAttrs appends key=value pairs in order, escaped and separated by commas.
func appendAttrs(b []byte, attrs map[string]string) []byte {
	for i, key := range slices.Sorted(maps.Keys(attrs)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, url.QueryEscape(key)...)
		b = append(b, '=')
		b = append(b, url.QueryEscape(attrs[key])...)
	}
	return b
}

// tail is the number of last lines wanted. Anything that is not a number means all, as in moby.
func tail(s string) int {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		return n
	}
	return -1
}

func (s *server) containerLogs(w *response, r *http.Request) error {
	q := r.URL.Query()
	query := engine.LogQuery{Stdout: boolean(q, "stdout"), Stderr: boolean(q, "stderr")}
	if !query.Stdout && !query.Stderr {
		return badRequest("Bad parameters: you must choose at least one stream")
	}
	var err error
	if query.Since, query.Until, err = bounds(q); err != nil {
		return err
	}
	query.Tail, query.Follow = tail(q.Get("tail")), boolean(q, "follow")
	id := r.PathValue("id")
	c, err := s.backend.InspectContainer(r.Context(), id, false)
	if err != nil {
		return err
	}
	p := logPrinter{tty: c.Config != nil && c.Config.Tty, timestamps: boolean(q, "timestamps"), details: boolean(q, "details")}
	w.Header()["Content-Type"] = []string{streamMedia(w.version, p.tty)}
	out := &lazyFlusher{w: w}
	defer out.stop()
	if query.Follow {
		w.WriteHeader(http.StatusOK)
		w.Flush()
	}
	err = s.backend.LogsContainer(r.Context(), id, query, func(e logs.Entry) error {
		return out.write(p.print(e), query.Follow)
	})
	if err == nil || r.Context().Err() != nil {
		return nil
	}
	if !w.started {
		return err
	}
	// The answer has begun, so the error travels in it.
	return out.write(p.print(logs.Entry{Line: []byte("Error grabbing logs: " + err.Error() + "\n"), Stream: logs.Stderr, Time: time.Now()}), false)
}

// flushDelay is how long written lines wait for more before they are sent.
const flushDelay = time.Millisecond

// lazyFlusher sends what was written after a moment, so that a thousand lines cost a few system calls and one line no wait
// that a human notices.
type lazyFlusher struct {
	w *response

	mu      sync.Mutex // guards w's writing and what follows
	timer   *time.Timer
	pending bool
	stopped bool
}

func (f *lazyFlusher) write(p []byte, soon bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(p)
	if soon && !f.pending {
		f.pending = true
		if f.timer == nil {
			f.timer = time.AfterFunc(flushDelay, f.flush)
		} else {
			f.timer.Reset(flushDelay)
		}
	}
	return err
}

func (f *lazyFlusher) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = false
	if !f.stopped { // the response must not be used once its handler has returned
		f.w.Flush()
	}
}

// stop ends the timer; the server itself sends what is left.
func (f *lazyFlusher) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	if f.timer != nil {
		f.timer.Stop()
	}
}
