// Package spool keeps what a supervisor takes out of a container's FIFO until the log has it, so that a supervisor that
// is killed loses no line and its successor writes none twice.
//
//	FIFO ──splice(2)──► spool file ──read──► log
//	                    ▲ header: how far the log is
//
// The kernel moves output from the FIFO to the file in one system call, so the file's size says exactly how much was
// taken. The header says how much of it is logged. Around each append to the log it also holds an intent: which part of
// which file the append will fill. The size of the log tells a successor how much of the append was done.
//
//	0      64                 logged             size
//	┌──────┬──────────────────┬──────────────────┐
//	│header│ freed, page-wise │ to be logged     │
//	└──────┴──────────────────┴──────────────────┘
//
// A file only grows, and what is logged becomes a hole. Hence no reset can go wrong half way. An idle spool has no open
// descriptor, and its file at most the last page of each part plus the beginning of a line.
package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/rawfile"
)

// Spool is the spool of one output. Its methods may be called from several goroutines, but Fill, Idle, and Replay from one
// at a time. A nil *Spool reads the FIFO without a file.
type Spool struct {
	path string
	warn func(string, error)

	mu     sync.Mutex // guards what follows
	fd     int        // -1: closed
	made   bool       // the file exists
	busy   bool       // Fill needs the descriptor: output is on its way
	direct bool       // the FIFO is read without the file: it was removed, or cannot be used
	taken  int64      // bytes taken out of the FIFO
	logged int64      // bytes of them that the log has
	freed  int64      // bytes of the file that are a hole
	intent intent
}

// intent is an append to the log that is under way.
type intent struct {
	bytes  int64  // of the output; 0: no append is under way
	ino    uint64 // of the log
	at     int64  // where in the log
	length int64  // of the entries
}

const (
	magic  = "gantry1\n"
	dataAt = 64        // where the output begins in the file; the header is before
	freeAt = 256 << 10 // how much is freed at once while output goes on
)

// New returns a spool whose file is made when there is output. warn reports that it cannot be used.
func New(path string, warn func(string, error)) *Spool {
	return &Spool{path: path, warn: warn, fd: -1}
}

// Fill reads output from a FIFO into b, like read(2) of a nonblocking descriptor, and keeps it in the file.
func (s *Spool) Fill(fifo int, b []byte) (n int, err error) {
	if s == nil {
		return readFIFO(fifo, b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.direct {
		return readFIFO(fifo, b)
	}
	if s.fd < 0 {
		if end, err := nothing(fifo); end || err != nil { // no reason to open the file
			return 0, err
		}
		if err := s.open(); err != nil {
			s.giveUp(err)
			return readFIFO(fifo, b)
		}
	}
	s.busy = true
	at := dataAt + s.taken
	moved, err := rawfile.RetryValue(func() (int64, error) {
		return unix.Splice(fifo, nil, s.fd, &at, len(b), unix.SPLICE_F_NONBLOCK)
	})
	switch {
	case err == unix.EAGAIN:
		return 0, err
	case err != nil:
		s.giveUp(fmt.Errorf("move output to %s: %w", s.path, err))
		return readFIFO(fifo, b)
	}
	at = dataAt + s.taken
	s.taken += moved
	if n, err = readAt(s.fd, b[:moved], at); err != nil {
		s.giveUp(err)
		if n == 0 {
			return readFIFO(fifo, b)
		}
	}
	return n, nil
}

// nothing reports whether a FIFO is at its end. The error is EAGAIN if it is merely empty.
func nothing(fifo int) (end bool, err error) {
	fds := []unix.PollFd{{Fd: int32(fifo), Events: unix.POLLIN}}
	if n, err := rawfile.Poll(fds, 0); err != nil {
		return false, err
	} else if n == 0 {
		return false, unix.EAGAIN
	}
	return fds[0].Revents&unix.POLLIN == 0, nil
}

func readFIFO(fifo int, b []byte) (int, error) {
	return rawfile.RetryValue(func() (int, error) { return unix.Read(fifo, b) })
}

// readAt fills b.
func readAt(fd int, b []byte, at int64) (n int, err error) {
	for n < len(b) {
		m, err := rawfile.RetryValue(func() (int, error) { return unix.Pread(fd, b[n:], at+int64(n)) })
		if err != nil {
			return n, os.NewSyscallError("pread", err)
		}
		if m == 0 {
			return n, errors.New("a spool is shorter than what was taken")
		}
		n += m
	}
	return n, nil
}

// open opens the file, which is empty at first: an earlier container of the same name may have left one. mu is held.
func (s *Spool) open() error {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if !s.made {
		flags |= unix.O_CREAT | unix.O_TRUNC
	}
	fd, err := rawfile.RetryValue(func() (int, error) { return unix.Open(s.path, flags, 0o600) })
	if err != nil {
		return &os.PathError{Op: "open", Path: s.path, Err: err}
	}
	if s.fd = fd; s.made {
		return nil
	}
	// Without holes the file would grow for ever.
	if err = rawfile.Retry(func() error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, pageSize)
	}); err == nil {
		err = s.writeHeader()
	}
	if err != nil {
		err = errors.Join(&os.PathError{Op: "prepare", Path: s.path, Err: err}, os.Remove(s.path))
		s.close()
		return err
	}
	s.made = true
	return nil
}

