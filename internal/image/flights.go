package image

import (
	"context"
	"sync"
)

// flights let one caller at a time work on a key: the second waits, and then finds the work done, or does it itself if
// the first gave up. Nobody depends on another's context or lease.
type flights struct {
	mu   sync.Mutex // guards busy
	busy map[string]*flight
}

type flight struct {
	turn    chan struct{} // holds one token while nobody works
	callers int           // working or waiting
}

// board waits for the turn of a key; waits is called if there is something to wait for, and may be nil.
func (f *flights) board(ctx context.Context, key string, waits func()) (leave func(), err error) {
	f.mu.Lock()
	if f.busy == nil {
		f.busy = map[string]*flight{}
	}
	one := f.busy[key]
	if one == nil {
		one = &flight{turn: make(chan struct{}, 1)}
		one.turn <- struct{}{}
		f.busy[key] = one
	}
	one.callers++
	wait := one.callers > 1
	f.mu.Unlock()
	done := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if one.callers--; one.callers == 0 {
			delete(f.busy, key)
		}
	}
	if wait && waits != nil {
		waits()
	}
	select {
	case <-one.turn:
	case <-ctx.Done():
		done()
		return nil, context.Cause(ctx)
	}
	return func() {
		one.turn <- struct{}{}
		done()
	}, nil
}
