package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// QueryKeep is the query for the descriptors that must outlive the supervisor. The answer is {}, then a line of JSON (KeepLine)
// for each one that the supervisor has, a line that says so, and a line for each change, until either side goes. A line that
// names a descriptor carries it (SCM_RIGHTS).
const QueryKeep = "keep"

// Kinds of descriptors.
const (
	KeepTerminal = "terminal" // a terminal's master: its close is SIGHUP
	KeepStdin    = "stdin"    // the write end of a standard input: its close is the end of the input
)

// KeepLine tells of a descriptor of a container. Its number is unique as long as its supervisor lives.
type KeepLine struct {
	Number uint64 `json:"n,omitempty"`
	ID     string `json:"id,omitempty"`
	Kind   string `json:"kind,omitempty"` // the line carries the descriptor
	Drop   bool   `json:"drop,omitempty"` // the supervisor is about to close the descriptor
	Synced bool   `json:"synced,omitempty"`
}

// keepPatience is how long the other side may leave its socket full before it is cut off.
const keepPatience = time.Second

// SendKeep sends a line. fd is the descriptor of a line that has a kind.
func SendKeep(conn *net.UnixConn, line KeepLine, fd int) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	var rights []byte
	if line.Kind != "" {
		rights = unix.UnixRights(fd)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(keepPatience)); err != nil {
		return err
	}
	text = append(text, '\n')
	n, _, err := conn.WriteMsgUnix(text, rights, nil)
	if err == nil && n < len(text) {
		err = errors.New("the line was sent in part")
	}
	return err
}

// KeepReader reads the lines of SendKeep.
type KeepReader struct {
	conn *net.UnixConn
	text []byte // what is not read yet
	fds  []int  // those of the lines in text
}

// NewKeepReader returns a reader, which has to be closed; the connection is the caller's.
func NewKeepReader(conn *net.UnixConn) *KeepReader { return &KeepReader{conn: conn} }

// Next returns the next line, and the descriptor of one that has a kind, which is the caller's then; otherwise it is -1.
func (r *KeepReader) Next() (line KeepLine, fd int, err error) {
	const longest = 4 << 10
	for {
		if end := bytes.IndexByte(r.text, '\n'); end >= 0 {
			err := json.Unmarshal(r.text[:end], &line)
			r.text = r.text[end+1:]
			switch {
			case err != nil:
				return line, -1, fmt.Errorf("read what is to be kept: %w", err)
			case line.Kind == "":
				return line, -1, nil
			case len(r.fds) == 0: // too many descriptors are open
				return line, -1, fmt.Errorf("receive a %s of container %s: the descriptor is missing", line.Kind, line.ID)
			}
			fd, r.fds = r.fds[0], r.fds[1:]
			return line, fd, nil
		}
		if len(r.text) > longest {
			return line, -1, errors.New("read what is to be kept: the line is too long")
		}
		buf, rights := make([]byte, longest), make([]byte, unix.CmsgSpace(16*4))
		n, m, _, _, err := r.conn.ReadMsgUnix(buf, rights)
		r.text = append(r.text, buf[:max(n, 0)]...)
		messages, parseErr := unix.ParseSocketControlMessage(rights[:max(m, 0)])
		for i := range messages {
			if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
				r.fds = append(r.fds, fds...)
			}
		}
		if err = errors.Join(err, parseErr); err != nil {
			return line, -1, err
		}
	}
}

// Close closes the descriptors that Next has not returned.
func (r *KeepReader) Close() {
	for _, fd := range r.fds {
		_ = unix.Close(fd)
	}
	r.fds = nil
}

// Keeper holds descriptors for a supervisor, and hands them over to the next one, which Connect starts.
type Keeper struct {
	mu      sync.Mutex    // guards what follows
	current *keptSet      // nil: nothing yet
	done    chan struct{} // closed when the last supervisor has sent its last line; nil: there was no supervisor
}

// keptSet is what one connection to a supervisor has brought. They are plain numbers: os.File would have the runtime's
// poller wake up for every output of a terminal.
type keptSet struct {
	fds      map[uint64]keptFD
	replaced bool
}

type keptFD struct {
	line KeepLine
	fd   int
}

func (s *keptSet) close() {
	for _, kept := range s.fds {
		_ = unix.Close(kept.fd)
	}
	s.fds, s.replaced = nil, true
}

