package shim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gantry/internal/logs"
	"gantry/internal/shim/client"
	"gantry/rawfile"
)

// serveAttach answers the attach socket until it is closed.
func (s *Server) serveAttach(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors left, perhaps
			warn("accept an attach connection", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go func() {
			if err := s.attach(conn.(*net.UnixConn)); err != nil {
				warn("attach", err)
			}
		}()
	}
}

// attach serves one connection.
func (s *Server) attach(conn *net.UnixConn) error {
	const longest = 4 << 10
	in := bufio.NewReaderSize(conn, longest)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return errors.Join(err, conn.Close())
	}
	var r client.AttachRequest
	line, err := in.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read the request: %w", err), conn.Close())
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return errors.Join(err, conn.Close())
	}
	if r.Query == client.QueryList {
		return refuse(conn, client.AttachReply{IDs: s.ids()})
	}
	if r.Query == client.QueryOOM {
		return s.tellOOM(conn)
	}
	if r.Query == client.QueryKeep {
		return s.keeping.serve(conn)
	}
	_, p, err := s.find(r.ID, r.ExecID)
	switch {
	case err != nil:
		return refuse(conn, client.AttachReply{Error: err.Error(), NotFound: errdefs.IsNotFound(err)})
	case r.Query == client.QueryExit:
		var reply client.AttachReply
		if p.hasExited() {
			reply.Exit = &p.exit
		}
		return refuse(conn, reply)
	case r.Query != "":
		return refuse(conn, client.AttachReply{Error: fmt.Sprintf("unknown query %q", r.Query)})
	}
	p.streams.join(conn, in, r)
	return nil
}

// refuse gives an answer that is all.
func refuse(conn *net.UnixConn, reply client.AttachReply) error {
	return errors.Join(sendReply(conn, reply), conn.Close())
}

func sendReply(conn *net.UnixConn, reply client.AttachReply) error {
	line, err := json.Marshal(reply)
	if err == nil {
		_, err = conn.Write(append(line, '\n'))
	}
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) { // it has gone
		return nil
	}
	return err
}

// join makes the connection a client, and stays until it goes or the process ends.
func (s *streams) join(conn *net.UnixConn, in *bufio.Reader, r client.AttachRequest) {
	c, err := newAttached(conn, s.terminal)
	if err != nil {
		warn("attach", errors.Join(err, conn.Close()))
		return
	}
	c.wants[logs.Stdout], c.wants[logs.Stderr] = r.Stdout, r.Stderr
	c.mu.Lock() // the answer comes before the first output
	if !s.attach(c) {
		c.mu.Unlock()
		if err := refuse(conn, client.AttachReply{}); err != nil { // nothing will come
			warn("attach", err)
		}
		return
	}
	err = sendReply(conn, client.AttachReply{})
	c.mu.Unlock()
	if err == nil && r.Stdin {
		s.input(in)
	}
	if err == nil {
		awaitHangup(conn)
	}
	s.forget(c)
	c.close()
}

// awaitHangup returns when the other side has closed, not only ended what it sends.
func awaitHangup(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := rawfile.Poll(poll, 0)
		return err == nil && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
}
