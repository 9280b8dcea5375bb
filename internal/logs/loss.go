package logs

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// loss counts the lines that could not be written since the log last could, say because the disk is full. They are not
// kept, since nothing bounds them, and output does not wait, since a full disk would stop the container. A mark in the
// log tells of them as soon as it can be written again.
type loss struct {
	lines, bytes int64
	since        time.Time
	cause        error
}

// retryAfter is how long a mark that could not be written waits, unless more output comes before.
const retryAfter = time.Second

// lose counts entries as lost. mu is held.
func (w *Writer) lose(entries []byte, cause error) {
	l := &w.lost
	l.cause = cause
	for line := range bytes.Lines(entries) {
		if l.lines == 0 {
			l.since = time.Now()
		}
		l.lines++
		if e, err := parse(bytes.TrimSuffix(line, []byte("\n"))); err == nil {
			l.bytes += int64(len(e.Line))
		}
	}
	if l.lines == 0 {
		return
	}
	if w.retry == nil {
		w.retry = time.AfterFunc(retryAfter, w.mark)
	} else {
		w.retry.Reset(retryAfter)
	}
}

// mark tries to write the mark of a loss, for a container that prints nothing more.
func (w *Writer) mark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.lost.lines == 0 {
		return
	}
	w.check()
	_ = w.append(nil, nil) // it is tried again
}

// text is the line that stands in the log for those that were lost.
func (l *loss) text() []byte {
	var cause error = l.cause
	if errno, ok := errors.AsType[syscall.Errno](cause); ok {
		cause = errno
	}
	lines := "lines"
	if l.lines == 1 {
		lines = "line"
	}
	return fmt.Appendf(nil, "gantry: %d %s of output (%d bytes) since %s are missing here: the log could not be written: %v\n",
		l.lines, lines, l.bytes, l.since.UTC().Format(time.RFC3339), cause)
}
