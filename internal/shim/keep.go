package shim

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/shim/client"
)

// keeping sends what must outlive the supervisor to those who keep it: engines.
type keeping struct {
	mu      sync.Mutex // guards what follows; lines are sent under it, so that they come in order
	last    uint64     // number of the newest descriptor
	kept    map[uint64]kept
	keepers map[*net.UnixConn]struct{}
}

// kept is a descriptor of a container that is kept.
type kept struct {
	id, kind string
	file     *os.File
}

// keep has a file of a container kept. drop must be called before the file is closed: if the supervisor is killed between the
// two, nobody has the file then, which is what a close means.
type keep func(kind string, file *os.File) (drop func())

func kindOf(terminal bool) string {
	if terminal {
		return client.KeepTerminal
	}
	return client.KeepStdin
}

// of returns the keep of a container.
func (k *keeping) of(id string) keep {
	return func(kind string, file *os.File) func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.last++
		number := k.last
		if k.kept == nil {
			k.kept = map[uint64]kept{}
		}
		k.kept[number] = kept{id, kind, file}
		k.tell(func(conn *net.UnixConn) error { return send(conn, number, k.kept[number]) })
		return sync.OnceFunc(func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			delete(k.kept, number)
			k.tell(func(conn *net.UnixConn) error {
				return client.SendKeep(conn, client.KeepLine{Number: number, Drop: true}, -1)
			})
		})
	}
}

// tell sends to every keeper. One that does not read is cut off: its descriptors may be old ones. mu is held.
func (k *keeping) tell(send func(*net.UnixConn) error) {
	for conn := range k.keepers {
		if err := send(conn); err != nil {
			if !gone(err) {
				warn("have a descriptor kept", err)
			}
			delete(k.keepers, conn)
			_ = conn.Close()
		}
	}
}

func gone(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }

// send sends a descriptor.
func send(conn *net.UnixConn, number uint64, k kept) error {
	raw, err := k.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		sendErr = client.SendKeep(conn, client.KeepLine{Number: number, ID: k.id, Kind: k.kind}, int(fd))
	})
	return errors.Join(err, sendErr)
}

// serve answers the query for descriptors, until the client goes.
func (k *keeping) serve(conn *net.UnixConn) error {
	defer func() { _ = conn.Close() }()
	if err := k.join(conn); err != nil {
		if gone(err) {
			return nil
		}
		return err
	}
	awaitHangup(conn)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keepers, conn)
	return nil
}

// join sends what there is, and makes the client one that hears of changes.
func (k *keeping) join(conn *net.UnixConn) error {
	if err := sendReply(conn, client.AttachReply{}); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(k.kept)) {
		if err := send(conn, number, k.kept[number]); err != nil {
			return err
		}
	}
	if err := client.SendKeep(conn, client.KeepLine{Synced: true}, -1); err != nil {
		return err
	}
	if k.keepers == nil {
		k.keepers = map[*net.UnixConn]struct{}{}
	}
	k.keepers[conn] = struct{}{}
	return nil
}

// receiveKept receives what was kept of the containers of an earlier supervisor, by their ids. Of a container that was
// started again while a descendant held its old terminal, the newest counts.
func receiveKept(socket *os.File) map[string]kept {
	all := map[string]kept{}
	if socket == nil {
		return all
	}
	c, err := net.FileConn(socket)
	_ = socket.Close()
	if err != nil {
		warn("receive what was kept", err)
		return all
	}
	defer func() { _ = c.Close() }()
	conn, ok := c.(*net.UnixConn)
	if !ok {
		warn("receive what was kept", fmt.Errorf("%s is not a socket for descriptors", c.LocalAddr().Network()))
		return all
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		warn("receive what was kept", err)
		return all
	}
	r := client.NewKeepReader(conn)
	defer r.Close()
	for {
		line, fd, err := r.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				warn("receive what was kept", err)
			}
			return all
		}
		if line.Kind == "" {
			continue
		}
		if old, twice := all[line.ID]; twice {
			_ = old.file.Close()
		}
		all[line.ID] = kept{line.ID, line.Kind, os.NewFile(uintptr(fd), line.Kind)}
	}
}