// Keep has the supervisor send what is to be kept, and returns when everything has come that the supervisor has. Later
// changes are followed until it is gone or ctx ends. What earlier supervisors have sent is closed. After an error it is tried
// again in the background, unless the supervisor does not know the query.
func (k *Keeper) Keep(ctx context.Context, s *Shim) error {
	conn, set, err := k.sync(ctx, s)
	if errdefs.IsNotFound(err) {
		return err
	}
	first := err
	done := make(chan struct{})
	k.mu.Lock()
	k.done = done
	k.mu.Unlock()
	go func() {
		defer close(done)
		for {
			if err == nil {
				k.follow(ctx, conn, set)
			}
			select {
			case <-s.Closed():
				return
			case <-time.After(keepPatience): // cut off: this process was stopped for a while
			}
			conn, set, err = k.sync(ctx, s)
		}
	}()
	return first
}

// keepConn is a connection for descriptors.
type keepConn struct {
	*KeepReader
	conn *net.UnixConn
}

func (c keepConn) close() {
	c.Close()
	_ = c.conn.Close()
}

func (k *Keeper) sync(ctx context.Context, s *Shim) (c keepConn, set *keptSet, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // a supervisor that is stopped must not stop its engine for ever
	defer cancel()
	conn, _, err := s.ask(ctx, AttachRequest{Query: QueryKeep})
	if err != nil {
		return c, nil, fmt.Errorf("keep descriptors for the supervisor: %w", err)
	}
	c = keepConn{NewKeepReader(conn), conn}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	set = &keptSet{fds: map[uint64]keptFD{}}
	for {
		line, fd, err := c.Next()
		if err != nil {
			c.close()
			set.close()
			return c, nil, fmt.Errorf("keep descriptors for the supervisor: %w", err)
		}
		if line.Synced {
			break
		}
		set.apply(line, fd)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil {
		k.current.close()
	}
	k.current = set
	return c, set, nil
}

// apply takes a line into account. The keeper's mu is held, or nobody else knows the set.
func (s *keptSet) apply(line KeepLine, fd int) {
	switch {
	case line.Kind != "" && s.replaced:
		_ = unix.Close(fd)
	case line.Kind != "":
		s.fds[line.Number] = keptFD{line, fd}
	case line.Drop:
		if kept, known := s.fds[line.Number]; known {
			delete(s.fds, line.Number)
			_ = unix.Close(kept.fd)
		}
	}
}

// follow takes changes into account until the connection or ctx ends.
func (k *Keeper) follow(ctx context.Context, c keepConn, set *keptSet) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer stop()
	defer c.close()
	for {
		line, fd, err := c.Next()
		if err != nil {
			return
		}
		k.mu.Lock()
		set.apply(line, fd)
		k.mu.Unlock()
	}
}

// Await returns when the last line of a supervisor that is gone has been read.
func (k *Keeper) Await(ctx context.Context) {
	k.mu.Lock()
	done := k.done
	k.mu.Unlock()
	if done == nil {
		return
	}
	patience := time.NewTimer(10 * time.Second) // for a supervisor that ends slowly
	defer patience.Stop()
	select {
	case <-done:
	case <-ctx.Done():
	case <-patience.C:
	}
}

// Close closes every descriptor.
func (k *Keeper) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil {
		k.current.close()
	}
}

// duplicates returns copies of all descriptors, the oldest first.
func (k *Keeper) duplicates() (all []keptFD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return nil
	}
	for _, kept := range k.current.fds {
		if fd, err := unix.FcntlInt(uintptr(kept.fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			all = append(all, keptFD{kept.line, fd})
		}
	}
	slices.SortFunc(all, func(a, b keptFD) int { return cmp.Compare(a.line.Number, b.line.Number) })
	return all
}

// handOver returns a file from which a supervisor that is about to be started reads all descriptors, or nil if there are
// none. sent is called when the supervisor has its own copy of the file.
func (k *Keeper) handOver() (file *os.File, send func(), err error) {
	if k == nil {
		return nil, func() {}, nil
	}
	all := k.duplicates()
	release := func() {
		for _, kept := range all {
			_ = unix.Close(kept.fd)
		}
	}
	if len(all) == 0 {
		return nil, func() {}, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		release()
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "kept")
	conn, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		release()
		return nil, nil, errors.Join(err, unix.Close(pair[1]))
	}
	file = os.NewFile(uintptr(pair[1]), "kept")
	return file, sync.OnceFunc(func() {
		_ = file.Close()
		go func() { // it ends with the supervisor, or after keepPatience
			defer release()
			defer func() { _ = conn.Close() }()
			for _, kept := range all {
				if err := SendKeep(conn.(*net.UnixConn), kept.line, kept.fd); err != nil {
					return
				}
			}
		}()
	}), nil
}
