package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"
)

// MaxLine is how much of a line is logged as one entry; a longer line becomes several without a newline but the last.
const MaxLine = 16 << 10

// LineLen returns how many of the bytes at the beginning of a line become its first entry.
func LineLen(b []byte) int {
	if n := bytes.IndexByte(b[:min(len(b), MaxLine)], '\n') + 1; n > 0 {
		return n
	}
	return min(len(b), MaxLine)
}

// Journal is told which bytes of a stream an append brings into the log, so that whoever comes after a crash neither loses
// nor repeats a line.
type Journal interface {
	// Begin is called before the entries of the next n bytes are written to file from offset at on. They have length bytes.
	Begin(n int64, file os.FileInfo, at, length int64)
	// Done is called when the next n bytes are in the log, or counted as lost.
	Done(n int64)
}

// Writer appends entries. It is safe for the two copying goroutines of one container.
type Writer struct {
	options Options
	attrs   []byte

	mu      sync.Mutex // guards what follows
	file    *os.File   // nil after a rotation that got half way, say on a full disk
	info    os.FileInfo
	closed  bool
	size    int64
	buf     []byte // entries on their way into the file; empty between calls
	raw     int64  // bytes of a stream that buf holds the entries of
	journal [Stderr + 1]Journal
	partial [Stderr + 1][]byte
	lost    loss
	retry   *time.Timer // writes the mark of a loss; nil before the first one
}

// OpenWriter opens or creates the log, repairing a torn last line.
func OpenWriter(o Options) (*Writer, error) {
	attrs, err := encodeAttrs(o.Attrs)
	if err != nil {
		return nil, fmt.Errorf("open log %s: attributes: %w", o.Path, err)
	}
	w := &Writer{options: o, attrs: attrs}
	if err := w.open(); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.options.Path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	var size int64
	if err == nil {
		size, err = repair(f)
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open log %s: %w", w.options.Path, err)
	}
	w.file, w.info, w.size = f, info, size
	return nil
}

// check looks for what others have done to the log since the last chunk. After a truncation the size is another one. A
// file that was renamed or deleted is left for one of the log's name, unless that cannot be opened, say because the
// whole directory is gone.
func (w *Writer) check() {
	if w.file == nil || w.closed {
		return
	}
	info, err := os.Stat(w.options.Path)
	switch {
	case err == nil && os.SameFile(info, w.info):
		w.size = info.Size()
	case err == nil, errors.Is(err, os.ErrNotExist):
		old := w.file
		if w.open() == nil {
			_ = old.Close() // nothing waits to be written
		}
	}
}

// repair cuts off a last line without a newline, which a crash left, and returns the size.
func repair(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("not a regular file")
	}
	end, err := lastLines(f, info.Size(), 0)
	if err != nil || end == info.Size() {
		return end, err
	}
	return end, f.Truncate(end)
}

// Write logs chunk, cut into lines at newlines; a line without one is held back until its end, 16 KiB, or Flush.
// All the lines of a chunk bear the time at and reach the file in one write(2), so that no reader sees half a line.
func (w *Writer) Write(s Stream, chunk []byte, at time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.check()
	var errs []error
	var stamp [len(time.RFC3339Nano)]byte
	when := appendTime(stamp[:0], at)
	for len(chunk) > 0 {
		held := w.partial[s]
		n, whole := bytes.IndexByte(chunk, '\n')+1, true
		if n == 0 {
			n, whole = len(chunk), false
		}
		if room := MaxLine - len(held); n > room {
			n, whole = room, true
		}
		line := chunk[:n]
		chunk = chunk[n:]
		if len(held) > 0 || !whole {
			line = append(held, line...)
			w.partial[s] = line
		}
		if !whole && len(line) < MaxLine {
			break
		}
		w.partial[s] = w.partial[s][:0]
		if err := w.add(line, s, when); err != nil {
			errs = append(errs, err)
		}
	}
	if len(w.partial[s]) == 0 {
		w.partial[s] = nil // an idle stream holds no memory
	}
	return firstOf(append(errs, w.flush(s)))
}

// SetJournal makes j follow what of a stream is in the log.
func (w *Writer) SetJournal(s Stream, j Journal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.journal[s] = j
}

// firstOf returns the first error: the lines of a chunk fail for the same reason.
func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Flush writes a held-back last line of a stream that has ended.
func (w *Writer) Flush(s Stream) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := w.partial[s]
	if len(line) == 0 {
		return nil
	}
	w.partial[s] = nil
	w.check()
	return firstOf([]error{w.add(line, s, appendTime(nil, time.Now())), w.flush(s)})
}

// Close writes what is held back and closes the file.
func (w *Writer) Close() error {
	err := errors.Join(w.Flush(Stdout), w.Flush(Stderr))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return err
	}
	if w.retry != nil {
		w.retry.Stop()
	}
	if w.lost.lines > 0 {
		if markErr := w.append(nil, nil); markErr != nil {
			err = errors.Join(err, fmt.Errorf("the log's end lacks %d lines (%d bytes): %w", w.lost.lines, w.lost.bytes, markErr))
		}
	}
	w.closed = true
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
		w.file = nil
	}
	return err
}

