// Package criu drives the program criu, which writes processes to files and makes processes of them, by its "swrk" mode:
// one request over a socket pair. The messages are those of criu's rpc.proto.
package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
)

// Kind is what is asked of criu.
type Kind int

const (
	Dump         Kind = 1
	Restore      Kind = 2
	PreDump      Kind = 4
	notify       Kind = 6
	FeatureCheck Kind = 9
	Version      Kind = 10
)

func (k Kind) String() string {
	if name, known := map[Kind]string{Dump: "dump", Restore: "restore", PreDump: "pre-dump", notify: "notify", FeatureCheck: "feature check", Version: "version"}[k]; known {
		return name
	}
	return fmt.Sprintf("request %d", int(k))
}

// Request is one run of criu.
type Request struct {
	Program string // "": criu in PATH
	Kind    Kind
	Options *Options // of a dump or a restore
	// Files are the descriptors 4, 5, … of criu, and Stdio 0, 1 and 2: those of a restored process.
	Files []*os.File
	Stdio [3]*os.File
	// Start, if there is one, is called to start criu, by calling its argument: on the thread that criu is to come from.
	Start func(start func() error) error
	// Started is called when criu runs and has been asked nothing yet; it may complete the options.
	Started func(pid int) error
	// Notify is told of every stage; the file, if any, is the callee's.
	Notify func(script string, pid int, file *os.File) error
}

// Answer is criu's.
type Answer struct {
	Pid                 int // of a restored process
	Major, Minor, Patch int // of criu
	MemTrack, LazyPages bool
}

// AtLeast compares versions.
func (a *Answer) AtLeast(major, minor int) bool {
	return a.Major > major || a.Major == major && a.Minor >= minor
}

// Do runs criu and returns its answer to the request.
func (r *Request) Do(ctx context.Context) (_ *Answer, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("criu %s: socket pair: %w", r.Kind, err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "criu"), os.NewFile(uintptr(pair[1]), "criu's end")
	defer ours.Close()
	program := r.Program
	if program == "" {
		program = "criu"
	}
	cmd := exec.CommandContext(ctx, program, "swrk", "3")
	cmd.WaitDelay = time.Second // for what others write who have its standard error
	cmd.ExtraFiles = append([]*os.File{theirs}, r.Files...)
	var said bytes.Buffer
	if r.Stdio[2] == nil {
		cmd.Stdout, cmd.Stderr = io.Discard, &limited{&said, 64 << 10}
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = r.Stdio[0], r.Stdio[1], r.Stdio[2]
	}
	if r.Start != nil {
		err = r.Start(cmd.Start)
	} else {
		err = cmd.Start()
	}
	err = errors.Join(err, theirs.Close()) // so that its end is the end of the stream
	if err != nil {
		return nil, fmt.Errorf("criu %s: %w", r.Kind, err)
	}
	ended := make(chan error)
	go func() { // its end may not be that of the stream: what it has begun to restore has the socket, too
		err := cmd.Wait()
		_ = unix.Shutdown(int(ours.Fd()), unix.SHUT_RDWR) // what it has said can still be read
		ended <- err
	}()
	answer, err := r.talk(ours, cmd.Process.Pid)
	if err != nil {
		_ = unix.Shutdown(int(ours.Fd()), unix.SHUT_RDWR) // it ends, having nobody to serve
	} else {
		_ = unix.Shutdown(int(ours.Fd()), unix.SHUT_WR)
	}
	waitErr := <-ended
	if state := cmd.ProcessState; err != nil && state.Sys().(syscall.WaitStatus).Signaled() {
		err = fmt.Errorf("%w (%s)", err, state)
	}
	switch {
	case err != nil && said.Len() > 0:
		return nil, fmt.Errorf("criu %s: %w: %s", r.Kind, err, oneLine(said.String()))
	case err != nil:
		return nil, fmt.Errorf("criu %s: %w", r.Kind, err)
	case waitErr != nil && r.Kind != PreDump && r.Kind != Restore: // after a pre-dump it waits for more and is cut off
		return nil, fmt.Errorf("criu %s: %w", r.Kind, waitErr)
	}
	return answer, nil
}

