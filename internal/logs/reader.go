package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// longestLine bounds what is taken for a line of the log; a longer one is skipped as damage.
const longestLine = 1 << 20

// Read calls each for every selected entry in order, over all rotated files. It tails by seeking from the end and
// follows by inotify, through rotations. A missing file is an empty log. Lines that are no entries are skipped.
func Read(ctx context.Context, path string, q Query, each func(Entry) error) error {
	r := &reader{path: path, query: q, each: each}
	defer r.close()
	if q.Follow {
		watch, err := newWatch(ctx, path, q)
		if err != nil {
			return fmt.Errorf("follow log %s: %w", path, err)
		}
		defer watch.close()
		r.watch = watch
	}
	err := r.run(ctx)
	if errors.Is(err, errUntil) {
		return nil
	}
	return err
}

// errUntil ends a reading at an entry that is too young.
var errUntil = errors.New("until")

// reader goes from the oldest file to the current one.
type reader struct {
	path  string
	query Query
	each  func(Entry) error
	watch *watch

	file    *os.File // being read; nil before the first
	pos     int64    // how far it has been read
	last    []byte   // the last bytes before pos, by which a truncation is noticed
	buf     []byte   // read and not yet parsed: the beginning of a line
	skip    bool     // within a line that is too long
	scratch []byte
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

func (r *reader) run(ctx context.Context) error {
	files, err := openAll(r.path)
	if err != nil {
		return err
	}
	if r.query.Tail >= 0 {
		if files, err = tail(files, r.query.Tail); err != nil {
			return fmt.Errorf("read log %s: %w", r.path, err)
		}
	}
	r.scratch = make([]byte, 32<<10)
	for {
		if err := r.readAll(ctx, files); err != nil {
			return err
		}
		if r.watch == nil {
			return nil
		}
		last := r.watch.over() // looked at before the reading that follows, so that nothing is missed
		if files, err = r.newer(); err != nil {
			return err
		}
		if len(files) > 0 || last {
			if err := r.readFile(ctx); err != nil { // the rest of the file that has been rotated away
				closeAll(files)
				return err
			}
			if last && len(files) == 0 {
				return nil
			}
			continue
		}
		if err := r.watch.wait(ctx); err != nil {
			return err
		}
		if err := r.rewind(); err != nil {
			return fmt.Errorf("read log %s: %w", r.path, err)
		}
		if err := r.readFile(ctx); err != nil {
			return err
		}
	}
}

// readAll reads files, oldest first, each to its end, and keeps the last one open.
func (r *reader) readAll(ctx context.Context, files []*os.File) error {
	for i, f := range files {
		r.close()
		if err := r.begin(f); err != nil {
			closeAll(files[i+1:])
			return fmt.Errorf("read log %s: %w", r.path, err)
		}
		if err := r.readFile(ctx); err != nil {
			closeAll(files[i+1:])
			return err
		}
	}
	return nil
}

// knownBytes is how much of what was read is compared to notice that the file has other content now. The end of an entry
// has a time to the nanosecond.
const knownBytes = 64

// begin goes on with a file, from where it stands.
func (r *reader) begin(f *os.File) error {
	r.file, r.buf, r.skip = f, r.buf[:0], false
	pos, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	r.pos, r.last = pos, make([]byte, min(pos, knownBytes), knownBytes)
	_, err = f.ReadAt(r.last, pos-int64(len(r.last)))
	return err
}

// advance notes what was read.
func (r *reader) advance(data []byte) {
	r.pos += int64(len(data))
	if len(data) >= knownBytes {
		r.last = append(r.last[:0], data[len(data)-knownBytes:]...)
		return
	}
	drop := max(0, len(r.last)+len(data)-knownBytes)
	r.last = append(append(r.last[:0], r.last[drop:]...), data...)
}

// rewind goes back to the beginning of a file that somebody has truncated, as logrotate's copytruncate does, even if
// it has grown past the old position since.
func (r *reader) rewind() error {
	if r.file == nil {
		return nil
	}
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() >= r.pos {
		now := make([]byte, len(r.last))
		if _, err := r.file.ReadAt(now, r.pos-int64(len(now))); err != nil && err != io.EOF {
			return err
		}
		if bytes.Equal(now, r.last) {
			return nil
		}
	}
	if _, err := r.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return r.begin(r.file)
}

// readFile reads from where it is to the present end of the file.
func (r *reader) readFile(ctx context.Context) error {
	if r.file == nil {
		return nil
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.file.Read(r.scratch)
		if n > 0 {
			r.advance(r.scratch[:n])
			if err := r.take(r.scratch[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
}

// take cuts what was read into lines.
func (r *reader) take(data []byte) error {
	for {
		n := bytes.IndexByte(data, '\n')
		if n < 0 {
			break
		}
		line := data[:n]
		data = data[n+1:]
		if len(r.buf) > 0 {
			r.buf = append(r.buf, line...)
			line = r.buf
		}
		skip := r.skip
		r.skip, r.buf = false, r.buf[:0]
		if skip {
			continue
		}
		if err := r.entry(line); err != nil {
			return err
		}
	}
	if len(r.buf)+len(data) > longestLine {
		r.skip, r.buf = true, nil
		return nil
	}
	r.buf = append(r.buf, data...)
	return nil
}

func (r *reader) entry(line []byte) error {
	e, err := parse(line)
	if err != nil {
		return nil // damage, of a host that crashed perhaps, does not hide the rest
	}
	if !r.query.Since.IsZero() && e.Time.Before(r.query.Since) {
		return nil
	}
	if !r.query.Until.IsZero() && e.Time.After(r.query.Until) {
		return errUntil
	}
	return r.each(e)
}

// newer opens the files that are younger than the one being read, oldest first.
func (r *reader) newer() ([]*os.File, error) {
	info, err := os.Stat(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	var own os.FileInfo
	if r.file != nil {
		if own, err = r.file.Stat(); err != nil {
			return nil, fmt.Errorf("read log %s: %w", r.path, err)
		}
		if os.SameFile(own, info) {
			return nil, nil
		}
	}
	files, err := openAll(r.path)
	if err != nil || own == nil {
		return files, err
	}
	for i, f := range files {
		if info, err := f.Stat(); err == nil && os.SameFile(own, info) {
			closeAll(files[:i+1])
			return files[i+1:], nil
		}
	}
	return writtenAfter(own, files), nil
}

// writtenAfter closes the files that are older than one that has no name of the log any more: it was removed, or somebody
// renamed it. The current file, the last one, always stays.
func writtenAfter(own os.FileInfo, files []*os.File) []*os.File {
	younger := files[:0]
	for i, f := range files {
		info, err := f.Stat()
		if i < len(files)-1 && err == nil && info.ModTime().Before(own.ModTime()) {
			_ = f.Close()
			continue
		}
		younger = append(younger, f)
	}
	return younger
}

// openAll opens the log's files, oldest first. A rotation meanwhile shows a file under two names: it is taken once.
func openAll(path string) ([]*os.File, error) {
	var files []*os.File
	var infos []os.FileInfo
	for i := 0; ; i++ {
		f, err := os.Open(rotated(path, i))
		if errors.Is(err, os.ErrNotExist) {
			if i == 0 {
				continue // between the two steps of a rotation
			}
			break
		}
		var info os.FileInfo
		if err == nil {
			if info, err = f.Stat(); err != nil {
				_ = f.Close()
			}
		}
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("read log: %w", err)
		}
		if known(infos, info) {
			_ = f.Close()
			continue
		}
		files, infos = append(files, f), append(infos, info)
	}
	for i, j := 0, len(files)-1; i < j; i, j = i+1, j-1 {
		files[i], files[j] = files[j], files[i]
	}
	return files, nil
}

func known(infos []os.FileInfo, info os.FileInfo) bool {
	for _, other := range infos {
		if os.SameFile(other, info) {
			return true
		}
	}
	return false
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// tail moves to the last n lines of all files together, and closes the files that have none of them.
func tail(files []*os.File, n int) ([]*os.File, error) {
	for i := len(files) - 1; i >= 0; i-- {
		f := files[i]
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		at, found, err := lastLinesCount(f, size, n)
		if err == nil {
			_, err = f.Seek(at, io.SeekStart)
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		if n -= found; n <= 0 {
			closeAll(files[:i])
			return files[i:], nil
		}
	}
	return files, nil
}