// flushAt bounds the memory of a chunk's entries.
const flushAt = 64 << 10

// buffers are shared by all logs: one that is idle holds none.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, flushAt+8*MaxLine)
	return &b
}}

func (w *Writer) add(line []byte, s Stream, when []byte) error {
	if w.buf == nil {
		w.buf = (*buffers.Get().(*[]byte))[:0]
	}
	start := len(w.buf)
	w.buf = appendEntry(w.buf, line, s, w.attrs, when)
	var err error
	if limit := w.options.MaxSize; limit > 0 && w.size+int64(len(w.buf)) > limit && w.size+int64(start) > 0 {
		entry := append([]byte(nil), w.buf[start:]...)
		w.buf = w.buf[:start]
		if err = w.flush(s); err == nil {
			err = w.rotate() // a log that cannot be rotated goes on to grow
		}
		if w.buf == nil {
			w.buf = (*buffers.Get().(*[]byte))[:0]
		}
		w.buf = append(w.buf, entry...)
	}
	w.raw += int64(len(line))
	if len(w.buf) >= flushAt {
		return firstOf([]error{err, w.flush(s)})
	}
	return err
}

// flush writes the entries, all of one stream. Those that cannot be written are lost.
func (w *Writer) flush(s Stream) error {
	if len(w.buf) == 0 {
		return nil
	}
	defer func() {
		if j := w.journal[s]; j != nil {
			j.Done(w.raw)
		}
		b := w.buf[:0]
		buffers.Put(&b)
		w.buf, w.raw = nil, 0
	}()
	return w.append(w.buf, w.journal[s])
}

// append writes entries, after the mark of what was lost before them. What part of an entry was written when an error
// came is taken back.
func (w *Writer) append(entries []byte, j Journal) error {
	if w.closed {
		return fmt.Errorf("write log: %w", os.ErrClosed)
	}
	if w.file == nil {
		if err := w.open(); err != nil {
			w.lose(entries, err)
			return err
		}
	}
	out, marked := entries, 0
	if w.lost.lines > 0 {
		mark := appendEntry(nil, w.lost.text(), Stderr, w.attrs, appendTime(nil, time.Now()))
		out, marked = append(mark, entries...), len(mark)
	}
	if j != nil {
		j.Begin(w.raw, w.info, w.size+int64(marked), int64(len(entries)))
	}
	n, err := w.file.Write(out)
	w.size += int64(n)
	whole := bytes.LastIndexByte(out[:n], '\n') + 1
	switch {
	case marked == 0:
	case whole == marked && len(entries) > 0: // more is lost: one mark will tell of it all
		whole = 0
	case whole >= marked:
		w.lost = loss{}
	}
	if err == nil {
		return nil
	}
	if whole < n {
		w.size -= int64(n - whole)
		if cutErr := w.file.Truncate(w.size); cutErr != nil { // it is repaired when it is opened again
			err = errors.Join(err, cutErr, w.file.Close())
			w.file = nil
		}
	}
	w.lose(out[max(whole, marked):], err)
	return fmt.Errorf("write log: %w", err)
}

// rotate makes FILE FILE.1, FILE.1 FILE.2 and so on. Who reads the old file can go on to its end.
func (w *Writer) rotate() error {
	err := w.file.Close()
	w.file = nil
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if w.options.MaxFiles <= 1 {
		err = os.Remove(w.options.Path)
	}
	for i := w.options.MaxFiles - 1; i > 0; i-- {
		from := rotated(w.options.Path, i-1)
		if e := os.Rename(from, rotated(w.options.Path, i)); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = e
			break
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("rotate log: %w", err)
	}
	return w.open()
}

// rotated is the name of the file that is i rotations old.
func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// lastLines returns where the last n whole lines of the first size bytes of a file begin; for n = 0, where they end.
// It reads backwards, block by block. If there are fewer lines, the result is 0.
func lastLines(f io.ReaderAt, size int64, n int) (int64, error) {
	at, _, err := lastLinesCount(f, size, n)
	return at, err
}

// lastLinesCount is lastLines and tells how many lines there are from the result on (at most n).
func lastLinesCount(f io.ReaderAt, size int64, n int) (at int64, found int, err error) {
	block := make([]byte, 32<<10)
	found = -1 // the newline that ends the last line begins none
	for end := size; end > 0; {
		start := max(0, end-int64(len(block)))
		part := block[:end-start]
		if _, err := f.ReadAt(part, start); err != nil {
			return 0, 0, err
		}
		for i := len(part); i > 0; i-- {
			j := bytes.LastIndexByte(part[:i], '\n')
			if j < 0 {
				break
			}
			if found++; found == n {
				return start + int64(j) + 1, n, nil
			}
			i = j + 1
		}
		end = start
	}
	return 0, found + 1, nil
}