func (r *Request) talk(conn *os.File, pid int) (*Answer, error) {
	if r.Started != nil {
		if err := r.Started(pid); err != nil {
			return nil, err
		}
	}
	if _, err := conn.Write(r.encode()); err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	for {
		kind, answer, err := r.read(conn)
		if err != nil {
			return nil, err
		}
		switch kind {
		case notify:
			reply := &message{}
			reply.number(1, int64(notify))
			reply.flag(3, true)
			if _, err := conn.Write(*reply); err != nil {
				return nil, fmt.Errorf("answer a notification: %w", err)
			}
		case r.Kind:
			return answer, nil
		default:
			return nil, fmt.Errorf("unexpected answer to a %s", kind)
		}
	}
}

func (r *Request) encode() []byte {
	m := &message{}
	m.number(1, int64(r.Kind))
	if r.Options != nil {
		m.bytes(2, r.Options.encode())
	}
	if r.Kind == FeatureCheck {
		features := &message{}
		features.flag(1, true)
		features.flag(2, true)
		m.bytes(5, *features)
	}
	return *m
}

// read reads one message, and passes on what it tells of.
func (r *Request) read(conn *os.File) (Kind, *Answer, error) {
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*16))
	var n, oobn, flags int
	err := rawfile.Retry(func() (err error) {
		n, oobn, flags, _, err = unix.Recvmsg(int(conn.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	file := received(oob[:oobn])
	taken := false
	defer func() {
		if file != nil && !taken {
			_ = file.Close() // nobody wants it
		}
	}()
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("read its answer: %w", err)
	case n == 0:
		return 0, nil, errors.New("it ended without an answer")
	case flags&unix.MSG_TRUNC != 0:
		return 0, nil, errors.New("its answer is too long")
	}
	resp, err := fields(buf[:n])
	if err != nil {
		return 0, nil, fmt.Errorf("read its answer: %w", err)
	}
	kind := Kind(resp[1].number)
	if kind == notify {
		told, err := fields(resp[5].bytes)
		if err != nil {
			return 0, nil, fmt.Errorf("read its notification: %w", err)
		}
		if r.Notify == nil {
			return kind, nil, nil
		}
		taken = true
		return kind, nil, r.Notify(string(told[1].bytes), int(int32(told[2].number)), file)
	}
	if resp[2].number == 0 {
		return 0, nil, failure(kind, resp)
	}
	answer, err := decode(resp)
	return kind, answer, err
}

func failure(kind Kind, resp map[int]field) error {
	text := string(resp[9].bytes)
	if errno := unix.Errno(resp[7].number); errno != 0 {
		text = strings.TrimPrefix(text+": "+errno.Error(), ": ")
	}
	if text == "" {
		text = "no reason given"
	}
	return fmt.Errorf("%s failed: %s", kind, text)
}

func decode(resp map[int]field) (*Answer, error) {
	restored, err1 := fields(resp[4].bytes)
	features, err2 := fields(resp[8].bytes)
	version, err3 := fields(resp[10].bytes)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return &Answer{
		Pid: int(int32(restored[1].number)), MemTrack: features[1].number != 0, LazyPages: features[2].number != 0,
		Major: int(version[1].number), Minor: int(version[2].number), Patch: int(version[4].number),
	}, nil
}

// received is the descriptor that came with a message, or nil.
func received(oob []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var file *os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "from criu")
			if file == nil {
				file = f
			} else {
				_ = f.Close() // criu sends one
			}
		}
	}
	return file
}

// limited keeps the first bytes that are written, and passes over the rest.
type limited struct {
	to   *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.to.Write(p[:n])
	return len(p), nil
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(strings.TrimSpace(text), func(r rune) bool { return r == '\n' }), "; ")
}
