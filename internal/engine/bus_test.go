package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/moby/moby/api/types/events"
)

// TestSlowListener: a listener that does not read is cut off behind what is buffered for it, and told.
func TestSlowListener(t *testing.T) {
	e := &Engine{events: newBus(), ctx: t.Context(), id: "engine"}
	listening, goOn := make(chan struct{}), make(chan struct{})
	result := make(chan error)
	var got []events.Message
	go func() {
		result <- e.Events(context.Background(), EventQuery{}, func(m events.Message) error {
			if got = append(got, m); len(got) == 1 {
				close(listening)
				<-goOn
			}
			return nil
		})
	}()
	for e.events.count() == 0 { // until it listens
	}
	const sent = 2*listenerBuffer + 1
	e.events.publish(events.ContainerEventType, "first", "c", nil)
	<-listening
	for i := range sent {
		e.events.publish(events.ContainerEventType, events.Action(fmt.Sprint(i)), "c", nil)
	}
	if n := e.events.count(); n != 0 {
		t.Errorf("%d listeners are left", n)
	}
	close(goOn)
	if err := <-result; !errors.Is(err, errSlowListener) {
		t.Errorf("end: %v", err)
	}
	if n := len(got); n != 1+listenerBuffer+1 || got[n-2].Action != events.Action(fmt.Sprint(listenerBuffer-1)) {
		t.Errorf("%d events", n)
	}
	if last := got[len(got)-1]; last.Type != events.DaemonEventType || last.Action != "lost" || last.Actor.Attributes["message"] == "" {
		t.Errorf("the last event is %+v", last)
	}
}
