package docker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types"
	"golang.org/x/sys/unix"

	"gantry/internal/detach"
	"gantry/internal/engine"
	"gantry/rawfile"
)

// streamMedia is the type of a container's output on the wire. Before 1.42 frames went by the raw stream's name.
func streamMedia(version apiVersion, tty bool) string {
	if !tty && version >= v(42) {
		return types.MediaTypeMultiplexedStream
	}
	return types.MediaTypeRawStream
}

// connection is one taken over from HTTP. What the client had sent early is read first.
type connection struct {
	net.Conn
	reader io.Reader
}

func (c *connection) Read(p []byte) (int, error) { return c.reader.Read(p) }

// upgrade takes the connection over and sends the header: 101 if the client asked to change the protocol, else 200.
func upgrade(w *response, r *http.Request, tty bool) (*connection, error) {
	asked := r.Header.Get("Upgrade") != ""
	conn, buffered, err := w.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	var b strings.Builder
	if asked {
		b.WriteString("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n")
	} else {
		b.WriteString("HTTP/1.1 200 OK\r\n")
	}
	fmt.Fprintf(&b, "Content-Type: %s\r\n", streamMedia(w.version, tty))
	for _, key := range []string{"Api-Version", "Ostype", "Docker-Experimental", "Server"} {
		fmt.Fprintf(&b, "%s: %s\r\n", key, w.Header().Get(key))
	}
	b.WriteString("\r\n")
	err = conn.SetDeadline(time.Time{}) // the server's timeouts are for requests, not for sessions
	if err == nil {
		_, err = io.WriteString(conn, b.String())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin the raw stream: %w", err), conn.Close())
	}
	return &connection{Conn: conn, reader: buffered.Reader}, nil
}

// lingerTime is how long a client may take to close its end after the output has ended.
const lingerTime = time.Second

// relay carries bytes both ways until the process's output ends or the client is gone; then it closes both. The end of
// the client's input (stdin, read from conn) is passed on and ends nothing else, unless it detaches. If it is nil, the client's bytes are dropped.
func relay(conn *connection, s engine.Stream, stdin io.Reader) {
	var closing sync.Once
	end := func() { closing.Do(func() { debugError("close a container's stream", s.Close()) }) }
	var input sync.WaitGroup
	input.Go(func() {
		if stdin != nil {
			_, err := io.Copy(s, stdin)
			debugError("carry a container's input", err)
			if errors.Is(err, detach.ErrDetached) {
				end()
				return
			}
			debugError("close a container's input", s.CloseWrite())
		}
		// A process may end before its input. To leave the rest unread would reset the connection and lose output.
		_, err := io.Copy(io.Discard, conn)
		if err != nil || gone(conn.Conn) {
			end()
		}
	})
	_, err := io.Copy(conn, s)
	debugError("carry a container's output", err)
	end()
	if c, ok := conn.Conn.(interface{ CloseWrite() error }); ok {
		debugError("end a client's output", c.CloseWrite())
		debugError("set a deadline", conn.SetReadDeadline(time.Now().Add(lingerTime)))
		input.Wait()
	}
	debugError("close a client's connection", conn.Close()) // also ends the reading of input
	input.Wait()
}

// debugError logs what is normal when either side leaves first.
func debugError(what string, err error) {
	if err != nil {
		slog.Debug(what, "error", err)
	}
}

// gone waits until the connection is closed: true if the client closed its end altogether and false if this side did.
// A client that only ended its input is waited for without a thread, in the runtime's poller. TCP does not tell a full close
// from the end of the input: there the next write finds out.
func gone(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	hungUp := false
	err = raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := rawfile.Poll(p, 0); err != nil || n == 0 {
			return err != nil
		}
		hungUp = p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return hungUp || p[0].Revents&unix.POLLNVAL != 0
	})
	return err == nil && hungUp
}

// containerAttach connects the client to a container's main process.
func (s *server) containerAttach(w *response, r *http.Request) error {
	q := r.URL.Query()
	o := engine.AttachOptions{
		Stdin: boolean(q, "stdin"), Stdout: boolean(q, "stdout"), Stderr: boolean(q, "stderr"),
		Logs: boolean(q, "logs"), Stream: boolean(q, "stream"),
	}
	keys, err := detachKeys(q.Get("detachKeys"))
	if err != nil {
		return err
	}
	stream, tty, err := s.backend.AttachContainer(r.Context(), r.PathValue("id"), o)
	if err != nil {
		return err
	}
	conn, err := upgrade(w, r, tty)
	if err != nil {
		return errors.Join(err, stream.Close())
	}
	relay(conn, stream, input(conn, o.Stdin, tty, keys))
	return nil
}

func detachKeys(text string) ([]byte, error) {
	keys, err := detach.ParseKeys(text)
	if err != nil {
		return nil, badRequest("%w", err)
	}
	return keys, nil
}

// input is what a client types, up to the keys by which it detaches from a terminal; nil without stdin.
func input(conn *connection, stdin, tty bool, keys []byte) io.Reader {
	switch {
	case !stdin:
		return nil
	case tty:
		return detach.NewReader(conn, keys)
	}
	return conn
}
