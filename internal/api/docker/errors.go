package docker

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"

	"gantry/internal/engine"
	"gantry/internal/printable"
)

// badRequest is an error of the client's making.
func badRequest(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Errorf(format, args...).Error())
}

// missing answers a route that the API has and this engine has not, or not yet.
func missing(what string) handler {
	return func(*response, *http.Request) error { return notImplemented(what) }
}

func notImplemented(what string) error {
	return errdefs.ErrNotImplemented.WithMessage(what + " is not implemented by this engine")
}

// notFound answers a path that no route has.
func notFound(*response, *http.Request) error {
	return errdefs.ErrNotFound.WithMessage("page not found")
}

// noSwarm answers the cluster's routes as an engine outside of a swarm does.
func noSwarm(*response, *http.Request) error {
	return errdefs.ErrUnavailable.WithMessage("this engine is not a swarm manager: it runs containers on one machine only")
}

// statusOf maps an error's class to a status, as Backend documents.
func statusOf(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, engine.ErrNotModified):
		return http.StatusNotModified
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errdefs.IsNotFound(err):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err):
		return http.StatusBadRequest
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err):
		return http.StatusConflict
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsNotImplemented(err):
		return http.StatusNotImplemented
	case errdefs.IsUnavailable(err):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// fail answers with an error, {"message": …}. After the answer has begun it can only be logged, and the connection is
// broken so that the client does not take what it got for the whole.
func (w *response) fail(r *http.Request, err error) {
	status := statusOf(err)
	if status == http.StatusInternalServerError && r.Context().Err() == nil {
		slog.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	switch {
	case w.hijacked:
	case w.started:
		panic(http.ErrAbortHandler)
	case status == http.StatusNotModified:
		w.WriteHeader(status)
	default:
		w.Header().Del("Content-Length")
		if err := w.json(status, common.ErrorResponse{Message: printable.Text(err.Error())}); err != nil {
			slog.Debug("error answer was not sent", "path", r.URL.Path, "error", err)
		}
	}
}
