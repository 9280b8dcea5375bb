package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/rawfile"
)

// Recover returns the spool that a dead supervisor left at path, or a new one. It finds out how much of the output the log
// has, hence nothing may be appended to the log before. The log must end with a whole line, as logs.OpenWriter leaves it.
func Recover(path, log string, warn func(string, error)) (*Spool, error) {
	s := New(path, warn)
	fd, err := rawfile.RetryValue(func() (int, error) { return unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0) })
	if err == unix.ENOENT {
		return s, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	s.fd = fd
	defer s.close()
	var info unix.Stat_t
	if err := rawfile.Retry(func() error { return unix.Fstat(fd, &info) }); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if info.Size < dataAt { // nothing is taken before there is a header
		return s, nil
	}
	s.made, s.taken = true, info.Size-dataAt
	if err := s.readHeader(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if s.intent.bytes == 0 {
		return s, nil
	}
	n, err := s.done(log)
	if err != nil { // better twice than never
		warn("lines may be logged twice", err)
	}
	s.logged, s.intent = min(s.logged+n, s.taken), intent{}
	if err := s.writeHeader(); err != nil {
		return nil, &os.PathError{Op: "write", Path: path, Err: err}
	}
	return s, nil
}

func (s *Spool) readHeader() error {
	var b [dataAt]byte
	if _, err := readAt(s.fd, b[:], 0); err != nil {
		return err
	}
	if !bytes.HasPrefix(b[:], []byte(magic)) {
		return errors.New("it is not the spool of an output")
	}
	var v [5]int64
	for i := range v {
		v[i] = int64(binary.LittleEndian.Uint64(b[8+8*i:]))
	}
	s.logged, s.intent = v[0], intent{bytes: v[1], ino: uint64(v[2]), at: v[3], length: v[4]}
	if s.logged < 0 || s.logged > s.taken || s.intent.bytes < 0 || s.intent.at < 0 || s.intent.length < 0 {
		return errors.New("its header is damaged")
	}
	return nil
}

// done returns how many bytes of the output the append that was under way has brought into the log.
func (s *Spool) done(log string) (int64, error) {
	f, size, err := find(log, s.intent.ino)
	if err != nil || f == nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	if size >= s.intent.at+s.intent.length {
		return s.intent.bytes, nil
	}
	if size <= s.intent.at { // smaller: someone else has truncated it
		return 0, nil
	}
	entries, err := countLines(io.NewSectionReader(f, s.intent.at, size-s.intent.at))
	if err != nil {
		return 0, err
	}
	var n int64
	line := make([]byte, logs.MaxLine+1)
	for range entries {
		rest := line[:min(int64(len(line)), s.taken-s.logged-n)]
		if _, err := readAt(s.fd, rest, dataAt+s.logged+n); err != nil {
			return 0, err
		}
		n += int64(logs.LineLen(rest))
	}
	return n, nil
}

// find opens the file of a log that has an inode: others may have renamed it. The file is nil if there is none.
func find(log string, ino uint64) (f *os.File, size int64, err error) {
	for _, name := range []string{log, log + ".1"} {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		if inode(info) == ino {
			return f, info.Size(), nil
		}
		_ = f.Close()
	}
	return nil, 0, nil
}

func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

func countLines(r io.Reader) (n int, err error) {
	b := make([]byte, 32<<10)
	for {
		m, err := r.Read(b)
		n += bytes.Count(b[:m], []byte("\n"))
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// Replay gives what the log lacks to write, which calls Begin and Done.
func (s *Spool) Replay(write func([]byte) error) error {
	s.mu.Lock()
	at, end := s.logged, s.taken
	s.mu.Unlock()
	if at == end {
		return nil
	}
	f, err := rawfile.Open(s.path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 32<<10)
	var failed error
	for at < end {
		n, err := f.ReadAt(b[:min(int64(len(b)), end-at)], dataAt+at)
		if n == 0 {
			return errors.Join(failed, err)
		}
		if err := write(b[:n]); err != nil { // the log counts what it loses
			failed = err
		}
		at += int64(n)
	}
	return failed
}
