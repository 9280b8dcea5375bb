package engine

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// trash removes directories in the background: a rename takes them away at once, whatever their size. What a killed
// engine did not get to is removed at the next start.
type trash struct {
	dir  string
	log  *slog.Logger
	todo chan string
	done chan struct{}
}

func openTrash(dir string, log *slog.Logger) (*trash, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open trash: %w", err)
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open trash: %w", err)
	}
	t := &trash{dir: dir, log: log, todo: make(chan string, len(old)+1024), done: make(chan struct{})}
	for _, entry := range old {
		t.todo <- filepath.Join(dir, entry.Name())
	}
	go t.run()
	return t, nil
}

func (t *trash) run() {
	defer close(t.done)
	for path := range t.todo {
		if err := os.RemoveAll(path); err != nil {
			t.log.Warn("a removed directory stays in the trash until the next start", "path", path, "error", err)
		}
	}
}

// remove takes the directory away; a missing one is no error.
func (t *trash) remove(path string) error {
	to := filepath.Join(t.dir, filepath.Base(path)+"-"+randomID()[:8])
	if err := os.Rename(path, to); err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", path, err)
	}
	t.todo <- to
	return nil
}

// close finishes what is under way and ends the worker. remove must not be called any more.
func (t *trash) close() {
	close(t.todo)
	<-t.done
}
