package engine

import (
	"errors"

	"github.com/containerd/errdefs/pkg/errgrpc"
	rpc "google.golang.org/grpc/status"
)

// ErrNotModified says that what was asked for is so already: a start of a running container, a stop of a stopped one.
var ErrNotModified = errors.New("not modified")

// told is an error of the supervisor: its words, and its class.
type told struct {
	text  string
	class error
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.class }

// native gives an error of the supervisor its class back. Its text is said once, not once for each error that it wraps.
func native(err error) error {
	if _, answered := rpc.FromError(err); !answered {
		return err // not an answer: of the connection, or native already
	}
	class := errgrpc.ToNative(err)
	if s, ok := rpc.FromError(err); ok && class != nil {
		return &told{s.Message(), class}
	}
	return class
}
