package shim

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"time"

	"github.com/containerd/containerd/api/events"
	eventservice "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// topics are the names that containerd gives the events.
var topics = map[reflect.Type]string{
	reflect.TypeFor[*events.TaskCreate]():      "/tasks/create",
	reflect.TypeFor[*events.TaskStart]():       "/tasks/start",
	reflect.TypeFor[*events.TaskOOM]():         "/tasks/oom",
	reflect.TypeFor[*events.TaskExit]():        "/tasks/exit",
	reflect.TypeFor[*events.TaskDelete]():      "/tasks/delete",
	reflect.TypeFor[*events.TaskExecAdded]():   "/tasks/exec-added",
	reflect.TypeFor[*events.TaskExecStarted](): "/tasks/exec-started",
	reflect.TypeFor[*events.TaskPaused]():      "/tasks/paused",
	reflect.TypeFor[*events.TaskResumed]():     "/tasks/resumed",
}

// maxQueued bounds the events that wait for a listener; the oldest go first.
const maxQueued = 2048

// publisher forwards events in order, and keeps them while nobody listens.
type publisher struct {
	address, namespace string
	queue              chan *types.Envelope
}

func newPublisher(c Config) *publisher {
	p := &publisher{address: c.Events, namespace: c.Namespace}
	if c.Events != "" {
		p.queue = make(chan *types.Envelope, maxQueued)
	}
	return p
}

// publish queues an event; it never blocks.
func (p *publisher) publish(event proto.Message) {
	if p.queue == nil {
		return
	}
	value, err := proto.Marshal(event)
	if err != nil {
		warn("encode an event", err)
		return
	}
	e := &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: p.namespace, Topic: topics[reflect.TypeOf(event)],
		// Containerd's type URLs are the names without a host; see typeurl.
		Event: &anypb.Any{TypeUrl: string(event.ProtoReflect().Descriptor().FullName()), Value: value},
	}
	for {
		select {
		case p.queue <- e:
			return
		default:
		}
		select {
		case <-p.queue:
		default:
		}
	}
}

// run forwards until ctx ends, with one connection that it makes again when it breaks.
func (p *publisher) run(ctx context.Context) {
	var conn *ttrpc.Client
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	for {
		var e *types.Envelope
		select {
		case <-ctx.Done():
			return
		case e = <-p.queue:
		}
		for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			var err error
			if conn, err = p.forward(ctx, conn, e); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}
}

func (p *publisher) forward(ctx context.Context, conn *ttrpc.Client, e *types.Envelope) (*ttrpc.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if conn == nil {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", p.address)
		if err != nil {
			return nil, fmt.Errorf("connect to the events service: %w", err)
		}
		conn = ttrpc.NewClient(c)
	}
	if _, err := eventservice.NewTTRPCEventsClient(conn).Forward(ctx, &eventservice.ForwardRequest{Envelope: e}); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("forward an event: %w", err)
	}
	return conn, nil
}
