package engine

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
)

// bus hands events to whoever listens, and keeps the last ones for those who ask for the past.
type bus struct {
	mu        sync.Mutex // guards what follows
	past      []events.Message
	listeners map[chan events.Message]struct{}
}

const (
	keptEvents     = 1024
	listenerBuffer = 1024
)

var errSlowListener = errors.New("events came faster than they were read")

func newBus() *bus { return &bus{listeners: map[chan events.Message]struct{}{}} }

func (b *bus) publish(kind events.Type, action events.Action, id string, attributes map[string]string) {
	now := time.Now()
	m := events.Message{
		Type: kind, Action: action, Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano(),
		Actor: events.Actor{ID: id, Attributes: attributes},
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.past) >= keptEvents {
		b.past = append(b.past[:0], b.past[len(b.past)-keptEvents/2:]...)
	}
	b.past = append(b.past, m)
	for l := range b.listeners {
		select {
		case l <- m:
		default:
			delete(b.listeners, l)
			close(l)
		}
	}
}

// subscribe returns the events of the past and a channel of those that follow, without a gap between them. The channel
// is closed if its reader falls behind.
func (b *bus) subscribe() (past []events.Message, live chan events.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	live = make(chan events.Message, listenerBuffer)
	b.listeners[live] = struct{}{}
	return append(past, b.past...), live
}

func (b *bus) unsubscribe(live chan events.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.listeners, live)
}

func (b *bus) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.listeners)
}

// Events calls each for the selected events in order; see EventQuery. It returns nil when Until has passed.
func (e *Engine) Events(ctx context.Context, q EventQuery, each func(events.Message) error) error {
	match, err := eventFilter(q.Filters)
	if err != nil {
		return err
	}
	past, live := e.events.subscribe()
	defer e.events.unsubscribe(live)
	if !q.Since.IsZero() || !q.Until.IsZero() {
		for _, m := range past {
			at := time.Unix(0, m.TimeNano)
			if at.Before(q.Since) || (!q.Until.IsZero() && at.After(q.Until)) || !match(m) {
				continue
			}
			if err := each(m); err != nil {
				return err
			}
		}
	}
	var until <-chan time.Time
	if !q.Until.IsZero() {
		timer := time.NewTimer(time.Until(q.Until))
		defer timer.Stop()
		until = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.ctx.Done():
			return nil
		case <-until:
			return nil
		case m, ok := <-live:
			if !ok {
				return errors.Join(errSlowListener, each(e.listenerLost()))
			}
			if !match(m) {
				continue
			}
			if err := each(m); err != nil {
				return err
			}
		}
	}
}

// listenerLost is the last event of a listener that is too slow: whoever reads on learns that events are missing.
func (e *Engine) listenerLost() events.Message {
	now := time.Now()
	return events.Message{
		Type: events.DaemonEventType, Action: "lost", Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano(),
		Actor: events.Actor{ID: e.id, Attributes: map[string]string{"message": errSlowListener.Error() + ": those that follow are missing; ask for them with --since"}},
	}
}

// containerEvent publishes an event of a container with docker's attributes: labels, image, name, and extra pairs.
func (e *Engine) containerEvent(c *Container, action events.Action, extra ...string) {
	c.mu.Lock()
	attributes := maps.Clone(c.record.Config.Labels)
	if attributes == nil {
		attributes = map[string]string{}
	}
	attributes["image"], attributes["name"] = c.record.Config.Image, c.record.Name
	c.mu.Unlock()
	for i := 0; i+1 < len(extra); i += 2 {
		attributes[extra[i]] = extra[i+1]
	}
	e.events.publish(events.ContainerEventType, action, c.ID, attributes)
}
