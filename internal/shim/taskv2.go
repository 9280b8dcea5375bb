package shim

import (
	"context"

	"github.com/containerd/ttrpc"
)

// registerV2 offers the service under its older name too, which containerd asks for if a shim's start prints a plain
// address. The messages of the two versions are the same on the wire.
func registerV2(rpc *ttrpc.Server, s service) {
	rpc.RegisterService("containerd.task.v2.Task", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State": unary(s.State), "Create": unary(s.Create), "Start": unary(s.Start), "Delete": unary(s.Delete), "Pids": unary(s.Pids),
		"Pause": unary(s.Pause), "Resume": unary(s.Resume), "Checkpoint": unary(s.Checkpoint), "Kill": unary(s.Kill), "Exec": unary(s.Exec),
		"ResizePty": unary(s.ResizePty), "CloseIO": unary(s.CloseIO), "Update": unary(s.Update), "Wait": unary(s.Wait), "Stats": unary(s.Stats),
		"Connect": unary(s.Connect), "Shutdown": unary(s.Shutdown),
	}})
}

func unary[Request, Response any](call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		r := new(Request)
		if err := unmarshal(r); err != nil {
			return nil, err
		}
		return call(ctx, r)
	}
}
