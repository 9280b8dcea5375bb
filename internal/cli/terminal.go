package cli

import (
	"context"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminalOf returns the descriptor of stream when it is a terminal.
func terminalOf(stream any) (fd int, ok bool) {
	file, isFile := stream.(*os.File)
	if !isFile {
		return -1, false
	}
	fd = int(file.Fd())
	return fd, term.IsTerminal(fd)
}

// rawTerminal puts the input into raw mode if it is a terminal; the returned function restores it.
func rawTerminal(in io.Reader) (restore func(), err error) {
	fd, ok := terminalOf(in)
	if !ok {
		return func() {}, nil
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, before) }, nil
}

// terminalSize returns height and width of the terminal behind out, zeros when it is none.
func terminalSize(out io.Writer) (height, width uint) {
	fd, ok := terminalOf(out)
	if !ok {
		return 0, 0
	}
	w, h, err := term.GetSize(fd)
	if err != nil {
		return 0, 0
	}
	return uint(h), uint(w)
}

// followSize tells resize the size of the terminal, now and whenever it changes, until ctx ends.
func followSize(ctx context.Context, out io.Writer, resize func(height, width uint)) {
	if _, ok := terminalOf(out); !ok {
		return
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		defer signal.Stop(changed)
		for {
			if h, w := terminalSize(out); h != 0 || w != 0 {
				resize(h, w)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
}
