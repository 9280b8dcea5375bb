package cgroup

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// The few words of D-Bus that systemd has to be told, spoken directly: a D-Bus library's initialization would cost every
// start of the runtime more than this. See the D-Bus specification, "Message Protocol" and "Authentication Protocol".

// dbusBody is a message's body in the making; little-endian, each value aligned to its size.
type dbusBody []byte

func (b *dbusBody) align(n int) {
	for len(*b)%n != 0 {
		*b = append(*b, 0)
	}
}

func (b *dbusBody) uint32(n uint32) {
	b.align(4)
	*b = binary.LittleEndian.AppendUint32(*b, n)
}

func (b *dbusBody) uint64(n uint64) {
	b.align(8)
	*b = binary.LittleEndian.AppendUint64(*b, n)
}

func (b *dbusBody) bool(yes bool) {
	n := uint32(0)
	if yes {
		n = 1
	}
	b.uint32(n)
}

func (b *dbusBody) string(s string) { // or an object's path
	b.uint32(uint32(len(s)))
	*b = append(append(*b, s...), 0)
}

func (b *dbusBody) signature(s string) { *b = append(append(append(*b, byte(len(s))), s...), 0) }

// array writes what f writes as elements that are aligned to n; its length does not count the padding before them.
func (b *dbusBody) array(n int, f func()) {
	b.uint32(0)
	at := len(*b) - 4
	b.align(n)
	start := len(*b)
	f()
	binary.LittleEndian.PutUint32((*b)[at:], uint32(len(*b)-start))
}

// dbusMessage is a message that was received; of its body the leading strings and numbers are of interest.
type dbusMessage struct {
	kind                    byte // 2: reply, 3: error, 4: signal
	replyTo                 uint32
	member, name, signature string // name: of an error
	body                    []byte
}

// dbusError is an error that the other side answered with.
type dbusError struct{ name, text string }

func (e *dbusError) Error() string { return e.text + " (" + e.name + ")" }

// dbusConn is a connection to a bus, or to systemd itself.
type dbusConn struct {
	file    *os.File
	in      *bufio.Reader
	serial  uint32
	direct  bool          // without a bus in between: messages have no destination
	signals []dbusMessage // that came while a reply was awaited
}

func (c *dbusConn) close() { _ = c.file.Close() } // nothing to lose

// dialDBus connects to the first of the sockets that somebody listens on; the last one is systemd's own.
func dialDBus(ctx context.Context, sockets []string) (*dbusConn, error) {
	var errs []error
	for i, path := range sockets {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
		if err := rawfile.Retry(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) }); err != nil {
			_ = unix.Close(fd)
			errs = append(errs, fmt.Errorf("connect to %s: %w", path, err))
			continue
		}
		if err := unix.SetNonblock(fd, true); err != nil { // so that reads have deadlines
			_ = unix.Close(fd)
			return nil, fmt.Errorf("connect to %s: %w", path, err)
		}
		c := &dbusConn{file: os.NewFile(uintptr(fd), path), direct: i == len(sockets)-1}
		c.in = bufio.NewReader(c.file)
		end, bounded := ctx.Deadline()
		if !bounded {
			end = time.Now().Add(time.Minute)
		}
		if err := errors.Join(c.file.SetDeadline(end), c.greet()); err != nil {
			c.close()
			return nil, fmt.Errorf("greet %s: %w", path, err)
		}
		return c, nil
	}
	return nil, errors.Join(errs...)
}

// greet authenticates by the socket's credentials and, on a bus, asks for systemd's signals.
func (c *dbusConn) greet() error {
	if _, err := c.file.WriteString("\x00AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"); err != nil {
		return err
	}
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, "OK ") {
			break
		}
		if !strings.HasPrefix(line, "DATA") {
			return fmt.Errorf("authentication: %q", strings.TrimSpace(line))
		}
	}
	if c.direct {
		return nil
	}
	const bus = "org.freedesktop.DBus"
	if _, err := c.call(bus, "/org/freedesktop/DBus", bus, "Hello", "", nil); err != nil {
		return err
	}
	var match dbusBody
	match.string("type='signal',sender='" + systemdName + "',interface='" + managerName + "',member='JobRemoved'")
	if _, err := c.call(bus, "/org/freedesktop/DBus", bus, "AddMatch", "s", match); err != nil {
		return err
	}
	_, err := c.call(systemdName, systemdPath, managerName, "Subscribe", "", nil)
	return err
}