// giveUp goes on without the file, for good: the parts of a line must not be kept half here, half there. mu is held.
func (s *Spool) giveUp(err error) {
	again := s.direct
	s.direct, s.busy = true, false
	if !again && !errors.Is(err, unix.EOPNOTSUPP) { // a filesystem without holes
		s.warn("output is no longer kept until it is logged", err)
	}
}

func (s *Spool) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// Idle frees what the log has and closes the file: nothing is in the FIFO at the moment.
func (s *Spool) Idle() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if s.fd >= 0 {
		s.free()
		s.close()
	}
}

var pageSize = int64(os.Getpagesize())

// free makes a hole of the pages of what the log has. mu is held.
func (s *Spool) free() {
	// The page of the header stays.
	from, to := max(dataAt+s.freed, pageSize)&^(pageSize-1), (dataAt+s.logged)&^(pageSize-1)
	if from >= to {
		return
	}
	// If this fails, the next one includes it.
	if rawfile.Retry(func() error {
		return unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	}) == nil {
		s.freed = to - dataAt
	}
}

// writeHeader writes the header in one system call within one page: it is never there in part. mu is held.
func (s *Spool) writeHeader() error {
	var b [dataAt]byte
	copy(b[:], magic)
	for i, v := range []int64{s.logged, s.intent.bytes, int64(s.intent.ino), s.intent.at, s.intent.length} {
		binary.LittleEndian.PutUint64(b[8+8*i:], uint64(v))
	}
	_, err := rawfile.RetryValue(func() (int, error) { return unix.Pwrite(s.fd, b[:], 0) })
	return err
}

// update writes the header, opening the file for the time if no output is on its way. mu is held.
func (s *Spool) update() {
	if !s.made {
		return
	}
	var err error
	if s.fd < 0 {
		err = s.open()
	}
	if err == nil {
		if err = s.writeHeader(); err != nil {
			err = &os.PathError{Op: "write", Path: s.path, Err: err}
		}
	}
	if err != nil { // a file that does not say what is logged would have it logged twice
		s.giveUp(err)
		s.close()
		s.made = false
		_ = os.Remove(s.path)
		return
	}
	if s.logged-s.freed >= freeAt {
		s.free()
	}
	if !s.busy && s.intent.bytes == 0 {
		s.close()
	}
}

// Begin implements logs.Journal.
func (s *Spool) Begin(n int64, file fs.FileInfo, at, length int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intent = intent{bytes: n, ino: inode(file), at: at, length: length}
	s.update()
}

// Done implements logs.Journal.
func (s *Spool) Done(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intent = intent{}
	s.logged = min(s.logged+n, s.taken) // what was read without the file does not count
	s.update()
}

// Remove removes the file. Output that still comes, of a descendant of the container's process, is read without one.
func (s *Spool) Remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.direct, s.made = true, false
	s.close()
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

var _ logs.Journal = (*Spool)(nil)
