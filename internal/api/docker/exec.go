package docker

import (
	"errors"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"gantry/internal/detach"
	"gantry/internal/engine"
	"gantry/internal/logs"
)

func (s *server) execCreate(w *response, r *http.Request) error {
	var body container.ExecCreateRequest
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	if len(body.Cmd) == 0 {
		return badRequest("no exec command specified")
	}
	if _, err := detachKeys(body.DetachKeys); err != nil {
		return err
	}
	if w.version < v(42) {
		body.ConsoleSize = nil
	}
	id, err := s.backend.CreateExec(whole(r), r.PathValue("id"), body)
	if err != nil {
		return err
	}
	return w.json(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

// execStart runs the process and connects the client to it. If the command cannot be run, a client that is waiting for
// the stream is told there, as it shows the user nothing of an answer to the request itself; it asks for the exit code next.
func (s *server) execStart(w *response, r *http.Request) error {
	var body container.ExecStartRequest
	if err := readOptionalJSON(w, r, &body); err != nil {
		return err
	}
	if w.version < v(42) {
		body.ConsoleSize = nil
	}
	id := r.PathValue("id")
	stream, tty, err := s.backend.StartExec(whole(r), id, engine.ExecStart{Detach: body.Detach, TTY: body.Tty, Size: body.ConsoleSize})
	if body.Detach {
		if err == nil {
			w.WriteHeader(http.StatusOK)
		}
		return err
	}
	if err != nil {
		if errdefs.IsConflict(err) || errdefs.IsFailedPrecondition(err) {
			return err
		}
		if _, missing := s.backend.InspectExec(r.Context(), id); missing != nil {
			return err
		}
		return tell(w, r, body.Tty, err)
	}
	conn, err := upgrade(w, r, tty)
	if err != nil {
		return errors.Join(err, stream.Close())
	}
	relay(conn, stream, input(conn, true, tty, s.execKeys(r, id)))
	return nil
}

// execKeys are those by which a client leaves the process, as it asked for when the process was created.
func (s *server) execKeys(r *http.Request, id string) []byte {
	if e, err := s.backend.InspectExec(r.Context(), id); err == nil {
		if keys, err := detachKeys(string(e.DetachKeys)); err == nil {
			return keys
		}
	}
	return detach.DefaultKeys
}

// tell sends an error as the only output of a stream: on standard error, where the client's user looks for it.
func tell(w *response, r *http.Request, tty bool, cause error) error {
	conn, err := upgrade(w, r, tty)
	if err != nil {
		return err
	}
	line := cause.Error() + "\r\n"
	if tty {
		_, err = io.WriteString(conn, line)
	} else {
		_, err = conn.Write(appendFrame(nil, logs.Stderr, []byte(line)))
	}
	debugError("tell a client of an error", errors.Join(err, conn.Close()))
	return nil
}

func (s *server) execInspect(w *response, r *http.Request) error {
	e, err := s.backend.InspectExec(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, e)
}

func (s *server) execResize(w *response, r *http.Request) error {
	height, width, err := size(r.URL.Query())
	if err != nil {
		return err
	}
	if err := s.backend.ResizeExec(r.Context(), r.PathValue("id"), height, width); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
