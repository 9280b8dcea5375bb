// Package idle gives memory back to the system when a daemon has had nothing to do for a while: its heap may then grow
// freely while it is busy, which saves processor time, and be small while it waits, which is most of the time.
package idle

import (
	"runtime/debug"
	"sync"
	"time"
)

// Trimmer frees memory once after every busy time.
type Trimmer struct {
	after time.Duration
	free  func()

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

// New returns a trimmer that frees memory when Touch has not been called for the given time.
func New(after time.Duration) *Trimmer {
	return &Trimmer{after: after, free: debug.FreeOSMemory}
}

// Touch tells that there is something to do.
func (t *Trimmer) Touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		t.timer = time.AfterFunc(t.after, t.free)
		return
	}
	t.timer.Reset(t.after)
}
