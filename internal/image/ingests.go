package image

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// ingests is the directory of blobs that are coming in. The content store removes a blob's files there when it is told
// to abort, but not where it failed half-way itself (a full disk), and not those of a process that was killed. Nothing in
// there is of use once no transfer is under way.
type ingests struct {
	dir string

	mu     sync.Mutex // guards what follows, and the sweep
	active int        // transfers
	failed bool       // one of them, since the last sweep
}

// begin tells that a transfer starts; the returned function, that it has ended, and how. The last transfer to end
// sweeps if one has failed.
func (i *ingests) begin() (end func(err *error)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.active++
	return func(err *error) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.active--
		i.failed = i.failed || *err != nil
		if i.active == 0 && i.failed {
			i.sweep()
			i.failed = false
		}
	}
}

// sweep removes all of the directory's content; there is no transfer.
func (i *ingests) sweep() {
	entries, err := os.ReadDir(i.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(i.dir, e.Name())))
	}
	if err != nil {
		slog.Warn("what is left of transfers cannot be removed", "error", err)
	}
}