// call calls a method and returns the reply.
func (c *dbusConn) call(to, path, iface, member, signature string, body dbusBody) (dbusMessage, error) {
	c.serial++
	m := dbusBody{'l', 1, 0, 1}
	m.uint32(uint32(len(body)))
	m.uint32(c.serial)
	m.array(8, func() {
		field := func(code byte, kind, value string) {
			if value == "" {
				return
			}
			m.align(8)
			m = append(m, code)
			m.signature(kind)
			if kind == "g" {
				m.signature(value)
				return
			}
			m.string(value)
		}
		field(1, "o", path)
		field(2, "s", iface)
		field(3, "s", member)
		if !c.direct {
			field(6, "s", to)
		}
		field(8, "g", signature)
	})
	m.align(8)
	if _, err := c.file.Write(append(m, body...)); err != nil {
		return dbusMessage{}, fmt.Errorf("%s: %w", member, err)
	}
	for {
		reply, err := c.receive()
		if err != nil {
			return reply, fmt.Errorf("%s: %w", member, err)
		}
		switch {
		case reply.kind == 4:
			c.signals = append(c.signals, reply)
		case reply.replyTo != c.serial:
		case reply.kind == 3:
			e := &dbusError{name: reply.name}
			if strings.HasPrefix(reply.signature, "s") {
				e.text, _, _ = dbusString(reply.body, 0)
			}
			return reply, fmt.Errorf("%s: %w", member, e)
		default:
			return reply, nil
		}
	}
}

// signal returns the next signal.
func (c *dbusConn) signal() (dbusMessage, error) {
	for len(c.signals) == 0 {
		m, err := c.receive()
		if err != nil {
			return m, err
		}
		if m.kind == 4 {
			c.signals = append(c.signals, m)
		}
	}
	m := c.signals[0]
	c.signals = c.signals[1:]
	return m, nil
}

var errDBus = errors.New("malformed D-Bus message")

// receive reads one message.
func (c *dbusConn) receive() (m dbusMessage, err error) {
	var head [16]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return m, err
	}
	body, fields := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[12:])
	if head[0] != 'l' || head[3] != 1 || body > 1<<24 || fields > 1<<20 {
		return m, errDBus
	}
	m.kind = head[1]
	padded := (fields + 7) &^ 7
	rest := make([]byte, padded+body)
	if _, err := io.ReadFull(c.in, rest); err != nil {
		return m, err
	}
	m.body = rest[padded:]
	return m, m.parse(rest[:fields])
}

// parse reads the header's fields: a byte for which, a signature, a value.
func (m *dbusMessage) parse(b []byte) error {
	for at := 0; at < len(b); at = (at + 7) &^ 7 {
		code := b[at]
		kind, next, ok := dbusSignature(b, at+1)
		if !ok {
			return errDBus
		}
		var text string
		switch kind {
		case "s", "o":
			text, at, ok = dbusString(b, next)
		case "g":
			text, at, ok = dbusSignature(b, next)
		case "u":
			next = (next + 3) &^ 3
			if ok = next+4 <= len(b); ok {
				at = next + 4
				if code == 5 {
					m.replyTo = binary.LittleEndian.Uint32(b[next:])
				}
			}
		default:
			ok = false
		}
		if !ok {
			return errDBus
		}
		switch code {
		case 3:
			m.member = text
		case 4:
			m.name = text
		case 8:
			m.signature = text
		}
	}
	return nil
}

func dbusString(b []byte, at int) (s string, next int, ok bool) {
	at = (at + 3) &^ 3
	if at+4 > len(b) {
		return "", 0, false
	}
	n := int(binary.LittleEndian.Uint32(b[at:]))
	if at += 4; n >= len(b)-at { // and a zero byte
		return "", 0, false
	}
	return string(b[at : at+n]), at + n + 1, true
}

func dbusSignature(b []byte, at int) (s string, next int, ok bool) {
	if at >= len(b) || at+1+int(b[at]) >= len(b) {
		return "", 0, false
	}
	end := at + 1 + int(b[at])
	return string(b[at+1 : end]), end + 1, true
}
